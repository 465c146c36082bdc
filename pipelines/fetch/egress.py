"""Where a request may go: judged by the address that a connection is about to be made to, after DNS and for every hop.

`ipaddress.is_global` is not enough: it passes NAT64 and 6to4 addresses, which embed any IPv4 address. So IPv6 is what
is allocated as global unicast, less what is set aside there, and every other form is refused. Names are never judged:
whoever names an address inside decides what a name resolves to, a moment later to another one.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Protocol

from pipelines import urls
from pipelines.reasons import Reason

PORTS = frozenset((80, 443, 8080, 8443))
# IANA special-purpose address registries; multicast and what is reserved; and what clouds answer themselves though it
# looks public: Azure's platform, and the services of IBM's. The metadata of all others lie in link-local, shared,
# protocol and unique-local space.
REFUSED_V4 = tuple(
    ipaddress.IPv4Network(text)
    for text in (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
        "192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24", "192.168.0.0/16", "192.175.48.0/24",
        "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4", "168.63.129.16/32",
        "161.26.0.0/16", "166.8.0.0/14",
    )
)  # fmt: skip
UNICAST_V6 = ipaddress.IPv6Network("2000::/3")  # RFC 4291: all that is allocated; ULA, site-local, NAT64 lie outside
REFUSED_V6 = tuple(
    ipaddress.IPv6Network(text)
    # protocol assignments with Teredo and benchmarking, documentation, 6to4, AS112, documentation (RFC 9637)
    for text in ("2001::/23", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3fff::/20")
)


class Egress(Protocol):
    """A rule on addresses."""

    def allows(self, ip: str, port: int) -> bool:
        """Whether a connection to this address (as text, IPv6 without brackets) may be made."""


@dataclass(frozen=True, slots=True)
class Public:
    """Public unicast addresses and the ports of the web."""

    def allows(self, ip: str, port: int) -> bool:
        """Refuses whatever is no address, scoped addresses too."""
        return port in PORTS and public(ip)


@dataclass(frozen=True, slots=True)
class Loopback:
    """One port of this machine and nothing else: the bundled web and the tests."""

    port: int

    def allows(self, ip: str, port: int) -> bool:
        """Only 127.0.0.1 in this spelling."""
        return ip == "127.0.0.1" and port == self.port


def public(ip: str) -> bool:
    """Whether this is a public unicast address; an IPv4 address inside an IPv6 one is judged as itself."""
    try:
        address = ipaddress.ip_address(ip)
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id is not None:
            return False
        if address.ipv4_mapped is None:
            return address in UNICAST_V6 and not any(address in network for network in REFUSED_V6)
        address = address.ipv4_mapped
    return not any(address in network for network in REFUSED_V4)


def refusal(url: str) -> Reason:
    """What speaks against an address before any name is resolved; KEPT if nothing does.

    BAD_URL: it is no canonical http or https address (userinfo has no canonical form). PRIVATE_ADDRESS: another port
    than those of the web, or a literal address that is not public. The same whatever the egress is.
    """
    if not url or urls.canonical(url) != url:
        return Reason.BAD_URL
    scheme, _, rest = url.partition("://")
    authority = rest.partition("/")[0].partition("?")[0]
    host = urls.host(url)
    port = authority[len(host) :].removeprefix(":") or urls.DEFAULT_PORT[scheme]
    if int(port) not in PORTS:
        return Reason.PRIVATE_ADDRESS
    literal = host.startswith("[") or host.rpartition(".")[2].isdigit()
    return Reason.PRIVATE_ADDRESS if literal and not public(host.strip("[]")) else Reason.KEPT
