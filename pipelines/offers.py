"""What a mirror offers: its crawls, newest first, and beside them what a store holds of each.

Common Crawl lists its crawls on another host than the one that serves them. Any other mirror lists them in a
collinfo.json at its root; without one, a folder or bucket shows them: what has a warc.paths.gz below crawl-data/.
"""

from __future__ import annotations

import json
import re
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.client import HTTPException
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from engine.crawls import CrawlStatus, age, held
from engine.errors import ConfigError, StoreError
from engine.ledger import Ledger, code_version
from engine.recipe import Recipe
from engine.store import Store, absolute, local_path

MIRROR = "https://data.commoncrawl.org"
COLLECTIONS = "https://index.commoncrawl.org"  # where the crawls of MIRROR are listed
COLLINFO = "collinfo.json"
LATEST = "latest"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
MAX_COLLINFO_BYTES = 4 << 20  # Common Crawl's has some 30 KB
MAX_CRAWLS = 4096  # Common Crawl has made about 120
MAX_TITLE_CHARS = 80
PAUSES_S = (1.0, 4.0)  # before asking again: the index host answers 503 and 429 when it is busy
BUSY = (429, 500, 502, 503, 504)
ABSENT = (404, 410)
TIMEOUT_S = 30


@dataclass(frozen=True, slots=True)
class Offer:
    """A crawl of a mirror: its name, and its title if the mirror gives one."""

    name: str
    title: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Crawl:
    """A crawl that a mirror offers, a store holds, or both. held: `committed` is 0 for one that the store lacks."""

    name: str
    title: str
    offered: bool
    held: CrawlStatus


def open_mirror(mirror: str) -> Store:
    """The place of a mirror; ConfigError if it is a folder that is not there."""
    place = local_path(absolute(mirror))
    if place is not None and not place.is_dir():
        raise ConfigError(
            f"the mirror {absolute(mirror)} is not a folder; give --mirror a folder that holds crawl-data/"
        )
    return Store(mirror)


def offered(mirror: str = MIRROR) -> list[Offer]:
    """The crawls of a mirror, newest first. ConfigError where it cannot say, StoreError where it does not answer."""
    store = open_mirror(COLLECTIONS if absolute(mirror) == MIRROR else mirror)
    body = _collinfo(store)
    if body is None and store.url.startswith(("http://", "https://")):
        raise ConfigError(
            f"{store.url} has no {COLLINFO}, and a web server lists no folders; name the crawl, as --crawl "
            "CC-MAIN-2024-22"
        )
    found = _folders(store) if body is None else _parse(body, f"{store.url}/{COLLINFO}")
    return sorted(found, key=lambda offer: age(offer.name), reverse=True)


def latest(mirror: str = MIRROR) -> str:
    """The name of the newest crawl of a mirror; ConfigError if it has none."""
    found = offered(mirror)
    if not found:
        raise ConfigError(f"{absolute(mirror)} offers no crawl; give --mirror a place that holds crawl-data/")
    return found[0].name


def crawls(recipe: Recipe, ledger: Ledger, mirror: str = "") -> list[Crawl]:
    """What the mirror offers and what the store holds, newest first, files from outside of any crawl at the end."""
    titles = {offer.name: offer.title for offer in offered(mirror or MIRROR)}
    here = {status.crawl: status for status in held(recipe, ledger)}
    return [
        Crawl(
            name=name, title=titles.get(name, ""), offered=name in titles, held=here.get(name, CrawlStatus(crawl=name))
        )
        for name in sorted({*titles, *here}, key=age, reverse=True)
    ]


def _collinfo(store: Store) -> bytes | None:
    if store.url.startswith(("http://", "https://")):
        return _download(f"{store.url}/{COLLINFO}")
    head = store.head(COLLINFO)
    if head is None:
        return None
    return store.get(COLLINFO) if head.size <= MAX_COLLINFO_BYTES else b" " * (MAX_COLLINFO_BYTES + 1)


def _download(url: str) -> bytes | None:
    """The first bytes behind an address, one more than may be; None if nothing is there.

    By the standard library: the store's client refuses an answer that does not say its length beforehand.
    """
    request = Request(url, headers={"User-Agent": f"kosmos-engine/{code_version()}"})
    for pause_s in (*PAUSES_S, None):
        try:
            with urlopen(request, timeout=TIMEOUT_S) as answer:
                body: bytes = answer.read(MAX_COLLINFO_BYTES + 1)
                return body
        except HTTPError as error:
            error.close()
            if error.code in ABSENT:
                return None
            told, final = f"HTTP status {error.code}", error.code not in BUSY
        except (OSError, HTTPException) as error:
            told, final = str(getattr(error, "reason", "")) or str(error) or type(error).__name__, False
        if pause_s is None or final:
            break
        time.sleep(pause_s)
    raise StoreError(f"cannot read {url}: {told}; try again later, or name the crawl, as --crawl CC-MAIN-2024-22")


def _parse(body: bytes, where: str) -> list[Offer]:
    if len(body) > MAX_COLLINFO_BYTES:
        raise ConfigError(f"{where} has more than {MAX_COLLINFO_BYTES >> 20} MiB: not a list of crawls; check --mirror")
    try:
        found = json.loads(body)
        offers = [Offer(entry["id"], _printable(entry.get("name", ""))) for entry in found]
        bad = next((offer.name for offer in offers if not NAME.fullmatch(offer.name)), None)
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        # what it lacks says nothing to a person: they did not write it
        raise ConfigError(
            f'{where} is no list of crawls as Common Crawl\'s ([{{"id": ..., "name": ...}}]); check --mirror'
        ) from None
    if bad is not None:
        raise ConfigError(f"{where} names {bad[:200]!r}, which is no name of a crawl; check --mirror")
    _check_number(len(offers), where)
    return list({offer.name: offer for offer in offers}.values())


def _folders(store: Store) -> list[Offer]:
    names = [name for name in store.folders("crawl-data/") if NAME.fullmatch(name)]
    _check_number(len(names), f"{store.url}/crawl-data")
    with ThreadPoolExecutor(16) as pool:
        there = list(pool.map(store.exists, [f"crawl-data/{name}/warc.paths.gz" for name in names]))
    return [Offer(name) for name, listed in zip(names, there, strict=True) if listed]


def _check_number(num: int, where: str) -> None:
    if num > MAX_CRAWLS:
        raise ConfigError(f"{where} lists {num:,} crawls, over the limit of {MAX_CRAWLS:,}; check --mirror")


def _printable(title: str) -> str:
    # a mirror's text goes to a terminal
    return "".join(c for c in title[:MAX_TITLE_CHARS] if c.isprintable())
