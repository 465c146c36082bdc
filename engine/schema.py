"""Every Arrow schema that crosses a border between stages, with a line for each field: the contract.

`large_*` types throughout: a column of text passes the 2 GiB of 32-bit offsets sooner than one thinks. No column is
nullable; absent text is "", an absent number 0 or -1 as said, so that equal rows are equal bytes.
"""

from __future__ import annotations

import pyarrow as pa

VERSION = 1


def field(name: str, kind: pa.DataType, doc: str) -> pa.Field:
    """A field that is never null, with its documentation."""
    return pa.field(name, kind, nullable=False, metadata={"doc": doc})


def schema(*fields: pa.Field) -> pa.Schema:
    """A schema marked with the version of this file."""
    return pa.schema(fields, metadata={"kosmos.schema": str(VERSION)})


def struct(*fields: tuple[str, pa.DataType]) -> pa.StructType:
    """A struct of fields that are never null."""
    return pa.struct([pa.field(name, kind, nullable=False) for name, kind in fields])


def large_list(kind: pa.DataType) -> pa.LargeListType:
    """A large list whose items are never null."""
    return pa.large_list(pa.field("item", kind, nullable=False))


TEXT = pa.large_string()
ID16 = pa.binary(16)

# snapshot ---------------------------------------------------------------------------------------------------------
WARCS = schema(
    field("unit", TEXT, "id of the extract unit: hex sha256 of the identity, first 24 digits"),
    field("identity", TEXT, "what doc_id hashes: the crawl-relative path, or 'uri|size|sha256' outside Common Crawl"),
    field("uri", TEXT, "where to read it: file:// or https:// or s3:// address"),
    field("crawl", TEXT, "crawl name, for provenance"),
    field("bytes", pa.uint64(), "size of the file; 0 if unknown"),
)

# extract ----------------------------------------------------------------------------------------------------------
# `row` is the ordinal of a kept page in its WARC, in record order, dense from 0 over documents and texts together.
WARC_REF = struct(("file", TEXT), ("offset", pa.uint64()), ("length", pa.uint64()), ("record_id", TEXT))
LANG = struct(("code", TEXT), ("score", pa.float32()))
RIGHTS = struct(("robots", TEXT), ("meta", TEXT), ("tdm", TEXT))
ITEM = struct(("kind", TEXT), ("text", TEXT), ("block", TEXT), ("level", pa.int8()), ("image", pa.int16()))
IMAGE = struct(
    ("url", TEXT), ("alt", TEXT), ("caption", TEXT), ("title", TEXT), ("width", pa.int32()), ("height", pa.int32())
)
PAGE = (
    field("row", pa.uint32(), "ordinal of the page in its WARC"),
    field("doc_id", ID16, "first 16 bytes of sha256(identity of the WARC, '\\n', decimal record offset)"),
    field("url", TEXT, "target address as captured"),
    field("host", TEXT, "lower-case host"),
    field("crawl", TEXT, "crawl name"),
    field("fetched_at", pa.timestamp("s", tz="UTC"), "WARC-Date"),
    field("warc", WARC_REF, "file, offset and length of the record (compressed bytes), WARC-Record-ID"),
    field("lang", LANG, "language code (ISO 639) and its score"),
    field("rights", RIGHTS, "X-Robots-Tag directives, robots meta directives, TDM reservation; '' where absent"),
    field("title", TEXT, "<title>, spaces folded"),
)
DOCUMENTS = schema(
    *PAGE,
    field(
        "items",
        large_list(ITEM),
        "reading order: kind 'text' (text, block p|h1..h6|li|quote|pre|table|figcaption|dt|dd|other, level = heading "
        "level or list depth, image -1) or 'image' (text '', block '', level 0, image = index into images)",
    ),
    field("images", large_list(IMAGE), "image references; url absolute; width, height declared in the page or 0"),
)
TEXTS = schema(*PAGE, field("items", large_list(ITEM), "reading order, kind 'text' only; as in documents"))
CAPTIONS = schema(
    field("row", pa.uint32(), "the page"),
    field("image", pa.int16(), "index into the document's images"),
    field("doc_id", ID16, "the page"),
    field("url", TEXT, "image address"),
    field("alt", TEXT, "alt text, spaces folded"),
    field("caption", TEXT, "figcaption, spaces folded"),
    field("before", TEXT, "text block before the image"),
    field("after", TEXT, "text block after the image"),
)
REFERENCES = schema(
    field("row", pa.uint32(), "the page"),
    field("image", pa.int16(), "index into the document's images"),
    field("url_id", pa.binary(32), "sha256 of the canonical address"),
    field("url", TEXT, "canonical address"),
    field("width", pa.int32(), "declared width, or the smaller side that the address tells, or 0"),
    field("height", pa.int32(), "declared height or 0"),
)
# One value a rule, also where it passes, so that thresholds move without parsing again.
SCORES = schema(
    field("row", pa.uint32(), "the page"),
    field("doc_id", ID16, "the page"),
    field("offset", pa.uint64(), "record offset in the WARC"),
    field("url_hash", pa.uint64(), "first 8 bytes (little-endian) of sha256 of the canonical page address"),
    field("num_images", pa.int16(), "image references; 0 = the page is in texts, else in documents"),
    field("interspersed", pa.bool_(), "text stands on both or either side of an image"),
    field("lang_score", pa.float32(), "score of the wanted language"),
    field("words", pa.uint32(), "words"),
    field("mean_word_length", pa.float32(), "characters a word"),
    field("character_repetition", pa.float32(), "share of characters in repeated 10-grams"),
    field("word_repetition", pa.float32(), "share of repeated word 5-grams"),
    field("special_characters", pa.float32(), "share of characters that are no letter, digit or space"),
    field("stopwords", pa.float32(), "share of words that are stopwords"),
    field("gopher_stopwords", pa.uint8(), "how many of the, be, to, of, and, that, have, with"),
    field("flagged_words", pa.float32(), "share of words that are flagged"),
    field("punctuation", pa.float32(), "share of words that end in punctuation"),
    field("spam_words", pa.float32(), "share of words that are spam words"),
    field("symbols", pa.float32(), "hashes and ellipses a word"),
    field("bullets", pa.float32(), "share of lines that start with a bullet"),
    field("ellipsis", pa.float32(), "share of lines that end with an ellipsis"),
    field("alphabetic_words", pa.float32(), "share of words with a letter"),
    field("duplicate_lines", pa.float32(), "share of lines that are repeated"),
    field("top_2gram", pa.float32(), "share of characters in the most frequent word 2-gram"),
    field("top_3gram", pa.float32(), "likewise, 3-gram"),
    field("top_4gram", pa.float32(), "likewise, 4-gram"),
    field("duplicate_5gram", pa.float32(), "share of characters in repeated word 5-grams"),
    field("duplicate_10gram", pa.float32(), "likewise, 10-grams"),
    field("gibberish", pa.float32(), "share of tokens that are emoji, hashtags or addresses"),
)
# Every record of the WARC, sorted by url_hash: `why URL` is one small range read a unit.
VERDICTS = schema(
    field("url_hash", pa.uint64(), "as in scores; 0 where the record has no address"),
    field("offset", pa.uint64(), "record offset in the WARC"),
    field("reason", pa.uint16(), "pipelines.reasons.Reason; 0 = went on"),
    field("value", pa.float32(), "the value that failed; 0 where there is none"),
)

# judge ------------------------------------------------------------------------------------------------------------
JUDGEMENTS = schema(
    field("row", pa.uint32(), "the page; every row of scores, in order"),
    field("reason", pa.uint16(), "0 = kept"),
    field("value", pa.float32(), "the score that failed"),
)

# decontaminate ----------------------------------------------------------------------------------------------------
CONTAMINATED = schema(
    field("row", pa.uint32(), "a page that judge kept and that holds an item of an evaluation set"),
    field("set", pa.uint16(), "index into the configured sets"),
    field("item", pa.uint32(), "ordinal of the item (a line of its file) in the set"),
    field("grams", pa.uint32(), "13-grams of the item that the page has"),
    field("covered", pa.float32(), "share of the item's 13-grams that the page has"),
    field("reason", pa.uint16(), "0 = under the bounds: told, and the page stays"),
)

# sign -------------------------------------------------------------------------------------------------------------
BANDS = 18  # at most; a scheme with fewer leaves the last ones 0
SLOTS = 126  # likewise
SIGNATURES = schema(
    field("row", pa.uint32(), "a page that judge kept"),
    field("doc_id", ID16, "the page: breaks ties of priority"),
    field("url_key", ID16, "sha256 of the canonical page address, first 16 bytes"),
    field("text_key", ID16, "xxh3-128 of the normalised text; zeros if there is none"),
    field("words", pa.uint32(), "words of the normalised text"),
    field("quality", pa.uint16(), "quantised quality, higher is better"),
    field(
        "bands",
        pa.list_(pa.field("item", pa.uint64(), nullable=False), BANDS),
        "band keys, the band folded in; 0 stands for a band that there is not, all 0 for a page without text",
    ),
)
# Rows of the next two are those of signatures, in the same order: the place of a page in one is its place in all.
SLOTS_8 = schema(
    field("row", pa.uint32(), "the page"),
    field("slots", pa.binary(SLOTS), "8-bit slots of the sketch: what verification estimates by"),
)
SHINGLES = schema(
    field("row", pa.uint32(), "the page"),
    field(
        "shingles",
        pa.large_binary(),
        "uint32 little-endian, one for each 5-gram in the order of the text, repetitions too: the top 32 bits of its "
        "hash; what verification counts where the estimate is too near the threshold",
    ),
)

# dedupe -----------------------------------------------------------------------------------------------------------
# doc = generation 16 bits | ordinal of the extract unit in that generation's manifest 24 | row 24.
KEYED = (
    field("key", pa.uint64(), "first 8 bytes of a 16-byte key; its top bits are the partition"),
    field("check", pa.uint64(), "its last 8 bytes"),
    field("doc", pa.uint64(), "the page"),
    field("kind", pa.uint8(), "0 address, 1 exact text"),
)
SPREAD_KEYS = schema(field("part", pa.uint16(), "partition"), *KEYED)
PRIORITIES = schema(
    field("doc", pa.uint64(), "every page of the block"),
    field("quality", pa.uint16(), "as in signatures"),
    field("words", pa.uint32(), "as in signatures"),
    field("doc_id", ID16, "breaks ties"),
)
# All pages of one address or one text: of every class of two pages or more with one of this generation.
CLASSES = schema(*KEYED)
# Pages whose text another page has too: the other one stands for both from here on.
TWINS = schema(
    field("block", pa.uint16(), "partition: ordinal of the page's unit over 256"),
    field("doc", pa.uint64(), "a page of this generation: not the smallest of its text, or its text is kept already"),
)
BAND = (
    field("key", pa.uint64(), "band key; its top bits are the partition"),
    field("doc", pa.uint64(), "the page that stands for its text"),
    field("rank", pa.uint16(), "quality and length, coarse: smaller goes first where a bucket has too many pages"),
)
BAND_KEYS = schema(field("part", pa.uint16(), "partition"), *BAND)
PAIRS = schema(
    field("block", pa.uint16(), "partition: block of b"),
    field("a", pa.uint64(), "smaller doc, of any generation"),
    field("b", pa.uint64(), "larger doc, of this generation"),
)
EDGES = schema(
    field("a", pa.uint64(), "smaller doc"),
    field("b", pa.uint64(), "larger doc"),
    field("similarity", pa.float32(), "Jaccard similarity of their 5-grams, counted or estimated; -1 if not looked at"),
    field("counted", pa.bool_(), "whether it was counted"),
)
DEDUPE_VERDICTS = schema(
    field("block", pa.uint16(), "partition: ordinal of the page's unit over 256"),
    field("doc", pa.uint64(), "a page of this generation that is linked to another; all others are kept"),
    field("reason", pa.uint16(), "0 = kept"),
    field("keeper", pa.uint64(), "the kept page that removes it; itself if kept"),
    field("cluster", pa.uint64(), "smallest doc of the connected component"),
    field("size", pa.uint32(), "pages in the component"),
    field(
        "similarity",
        pa.float32(),
        "to the keeper: 1 for the same text, as in edges for a near duplicate, -1 for the same address and for kept",
    ),
)
# Where the page that stood for a text in the bands is not the one of that text that was kept.
STAND_INS = schema(
    field("doc", pa.uint64(), "the page whose bands were compared"),
    field("kept", pa.uint64(), "the kept page of the same text, whose bands these are too"),
)
INDEX_KEYS = schema(*KEYED)
INDEX_BANDS = schema(*BAND)
# One row a run of bands: what says without reading the run where a key could be.
INDEX_FILTERS = schema(
    field("fences", large_list(pa.uint64()), "first key of each record batch of the run"),
    field("bloom", pa.large_binary(), "Bloom filter of its keys; pipelines.dedupe.bloom"),
)

# repeated paragraphs ----------------------------------------------------------------------------------------------
PARAGRAPHS = schema(
    field("part", pa.uint16(), "partition of the keys"),
    field("key", pa.uint64(), "hash of (registrable domain, normalised text of the item)"),
    field("doc", pa.uint64(), "a page that dedupe kept"),
    field("item", pa.uint32(), "index into its items"),
)
PARAGRAPH_COUNTS = schema(
    field("key", pa.uint64(), "as in PARAGRAPHS"),
    field("docs", pa.uint32(), "pages that have it, of this and all earlier generations"),
)
RECURRING = schema(
    field("block", pa.uint16(), "partition: ordinal of the page's unit over 256"),
    field("doc", pa.uint64(), "the page"),
    field("item", pa.uint32(), "index into its items: it goes"),
    field("docs", pa.uint32(), "as in PARAGRAPH_COUNTS"),
)

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
    field("unit", TEXT, "id: sha256 over its sorted (address id, tries), first 24 hex digits"),
    field("lane", TEXT, "units of one lane are never in flight together"),
    field("urls", pa.uint32(), "addresses"),
    field("domains", pa.uint32(), "politeness keys"),
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
    field("generation", pa.uint16(), "of the fetch stage"),
    field("unit", pa.uint32(), "ordinal of the fetch unit in that generation's manifest"),
    field("file", pa.uint16(), "index of the file of its images"),
    field("offset", pa.uint64(), "of the JPEG in the file"),
    field("length", pa.uint32(), "bytes of the JPEG; 0 if none"),
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

# pack -------------------------------------------------------------------------------------------------------------
SPAN = struct(("start", pa.int32()), ("end", pa.int32()))
STREAM = field("stream", pa.uint8(), "index into vocab.STREAMS")
# One sequence of one stream: a row of a training shard. Where its images go, 64 slots each stand in `tokens`.
TRAINING = schema(
    field("rank", pa.uint64(), "where the global shuffle puts it: rows of a shard ascend by it"),
    field("tokens", large_list(pa.int32()), "from <s> on, at most max_length; ids of engine.vocab"),
    field("image_starts", large_list(pa.int32()), "index in tokens of the first of the 64 slots of each image"),
    field("images", large_list(pa.large_binary()), "JPEG bytes, in order"),
    field("loss", large_list(SPAN), "[start, end) over tokens: token j counts when it is the target, predicted at j-1"),
    field("length", pa.int32(), "tokens"),
    field("counted", pa.int32(), "tokens that count: what the spans hold"),
    field("num_images", pa.int16(), "images"),
    field("source", TEXT, "the corpus that it comes from"),
    field("docs", large_list(ID16), "doc_id of each document in it, in order"),
)
# Rows on their way to their shard. Part number `shards`, one past the last, holds what is held out.
SAMPLES = schema(field("part", pa.uint16(), "the shard"), STREAM, *TRAINING)
# The text of documents on its way to full sentences. Part number `partitions` holds what is held out.
LINES = schema(
    field("part", pa.uint16(), "partition of `order`"),
    field("order", pa.uint64(), "hash of (seed, doc_id): documents are laid out in this order"),
    field("doc_id", ID16, "the page"),
    field("tokens", large_list(pa.int32()), "its lines one after another, each with the </line> or </s> that ends it"),
    field("ends", large_list(pa.int32()), "index in tokens past the end of each line"),
)
PACKED = schema(
    DOC,
    field("doc_id", ID16, "the page"),
    STREAM,
    field("index", pa.int16(), "index into images (caption), part of the document (interleaved), 0 (text)"),
    field("reason", pa.uint16(), "0 = it is in a training row"),
    field("value", pa.float32(), "the number that decided, or the tokens that count"),
)
VOCABULARY = schema(
    field("sha256", pa.binary(32), "of the model"),
    field("pieces", pa.int32(), "entries of the SentencePiece model, its three controls included"),
    field("model", pa.large_binary(), "the SentencePiece model file"),
)
