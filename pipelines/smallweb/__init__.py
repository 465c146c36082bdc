"""A small web of our own writing, as two crawls in Common Crawl's shape, with the truth about every record.

`write(directory)` makes eight WARC files of some five hundred captures, the same bytes for the same seed, in seconds.
It is what `kosmos demo` runs on and what the end-to-end tests measure against.
"""

from pipelines.smallweb.fates import Bounds, Document, Expected, expected_images
from pipelines.smallweb.truth import Fate, Record, Truth, expected_dedupe, load
from pipelines.smallweb.warcs import CRAWLS, write

__all__ = [
    "CRAWLS",
    "Bounds",
    "Document",
    "Expected",
    "Fate",
    "Record",
    "Truth",
    "expected_dedupe",
    "expected_images",
    "load",
    "write",
]
