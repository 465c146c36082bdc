"""Tables from curated shards to training rows."""

from __future__ import annotations

import pyarrow as pa

from engine.schema.fields import ID16, TEXT, field, large_list, schema, struct
from engine.schema.images import DOC

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
