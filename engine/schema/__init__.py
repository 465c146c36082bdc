"""Every Arrow schema that crosses a border between stages, with a line for each field: the contract.

`large_*` types throughout: a column of text passes the 2 GiB of 32-bit offsets sooner than one thinks. No column is
nullable; absent text is "", an absent number 0 or -1 as said, so that equal rows are equal bytes.

    fields     what a field, a schema and their types are made with
    pages      from the WARC to the pages that dedupe keeps
    images     from their image references to the curated shards
    training   from these to training rows
"""

from engine.schema.fields import *  # noqa: F403 - one face over the four
from engine.schema.images import *  # noqa: F403
from engine.schema.pages import *  # noqa: F403
from engine.schema.training import *  # noqa: F403
