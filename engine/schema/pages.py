"""Tables from the WARC file to the pages that deduplication keeps."""

from __future__ import annotations

import pyarrow as pa

from engine.schema.fields import ID16, TEXT, field, large_list, schema, struct

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
    field("item", pa.uint32(), "line of the item in its file, from 0"),
    field("grams", pa.uint32(), "13-grams that the page has, of the reading of the item of which it has most"),
    field("covered", pa.float32(), "share of that reading's 13-grams that the page has"),
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
RANK = field("rank", pa.uint32(), "priority in 32 bits, smaller is better; pipelines.dedupe.rank")
SPREAD_KEYS = schema(field("part", pa.uint16(), "partition"), *KEYED, RANK)
PRIORITIES = schema(
    field("doc", pa.uint64(), "every page of the block"),
    field("quality", pa.uint16(), "as in signatures"),
    field("words", pa.uint32(), "as in signatures"),
    field("doc_id", ID16, "breaks ties"),
)
# All pages of one address or one text: of every class of two pages or more with one of this generation.
CLASSES = schema(
    *KEYED, field("stands", pa.bool_(), "whether its bands are compared, for all of this generation's text")
)
# Pages whose text another page has too: the other one stands for both from here on.
TWINS = schema(
    field("block", pa.uint16(), "partition: ordinal of the page's unit over 256"),
    field(
        "doc",
        pa.uint64(),
        "a page of this generation whose text a better one stands for, or a kept one of before",
    ),
)
BAND_KEY = field("key", pa.uint64(), "band key; its top bits are the partition")
BAND_KEYS = schema(
    field("part", pa.uint16(), "partition"),
    BAND_KEY,
    field("page", pa.uint32(), "low 32 bits of the doc that stands for its text: its unit tells the high ones"),
    RANK,
)
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
# What the index leaves out, apart from why: each of its units reads all of it.
GONE = schema(field("doc", pa.uint64(), "a page of this generation that is not kept"))
# Where the page that stood for a text in the bands is not the one of that text that was kept.
STAND_INS = schema(
    field("doc", pa.uint64(), "the page whose bands were compared"),
    field("kept", pa.uint64(), "the kept page of the same text, whose bands these are too"),
)
INDEX_KEYS = schema(*KEYED)
INDEX_BANDS = schema(BAND_KEY, field("doc", pa.uint64(), "the kept page of that text"), RANK)
# One row a run of bands: what says without reading the run where a key could be.
INDEX_FILTERS = schema(
    field("fences", large_list(pa.uint64()), "key of every 4,096th row of the run, from the first one on"),
    field("bloom", pa.large_binary(), "Bloom filter of its keys; pipelines.dedupe.bloom"),
)
# A row a generation that a run holds, the newest first: a frozen commit has rows and no counts.
INDEX_GENERATIONS = schema(field("generation", pa.uint16(), "a generation whose kept pages it holds"))

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
