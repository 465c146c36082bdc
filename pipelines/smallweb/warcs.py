"""Writes the bundled web as two crawls in Common Crawl's shape: WARC files, path listings, truth.

Bytes depend on the seed alone: dates and record ids are made, not taken, and gzip members carry no time. A record is a
gzip member; one member is broken on purpose after writing and must cost a reader only itself.
"""

from __future__ import annotations

import gzip
import hashlib
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import NAMESPACE_URL, uuid5

from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from pipelines.smallweb import albums, copies, detours, odd, plants, robots, sites
from pipelines.smallweb.page import Page, jaccard
from pipelines.smallweb.pictures import Picture, draw
from pipelines.smallweb.prose import Dice
from pipelines.smallweb.truth import Record, Truth, save

CRAWLS = ("SMALL-2026-06", "SMALL-2026-10")
STARTS = (datetime(2026, 2, 7, 10, 15, tzinfo=UTC), datetime(2026, 3, 7, 9, 30, tzinfo=UTC))
FILES_PER_CRAWL = 4
GOOD_PER_SITE = 6
GOOD_PER_SITE_FIRST = 4  # of them in the first crawl
ROBOT = "kosmosbot/1.0 (+https://kosmos.example/bot)"


def crawls(seed: int) -> tuple[list[Page], list[Page]]:
    """The captures of both crawls, each in its final order."""
    hosts = sites.hosts()
    good = sites.pages(seed, GOOD_PER_SITE)
    early = [page for spot, page in enumerate(good) if spot % GOOD_PER_SITE < GOOD_PER_SITE_FIRST]
    late = [page for spot, page in enumerate(good) if spot % GOOD_PER_SITE >= GOOD_PER_SITE_FIRST]
    result = []
    for number, (crawl, pages) in enumerate(zip(CRAWLS, copies.plant((early, late), seed), strict=True)):
        bad = plants.pages(seed, crawl, hosts, each=2 if crawl == CRAWLS[0] else 1)
        strange = odd.pages(seed, crawl, hosts)
        shown = [*albums.pages(seed, number, hosts), *detours.pages(seed, number, hosts)]
        result.append(Dice(seed, crawl, "order").shuffled([*pages, *bad, *strange, *shown]))
    return result[0], result[1]


class Writing:
    """One WARC file in the making: writes records, remembers where each begins."""

    def __init__(self, file: str, start: datetime) -> None:
        self.file, self.start = file, start
        self.buffer = BytesIO()
        self.writer = WARCWriter(self.buffer, gzip=True, warc_version="1.0")
        self.records: list[Record] = []

    def put(
        self,
        kind: str,
        page: Page | None,
        payload: bytes,
        http: StatusAndHeaders | None,
        headers: dict[str, str],
        content_type: str,
        original: Page | None = None,
    ) -> None:
        """Write one record; only responses and revisits carry a page's truth."""
        ordinal = len(self.records)
        offset = self.buffer.tell()
        named = {"WARC-Record-ID": f"<urn:uuid:{uuid5(NAMESPACE_URL, f'{self.file}#{ordinal}')}>"}
        named["WARC-Date"] = (self.start + timedelta(seconds=ordinal)).strftime("%Y-%m-%dT%H:%M:%SZ")
        record = self.writer.create_warc_record(
            page.url if page else "",
            kind,
            payload=BytesIO(payload),
            length=len(payload),
            warc_content_type=content_type,
            warc_headers_dict=named | headers,
            http_headers=http,
        )
        self.writer.write_record(record)
        length = self.buffer.tell() - offset
        told = {} if page is None or kind not in ("response", "revisit") else fate(page, original)
        url = page.url if page else ""
        known = {"reason": "not_response", **told}
        self.records.append(
            Record(file=self.file, ordinal=ordinal, offset=offset, length=length, type=kind, url=url, **known)
        )

    def capture(self, page: Page, original: Page | None, dice: Dice) -> None:
        """Write the request, the response and the metadata of a capture."""
        url = urlsplit(page.url)
        path = (url.path or "/") + (f"?{url.query}" if url.query else "")
        asked = [("User-Agent", ROBOT), ("Accept", "text/html"), ("Accept-Encoding", "br,gzip"), ("Host", url.netloc)]
        peer = {"WARC-IP-Address": f"192.0.2.{dice.between(1, 254)}"}
        request = StatusAndHeaders(f"GET {path} HTTP/1.1", asked, is_http_request=True)
        self.put("request", page, b"", request, peer, "application/http; msgtype=request")
        body = page.payload()
        answer = StatusAndHeaders(page.status, answered(page, len(body), self.start, dice), protocol="HTTP/1.1")
        if page.record_type == "revisit":
            peer["WARC-Profile"] = "http://netpreserve.org/warc/1.0/revisit/identical-payload-digest"
            peer["WARC-Payload-Digest"] = "sha1:3I42H3S6NNFQ2MSVX7XZKYAYSCX5QBYJ"
        self.put(page.record_type, page, body, answer, peer, "application/http; msgtype=response", original)
        fields = f"fetchTimeMs: {dice.between(20, 900)}\r\ncharset-detected: {page.encoding}\r\n".encode()
        self.put("metadata", page, fields, None, {}, "application/warc-fields")

    def finish(self, path: Path) -> None:
        """Break the member that is to be broken, and write the file."""
        content = bytearray(self.buffer.getvalue())
        for record in self.records:
            if record.kind == odd.DAMAGED:
                middle = record.offset + record.length // 2
                content[middle : middle + 24] = bytes(24)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def fate(page: Page, original: Page | None) -> dict[str, Any]:
    """What the truth says of a capture: fields of Record."""
    planted = {"kind": page.kind, "reason": page.reason, "strict": page.strict}
    if page.stage == "extract":
        return planted
    words = page.words()
    return planted | {
        "cluster": page.cluster,
        "relation": page.relation,
        "jaccard": round(jaccard(page.shingles(), original.shingles()), 6) if original else 0.0,
        "words": len(words),
        "images": len(page.figures()),
        "text": hashlib.sha256(" ".join(words).encode()).hexdigest()[:16],
        "stream": tuple(page.stream()),
        "declared": tuple(page.declared()),
    }


def answered(page: Page, num_bytes: int, at: datetime, dice: Dice) -> list[tuple[str, str]]:
    """The HTTP headers of a response, in the manner of Common Crawl: lengths and encodings as found are renamed."""
    content_type = page.content_type
    if content_type.lower() == "text/html; charset=utf-8" and page.kind != "cp1252_says_utf8" and dice.chance(25):
        content_type = "text/html"
    headers = [("Date", format_datetime(at, usegmt=True)), ("Server", dice.pick(("nginx", "Apache/2.4", "Caddy")))]
    headers += [("Content-Type", content_type)] if content_type else []
    if page.status.startswith("301"):
        headers.append(("Location", "/elsewhere.html"))
    if dice.chance(40) and ("Content-Encoding", "gzip") not in page.headers:
        headers.append(("X-Crawler-Content-Encoding", "gzip"))
        headers.append(("X-Crawler-Content-Length", str(num_bytes // 3)))
    if dice.chance(20):
        headers.append(("X-Crawler-Transfer-Encoding", "chunked"))
    headers += [*page.headers, ("Content-Length", str(num_bytes))]
    return [(name.lower(), value) for name, value in headers] if dice.chance(25) else headers


def frame_pictures(seed: int) -> list[Picture]:
    """Pictures around the content: each site's logo, the tracking pixel."""
    dice = Dice(seed, "frame")
    logos = [(f"https://{host}/logo.png", topic, "logo") for host, topic, _ in sites.hosts()]
    made = []
    for url, topic, kind in [*logos, ("https://stats.example/pixel.png", "clocks", "pixel")]:
        drawn = draw(dice, "stats.example", "", topic, kind)
        made.append(Picture(**{**{name: getattr(drawn, name) for name in Picture.__slots__}, "url": url}))
    return made


def write(directory: Path, seed: int = 1) -> Truth:
    """Write the small web under a directory that becomes a mirror of Common Crawl's layout; give the truth about it."""
    records: list[Record] = []
    pictures = {picture.url: picture for picture in frame_pictures(seed)}
    both = crawls(seed)
    originals = {page.cluster: page for pages in both for page in pages if page.cluster and not page.relation}
    for crawl, start, pages in zip(CRAWLS, STARTS, both, strict=True):
        paths = []
        for number in range(FILES_PER_CRAWL):
            stamp = f"{start:%Y%m%d%H%M%S}-{start + timedelta(hours=3):%Y%m%d%H%M%S}"
            segment = f"{int(start.timestamp()) * 1000}.{11 + number}"
            file = f"crawl-data/{crawl}/segments/{segment}/warc/SMALL-{stamp}-{number:05d}.warc.gz"
            paths.append(file)
            writing = Writing(file, start + timedelta(minutes=number))
            about = f"isPartOf: {crawl}\r\npublisher: kosmos-engine\r\nformat: WARC File Format 1.0\r\n".encode()
            named = {"WARC-Filename": file.rpartition("/")[2]}
            writing.put("warcinfo", None, about, None, named, "application/warc-fields")
            for page in pages[number::FILES_PER_CRAWL]:
                original = originals.get(page.cluster) if page.relation else None
                writing.capture(page, original, Dice(seed, crawl, page.url, page.salt, "http"))
                pictures.update({shown.picture.url: shown.picture for shown in page.figures()})
            writing.finish(directory / file)
            records += writing.records
        listing = directory / "crawl-data" / crawl / "warc.paths.gz"
        listing.write_bytes(gzip.compress("".join(f"{path}\n" for path in paths).encode(), mtime=0))
    shown = tuple(pictures[url] for url in sorted(pictures))
    truth = Truth(records=tuple(records), pictures=shown, robots=robots.SITES)
    save(truth, directory)
    return truth
