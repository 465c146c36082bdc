"""A page to its reading-order stream: text blocks and image references, boilerplate out."""

from __future__ import annotations

from selectolax.lexbor import LexborHTMLParser

from pipelines.entries import Stream
from pipelines.marks import mark
from pipelines.walk import entries, walk


def parse(html: bytes, url: str, max_images: int = 4096) -> Stream:
    """The stream of a page in UTF-8 that passed the guards; url: its canonical address."""
    walked = walk(LexborHTMLParser(html), url, max_images)
    drop, group = mark(walked.blocks.entries, walked.blocks.spans)
    walked.stream.entries = entries(walked, drop, group)
    walked.stream.settle()
    return walked.stream
