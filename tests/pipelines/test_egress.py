"""egress: which addresses may be connected to, and which may be asked for."""

from __future__ import annotations

import ipaddress
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines import urls
from pipelines.fetch import Config, network, shard
from pipelines.fetch.egress import PORTS, Loopback, Public, refusal
from pipelines.reasons import Reason

PUBLIC = [
    "1.1.1.1", "8.8.8.8", "93.184.216.34", "100.63.255.255", "100.128.0.0", "172.15.255.255", "172.32.0.0",
    "192.0.1.0", "192.167.255.255", "192.169.0.0", "198.17.255.255", "198.20.0.0", "223.255.255.255",
    "161.25.255.255", "161.27.0.0", "166.7.255.255", "166.12.0.0", "168.63.129.15", "168.63.129.17",
    "2606:4700:4700::1111", "2a00:1450:4001:81c::200e", "2001:4860:4860::8888", "::ffff:8.8.8.8", "::ffff:808:808",
]  # fmt: skip
PRIVATE = [
    "0.0.0.0", "0.1.2.3", "10.0.0.1", "10.255.255.255", "100.64.0.1", "100.100.100.200", "100.127.255.255",
    "127.0.0.1", "127.255.255.255", "168.63.129.16", "169.254.0.1", "169.254.169.254", "172.16.0.1", "172.31.255.255",
    "192.0.0.1", "192.0.0.192", "192.0.2.1", "192.88.99.1", "192.168.0.1", "198.18.0.1", "198.19.255.255",
    "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255",
    "::", "::1", "::8.8.8.8", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254",
    "::ffff:0:8.8.8.8", "64:ff9b::7f00:1", "64:ff9b::808:808", "64:ff9b:1::a00:1", "100::1", "2001::1",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2", "2001:2::1", "2001:10::1", "2001:20::1", "2001:db8::1", "2002:7f00:1::",
    "2002:808:808::1", "2620:4f:8000::1", "3fff::1", "4000::1", "5f00::1", "fc00::1", "fd00::1", "fd00:ec2::254",
    "fe80::1", "fe80::1%eth0", "fe80::1%1", "fec0::1", "ff02::1", "ff0e::1", "2606:4700:4700::1111%2",
    # the rest of the registries
    "192.0.0.8", "192.0.0.9", "192.0.0.10", "192.0.0.170", "192.31.196.1", "192.52.193.1", "192.88.99.2",
    "192.175.48.1", "100:0:0:1::1", "2001:1::1", "2001:1::2", "2001:1::3", "2001:3::1", "2001:4:112::1", "2001:30::1",
    "3fff:fff::1", "200::1", "fe00::1", "febf::1",
    # metadata and platform of clouds: AWS, Google, Scaleway, Azure, IBM, Oracle, Alibaba, Tencent, OpenStack
    "169.254.170.2", "169.254.170.23", "fd00:ec2::23", "fd20:ce::254", "169.254.42.42", "fd00:42::42", "161.26.0.10",
    "166.11.255.255", "169.254.0.23", "fe80::a9fe:a9fe", "::ffff:168.63.129.16", "::ffff:100.100.100.200",
    "", "localhost", "8.8.8.8.", "8.8.8", "134744072", "0x8.8.8.8", "8.8.8.8 ", "[::1]", "010.8.8.8", "a",
]  # fmt: skip


@pytest.mark.parametrize("ip", PUBLIC)
def test_public_addresses_are_allowed_on_the_ports_of_the_web(ip: str) -> None:
    assert [port for port in range(65536) if port in PORTS and Public().allows(ip, port)] == [80, 443, 8080, 8443]
    assert not any(Public().allows(ip, port) for port in (0, 21, 22, 25, 53, 81, 6379, 8000, 8444, 65535))


@pytest.mark.parametrize("ip", PRIVATE)
def test_all_others_are_refused(ip: str) -> None:
    assert not any(Public().allows(ip, port) for port in PORTS)


@given(st.integers(0, 2**32 - 1))
def test_an_embedded_address_is_judged_as_itself_or_refused(number: int) -> None:
    plain = ipaddress.IPv4Address(number)
    assert Public().allows(f"::ffff:{plain}", 80) == Public().allows(str(plain), 80)
    for prefix in ("64:ff9b::", "64:ff9b:1::", "::", "::ffff:0:0:0"):
        assert not Public().allows(str(ipaddress.IPv6Address(int(ipaddress.IPv6Address(prefix)) + number)), 80)
    assert not Public().allows(str(ipaddress.IPv6Address(0x2002 << 112 | number << 80 | 1)), 80)
    # whatever the standard library calls private is never let through
    assert not (Public().allows(str(plain), 80) and (not plain.is_global or plain.is_multicast or plain.is_reserved))


@given(st.integers(0, 2**128 - 1))
def test_nothing_outside_global_unicast(number: int) -> None:
    address = ipaddress.IPv6Address(number)
    if Public().allows(str(address), 443):
        assert address.is_global and not address.is_multicast
        assert address.ipv4_mapped or (number >> 125 == 1 and not address.sixtofour and not address.teredo)


@given(st.ip_addresses().map(str), st.integers(0, 65535))
def test_loopback_is_one_place(ip: str, port: int) -> None:
    egress = Loopback(4321)
    assert egress.allows("127.0.0.1", 4321)
    assert egress.allows(ip, port) == ((ip, port) == ("127.0.0.1", 4321))
    assert not any(egress.allows(other, 4321) for other in ("127.0.0.2", "localhost", "::1", "::ffff:127.0.0.1", ""))
    assert not egress.allows("127.0.0.1", 80)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://example.org/a.jpg", Reason.KEPT),
        ("https://example.org/a.jpg?b=c", Reason.KEPT),
        ("http://example.org:8080/", Reason.KEPT),
        ("http://example.org:443/", Reason.KEPT),
        ("http://8.8.8.8/", Reason.KEPT),
        ("http://8.8.8.8.nip.io/", Reason.KEPT),
        ("https://[2606:4700:4700::1111]:8443/", Reason.KEPT),
        ("http://localhost/", Reason.KEPT),  # a name: judged by what it resolves to
        ("http://example.org:22/", Reason.PRIVATE_ADDRESS),
        ("http://example.org:6379/", Reason.PRIVATE_ADDRESS),
        ("https://[2606:4700:4700::1111]:22/", Reason.PRIVATE_ADDRESS),
        ("http://127.0.0.1/", Reason.PRIVATE_ADDRESS),
        ("http://127.0.0.1:8080/", Reason.PRIVATE_ADDRESS),
        ("http://[::1]/", Reason.PRIVATE_ADDRESS),
        ("http://[::ffff:7f00:1]/", Reason.PRIVATE_ADDRESS),
        ("http://169.254.169.254/latest", Reason.PRIVATE_ADDRESS),
        ("", Reason.BAD_URL),
        ("file:///etc/passwd", Reason.BAD_URL),
        ("ftp://example.org/", Reason.BAD_URL),
        ("http://user@example.org/", Reason.BAD_URL),
        ("http://user:pass@example.org/", Reason.BAD_URL),
        ("http:///a", Reason.BAD_URL),
        ("http://example.org:99999/", Reason.BAD_URL),
        ("//example.org/", Reason.BAD_URL),
        ("http://2130706433/", Reason.BAD_URL),  # not canonical: callers canonicalise first
        ("HTTP://example.org/", Reason.BAD_URL),
        ("http://example.org/a b", Reason.BAD_URL),
        ("http://example.org/\r\nHost: a", Reason.BAD_URL),
    ],
)
def test_addresses_before_any_name_is_resolved(url: str, reason: Reason) -> None:
    assert refusal(url) == reason


# whatever a browser (WHATWG's URL standard) takes for 127.0.0.1 or another address of this machine
LOOPBACK = [
    "127.0.0.1", "127.1", "127.0.1", "2130706433", "0x7f000001", "0x7f.1", "0X7F.0.0.1", "0177.0.0.1", "017700000001",
    "0177.0x0.00.1", "0000177.0.0.1", "127.0.0.0x1", "127.0.0.01", "127.0.0.1.", "0x7f000001.", "127.65535",
    "127.255.255.254", "0", "0x", "0.0", "00.0x0.0", "0.0.0.0", "%31%32%37.0.0.1", "127%2e0%2e0%2e1", "127.0.0.%31",
    "１２７.０.０.１", "①②⑦.⓪.⓪.①", "127。0。0。1", "127．0．0．1", "127.0.0.1\u00ad", "12\u200b7.0.0.1", "12\t7.0.0.1",
    "127.0.0.1\\@example.org", "[::1]", "[0:0:0:0:0:0:0:1]", "[::0001]", "[::ffff:127.0.0.1]", "[::FFFF:7F00:1]",
    "[0:0:0:0:0:ffff:7f00:0001]", "[::127.0.0.1]", "[::1%25lo]", "[::1%lo]", "[fe80::1%25eth0]", "[64:ff9b::127.0.0.1]",
    "[2002:7f00:1::]", "[::]",
]  # fmt: skip


@pytest.mark.parametrize("port", ["", ":80", ":8080"])
@pytest.mark.parametrize("host", LOOPBACK)
def test_no_spelling_of_loopback_gets_through(host: str, port: str) -> None:
    if "\\" not in host:  # else the port is part of the path
        host += port
    url = urls.canonical(f"http://{host}/x")
    assert url and refusal(url) == Reason.PRIVATE_ADDRESS
    assert refusal(f"http://{host}/x") in (Reason.PRIVATE_ADDRESS, Reason.BAD_URL)


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1.1", "256.0.0.1", "4294967296", "08.0.0.1", "0x100000000", "127.0.0.256", "127.0.65536", "a.0x7f", "a.1",
     "127..1", "127.0.0.1..", "[::1", "::1", "[[::1]]", "[::1]a", "[127.0.0.1]", "user@127.0.0.1", "127.0.0.1:80:80"],
)  # fmt: skip
def test_what_no_browser_takes_for_an_address_is_none(host: str) -> None:
    assert refusal(f"http://{host}/") == Reason.BAD_URL
    assert not urls.canonical(f"http://{host}/")


@given(st.text(max_size=60), st.text(max_size=60))
def test_no_text_breaks_it(one: str, two: str) -> None:
    assert refusal(one) in (Reason.KEPT, Reason.BAD_URL, Reason.PRIVATE_ADDRESS)
    assert refusal(urls.canonical(f"http://{one}@{two}/")) in (Reason.KEPT, Reason.BAD_URL, Reason.PRIVATE_ADDRESS)


def test_names_that_lead_inside_are_refused_at_the_socket(tmp_path: Path) -> None:
    """In public the name is resolved, and its address judged when it is known."""
    config = Config(contact="https://example.org/bot", connect_s=1.0, total_s=1.5)
    policy = shard.policy(config, tmp_path)
    assert isinstance(policy.egress, Public)
    with socket.socket() as listener:
        try:
            listener.bind(("127.0.0.1", 8080))
            listener.listen()
        except OSError:
            pytest.skip("port 8080 is taken")
        listener.setblocking(False)
        line = network.Line(policy)
        answer = network.ask("http://localhost:8080/image.jpg", line, config, config.total_s)
        line.close()
        with pytest.raises(BlockingIOError):
            listener.accept()
    assert answer.reason == Reason.PRIVATE_ADDRESS
