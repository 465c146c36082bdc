"""Captures that are no pages: redirects, errors, other types, an empty body, pages over a limit, a damaged record."""

from __future__ import annotations

from dataclasses import replace

from pipelines.smallweb.page import Page
from pipelines.smallweb.prose import Dice, Writer
from pipelines.smallweb.sites import write

DEPTH = 100_000
ATTRIBUTES = 100_000
BIG_BYTES = 5_000_000
DAMAGED = "damaged"  # the kind whose gzip member is broken after writing


def capture(
    host: str, path: str, kind: str, reason: str, raw: bytes, *, status: str = "200 OK", content_type: str = "text/html"
) -> Page:
    """A capture that ends at the gate."""
    return Page(
        url=f"https://{host}/{path}",
        kind=kind,
        raw=raw,
        reason=reason,
        status=status,
        content_type=content_type,
    )


def large(writer: Writer) -> bytes:
    """Five megabytes of prose, of which one paragraph is new."""
    paragraph = f"<p>{writer.paragraph(20)}</p>\n".encode()
    return b"<html><body>" + paragraph * (BIG_BYTES // len(paragraph) + 1) + b"</body></html>"


def pages(seed: int, crawl: str, hosts: list[tuple[str, str, str]]) -> list[Page]:
    """One of each, on hosts drawn by the seed."""
    dice = Dice(seed, crawl, "odd")
    names = [host for host, _, _ in dice.shuffled(hosts)]
    writer = Writer(dice, hosts[0][1])
    text = writer.paragraph(6)
    html = f"<html><body><h1>Sorry</h1><p>{text}</p></body></html>".encode()
    many = " ".join(f"a{number % 1000}=1" for number in range(ATTRIBUTES))  # a short period deflates to nothing
    host, topic, _ = hosts[3]
    return [
        capture(names[0], "gone.html", "not_found", "http_status", html, status="404 Not Found"),
        capture(names[1], "moved.html", "redirect", "http_status", b"", status="301 Moved Permanently"),
        capture(names[2], "broken.html", "server_error", "http_status", html, status="503 Service Unavailable"),
        capture(
            names[3],
            "robots.txt",
            "robots_txt",
            "not_html",
            b"User-agent: *\nDisallow: /private\n",
            content_type="text/plain",
        ),
        capture(
            names[4],
            "report.pdf",
            "pdf",
            "not_html",
            b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n1 0 obj\n",
            content_type="application/pdf",
        ),
        capture(names[5], "feed.json", "json", "not_html", b'{"items": []}', content_type="application/json"),
        capture(names[6], "empty.html", "empty", "empty", b""),
        capture(names[7], "all.html", "too_large", "too_large", large(writer)),
        capture(names[9], "wide.html", "too_many_attributes", "too_many_attributes", f"<div {many}>".encode() + html),
        capture(names[8], "deep.html", "too_deep", "too_deep", b"<div>" * DEPTH + html),
        replace(capture(names[10], "again.html", "revisit", "not_response", b""), record_type="revisit"),
        replace(write(dice, host, topic, "article", 1), kind=DAMAGED, reason="corrupt"),
    ]
