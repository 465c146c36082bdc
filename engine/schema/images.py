"""Tables from the image references of kept pages to the curated shards, the public product."""

from __future__ import annotations

import pyarrow as pa

from engine.schema.fields import ID16, TEXT, field, large_list, schema, struct
from engine.schema.pages import ITEM, PAGE, SCORES

# select -----------------------------------------------------------------------------------------------------------
# Whoever is kept by dedupe stands in PAGES, once; `image` is the index into the document's images.
URL_ID = field("url_id", pa.binary(32), "sha256 of the canonical image address; its first bits are the partition")
BLOCK_PART = field("block", pa.uint16(), "partition: ordinal of the page's unit over 256")
DOC = field("doc", pa.uint64(), "the page")
IMAGE_INDEX = field("image", pa.int16(), "index into the document's images")
REFERENCE_KEYS = schema(
    field("part", pa.uint16(), "partition of the addresses"),
    URL_ID,
    DOC,
    IMAGE_INDEX,
)
PAGES = schema(
    DOC,
    field("doc_id", ID16, "the page"),
    field("references", pa.int32(), "image references of the page"),
    field("passing", pa.int32(), "those that pass the address rules"),
    field("interspersed", pa.bool_(), "as in scores"),
)
# Pages by the set of their images: of every page with two images or more that pass and prose beside one.
IMAGE_SETS = schema(
    field("part", pa.uint16(), "partition of the keys"),
    field("key", pa.uint64(), "first 8 bytes of a hash of the set of its image addresses"),
    field("check", pa.uint64(), "its last 8 bytes"),
    DOC,
    field("rank", pa.uint32(), "priority in 32 bits, smaller is better; pipelines.dedupe.rank"),
    field("doc_id", ID16, "breaks ties of priority"),
    field("images", pa.int16(), "images of the set"),
)
# The page that shows each set that this generation was the first to see.
SET_KEEPERS = schema(
    field("key", pa.uint64(), "as in IMAGE_SETS"),
    field("check", pa.uint64(), "as in IMAGE_SETS"),
    field("keeper", pa.uint64(), "the page"),
)
SET_TWINS = schema(
    BLOCK_PART,
    DOC,
    field("keeper", pa.uint64(), "the page that shows the same images, of this or an earlier generation"),
    field("images", pa.int16(), "images of the set"),
)
REFUSED = schema(
    DOC,
    IMAGE_INDEX,
    field("reason", pa.uint16(), "why it is never asked for"),
    field("value", pa.float32(), "the number that decided, or 0"),
)
URL_COUNTS = schema(URL_ID, field("docs", pa.uint32(), "documents that show it, of this and all earlier generations"))
FREQUENT = schema(
    BLOCK_PART,
    DOC,
    IMAGE_INDEX,
    field("url_docs", pa.uint32(), "as docs in URL_COUNTS"),
)
SELECTIONS = schema(
    DOC,
    field("doc_id", ID16, "the page"),
    field("reason", pa.uint16(), "0 = its candidates are fetched"),
    field("value", pa.float32(), "the number that decided, or the number of candidates"),
)
CHOICES = schema(
    field("part", pa.uint16(), "partition of the addresses"),
    URL_ID,
    DOC,
    IMAGE_INDEX,
    field("url_docs", pa.uint32(), "as docs in URL_COUNTS"),
)
CANDIDATE_URLS = schema(
    field("part", pa.uint16(), "partition of the addresses"),
    URL_ID,
    field("url", TEXT, "canonical address"),
    field("domain", TEXT, "politeness key: the registrable domain"),
)
WANTED = schema(
    field("part", pa.uint16(), "partition of the domains"),
    field("domain", TEXT, "politeness key"),
    URL_ID,
    field("url", TEXT, "canonical address"),
    field("tries", pa.uint8(), "times it was asked for before, without an answer that holds"),
    field("outcomes", pa.uint8(), "on record of it, up to 255: its tries, and each time that it had no turn"),
)
FETCH_URLS = schema(
    field("batch", pa.uint32(), "partition: number of the fetch unit in this list"),
    URL_ID,
    field("url", TEXT, "canonical address"),
    field("domain", TEXT, "politeness key"),
    field("tries", pa.uint8(), "as in WANTED"),
)
FETCH_UNITS = schema(
    field("batch", pa.uint32(), "its partition of the list"),
    field("unit", TEXT, "id: sha256 over its sorted (address id, outcomes on record), first 24 hex digits"),
    field("lane", TEXT, "units of one lane are never in flight together"),
    field("urls", pa.uint32(), "addresses"),
    field("domains", pa.uint32(), "politeness keys"),
    field("largest", pa.uint32(), "requests to the largest of them: its addresses, and the robots.txt of each origin"),
)
# What a domain's budget leaves out of a generation. It is on no record: a document of a later one may ask for it.
LEFT_OUT = schema(
    field("part", pa.uint16(), "partition of the addresses"),
    URL_ID,
    field("reason", pa.uint16(), "DOMAIN_BUDGET"),
    field("value", pa.float32(), "the budget"),
)

# fetch: recorded, so these are the inputs of all that follows ------------------------------------------------------
MEASURES = (
    field("reason", pa.uint16(), "0 = the image is in images"),
    field("value", pa.float32(), "HTTP status, curl's error number, bytes or what was measured; 0 if none"),
    field("sha256", pa.binary(32), "of the body as received; zeros if there is none"),
    field("phash", pa.uint64(), "64-bit DCT perceptual hash; 0 if not decoded"),
    field("width", pa.int32(), "as shown, before resizing; 0 if unknown"),
    field("height", pa.int32(), "likewise"),
    field("stored_width", pa.int32(), "of the stored JPEG; 0 if none"),
    field("stored_height", pa.int32(), "likewise"),
    field("deviation", pa.float32(), "standard deviation on 32 x 32, mean over the channels; 0 if not decoded"),
    field("num_bytes", pa.uint32(), "of the body as received"),
    field("format", pa.uint8(), "index into pipelines.images.FORMATS"),
)
OUTCOMES = schema(
    field("part", pa.uint16(), "partition of the addresses"),
    URL_ID,
    *MEASURES,
    field("tries", pa.uint8(), "times it was asked for, this one included"),
    field("row", pa.int32(), "row in images; -1 if none"),
)
# Where addresses moved to, out of their domain: `follow` asks there, in that domain's turns.
MOVES = schema(
    field("part", pa.uint16(), "partition of the addresses, by url_id"),
    URL_ID,
    field("url", TEXT, "canonical address that it redirects to"),
    field("domain", TEXT, "politeness key of that address"),
)
# What each origin's robots.txt said, a row an origin of the unit: evidence, and no one's input.
ROBOTS = schema(
    field("origin", TEXT, "scheme://host, with the port unless it is the scheme's"),
    field(
        "reason", pa.uint16(), "0 = its rules hold; HTTP_CLIENT, HTTP_GONE .. = there are none; else nothing is asked"
    ),
    field("value", pa.float32(), "HTTP status or curl's error number"),
    field("fetched_at", pa.timestamp("ms", tz="UTC"), "when the answer was complete"),
    field("sha256", pa.binary(32), "of the file as received, up to the limit; zeros if there is none"),
    field("num_bytes", pa.uint32(), "of the file as received, up to the limit"),
    field("rules", TEXT, "the lines that are for us, as we read them; cut at 16 KiB"),
    field("delay", pa.float32(), "seconds of Crawl-delay, 0 if there is none"),
)
# What a unit of a lane leaves to the next one of its domain, a row at most.
RESTS = schema(
    field("until", pa.timestamp("ms", tz="UTC"), "when the domain may be asked again, as it said itself"),
    field("unanswered", pa.uint32(), "its last requests in a row that were not answered"),
)
IMAGE_BYTES = schema(URL_ID, field("bytes", pa.large_binary(), "JPEG"))
FETCH_TIMES = schema(
    URL_ID,
    field("fetched_at", pa.timestamp("ms", tz="UTC"), "when the answer was complete"),
    field("seconds", pa.float32(), "from the request to the answer"),
)
# beside every output with located bytes: where row i of its files lies
OFFSETS = schema(
    field("file", pa.uint16(), "index of the file"),
    field("offset", pa.uint64(), "of the row's first byte in the file"),
    field("length", pa.uint64(), "bytes of the row, in one run"),
)

# assemble ---------------------------------------------------------------------------------------------------------
MATCHED = schema(
    BLOCK_PART,
    DOC,
    IMAGE_INDEX,
    URL_ID,
    field("url_docs", pa.uint32(), "as docs in URL_COUNTS"),
    *MEASURES,
    field("followed", pa.bool_(), "whether the follow stage has the image, and not the fetch stage"),
    field("generation", pa.uint16(), "of that stage"),
    field("unit", pa.uint32(), "ordinal of the unit in that generation's manifest"),
    field("file", pa.uint16(), "index of the file of its images"),
    field("offset", pa.uint64(), "of the JPEG in the file"),
    field("length", pa.uint32(), "bytes of the JPEG; 0 if none"),
)
# Candidates that look like an image of an evaluation set.
IMAGE_LEAKS = schema(
    DOC,
    IMAGE_INDEX,
    field("set", pa.uint16(), "index into the configured sets"),
    field("item", pa.uint32(), "its image: place in the sorted folder, or line of the list from 0"),
    field("distance", pa.uint8(), "bits of the perceptual hash that differ; 0 also for the same bytes"),
    field("reason", pa.uint16(), "IMAGE_CONTAMINATED, or what had refused the image before"),
)
HASHES = schema(
    field("part", pa.uint16(), "partition of the keys"),
    field("key", pa.uint64(), "first 8 bytes of the sha256, or the perceptual hash mixed"),
    field("check", pa.uint64(), "next 8 bytes of the sha256; 0 for a perceptual hash"),
    field("kind", pa.uint8(), "0 sha256, 1 perceptual hash"),
    DOC,
    IMAGE_INDEX,
)
HASH_COUNTS = schema(
    field("key", pa.uint64(), "as in HASHES"),
    field("check", pa.uint64(), "as in HASHES"),
    field("kind", pa.uint8(), "as in HASHES"),
    field("docs", pa.uint32(), "documents that show it, of this and all earlier generations"),
)
REPEATED = schema(
    BLOCK_PART,
    DOC,
    IMAGE_INDEX,
    field("docs", pa.uint32(), "documents with the same bytes or the same perceptual hash; over the bound"),
)
ASSEMBLED = schema(
    DOC,
    field("doc_id", ID16, "the page"),
    field("reason", pa.uint16(), "0 = it is in the shards"),
    field("value", pa.float32(), "the number that decided, or the number of its images"),
)
IMAGE_FATES = schema(
    DOC,
    IMAGE_INDEX,
    field("reason", pa.uint16(), "0 = it is in the shards"),
    field("value", pa.float32(), "the number that decided"),
)
# The curated shard, the public product: a row a document.
CURATED_IMAGE = struct(
    ("bytes", pa.large_binary()),
    ("sha256", pa.binary(32)),
    ("url", TEXT),
    ("alt", TEXT),
    ("caption", TEXT),
    ("title", TEXT),
    ("width", pa.int32()),
    ("height", pa.int32()),
    ("original_width", pa.int32()),
    ("original_height", pa.int32()),
    ("format", TEXT),
    ("phash", pa.uint64()),
    ("url_docs", pa.int32()),
)
CURATED_SCORES = struct(
    *[(f.name, f.type) for f in SCORES if f.name not in ("row", "doc_id", "offset", "url_hash", "num_images")]
)
CURATED = schema(
    *[f for f in PAGE if f.name not in ("row", "title")],
    field("title", TEXT, "<title>, spaces folded"),
    field("items", large_list(ITEM), "reading order, as in documents; image = index into images"),
    field("images", large_list(CURATED_IMAGE), "JPEG bytes; width, height as stored; format is the original's"),
    field("scores", CURATED_SCORES, "as in scores"),
    field(
        "dedupe",
        struct(("cluster", pa.uint64()), ("size", pa.uint32()), ("kept_because", TEXT)),
        "smallest doc and number of pages alike; 'unique' or 'best'",
    ),
    field("num_images", pa.int16(), "images"),
    field("num_words", pa.int32(), "words of the text items"),
)
