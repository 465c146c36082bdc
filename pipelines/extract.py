"""WARC to documents: gate on bytes, parse once, stream, language, rights, block rules, scores, and a verdict a record.

One parse serves all corpora: pages with images are documents, the others texts, numbered together in record order.
Thresholds on scores are `judge`'s; here go only hard limits, opt-outs, the loosest language bound and block rules.
Limits are counts, so that the output never depends on the machine. A page that makes our own code raise is a counted
reason (`parser`), never a failed unit.
"""

from __future__ import annotations

import gc
import hashlib
import re
import struct
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from importlib.metadata import version

import numpy as np
import pyarrow as pa

from engine import schema
from engine.stage import SIDE, Output, Unit, Work
from pipelines import charset, guards, language, rights, rules, stream, urls, warc
from pipelines.entries import IMAGE, Stream
from pipelines.reasons import Reason
from pipelines.rows import Page, Rows
from pipelines.tally import Array

VERSION = 4
OUTPUTS = (
    Output(name="documents", schema=schema.DOCUMENTS, batch_rows=512),  # some megabytes of text
    Output(name="captions", schema=schema.CAPTIONS),
    Output(name="texts", schema=schema.TEXTS, batch_rows=512),
    Output(name="references", schema=schema.REFERENCES),
    Output(name="scores", schema=schema.SCORES),
    Output(
        name="verdicts",
        schema=schema.VERDICTS,
        sort_by=("url_hash", "offset"),
        batch_rows=1 << 24,
        compression=None,
    ),
)
HTML_TYPES = frozenset(("text/html", "application/xhtml+xml"))
GENERIC_TYPES = frozenset(
    ("", "*/*", "unknown/unknown", "application/unknown", "application/octet-stream", "application/xml", "text/xml",
     "application/x-unknown-content-type", "application/html", "html", "text", "text/xhtml", "application/xhtml")
)  # fmt: skip
# What browsers take for HTML (WHATWG MIME sniffing), after an XML declaration or comment too.
HTML_START = re.compile(
    rb"(?:\xef\xbb\xbf)?[\s\0]{0,512}+(?:<\?xml[^>]{0,512}>\s{0,512}+)?(?><!--.{0,2048}?-->\s{0,512}+){0,4}+"
    rb"<(?:!doctype\s{1,64}html|html|head|body|script|iframe|h1|div|font|table|a|style|title|b|br|p|meta)[\s>]",
    re.I | re.S,
)
NEVER_HTML = (b"%PDF", b"\x89PNG", b"GIF8", b"\xff\xd8\xff", b"PK\x03\x04", b"RIFF", b"\x1f\x8b", b"OggS", b"ID3")


def libraries() -> tuple[str, ...]:
    """Versions of everything that decides bytes, for the stage key."""
    names = ("selectolax", "fastwarc", "brotli", "resiliparse", "pycld2", "fasttext-predict")
    return (
        *(f"{name} {version(name)}" for name in names),
        f"unicode {unicodedata.unidata_version}",
        f"lid.176.ftz {language.model_digest()}",
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Every limit of the stage. The defaults are the preset kosmos1."""

    max_record_bytes: int = 16 << 20
    max_page_bytes: int = 4 << 20
    max_images: int = 4096
    guards: guards.Limits = field(default_factory=guards.Limits)
    language: str = "en"  # K: English only
    min_language_score: float = 0.5  # the loosest preset; judge applies its own
    blocks: rules.BlockRules = field(default_factory=rules.kosmos1)
    respect_opt_out: bool = True
    agent: str = rights.AGENT
    chunk_pages: int = 256  # pages, or characters of their text, that become one table: bounds memory
    chunk_chars: int = 16 << 20
    libraries: tuple[str, ...] = field(default_factory=libraries)


def obelics() -> Config:
    """The preset of OBELICS: all its block rules."""
    return Config(blocks=rules.obelics())


COLLECT_RECORDS = 1024  # from one collection of cycles to the next
Refusal = tuple[Reason, float]


def process(unit: Unit, config: Config, work: Work) -> Iterator[tuple[str, pa.Table]]:
    """Extract one WARC; unit.inputs = (identity, address, crawl)."""
    # What is loaded by now is no garbage, and neither are the pages that wait to be written: walking them again and
    # again costs a thirtieth of all time and more. What else is left over goes every COLLECT_RECORDS.
    collects = gc.isenabled()
    gc.freeze()
    gc.disable()
    try:
        yield from _process(unit, config, work)
    finally:
        gc.unfreeze()
        if collects:
            gc.enable()


def _process(unit: Unit, config: Config, work: Work) -> Iterator[tuple[str, pa.Table]]:
    identity, uri, crawl = unit.inputs
    rows = Rows(crawl=crawl, file=identity)
    for place, record in enumerate(warc.records(work.local(uri), work.enter, config.max_record_bytes), 1):
        address, url_hash = _addressed(record.url)
        outcome = _judged(record, address, config, work)
        if isinstance(outcome, Page):
            doc_id = hashlib.sha256(f"{identity}\n{record.offset}".encode()).digest()[:16]
            rows.add(outcome, doc_id=doc_id, url_hash=url_hash)
            reason, value = Reason.KEPT, 0.0
        else:
            reason, value = outcome
        rows.verdict(url_hash, record.offset, reason, value)
        work.count(reason.word)
        if reason in (Reason.OPT_OUT_HEADER, Reason.OPT_OUT_META):
            work.count(f"opt_out{SIDE}{rights.OPT_OUT[int(value) - 1]}")
        if rows.num_pending >= config.chunk_pages or rows.num_chars >= config.chunk_chars:
            yield from rows.tables()
        if place % COLLECT_RECORDS == 0:
            gc.collect()
    yield from rows.tables()
    yield from rows.verdicts()


@lru_cache(maxsize=4)  # request, response and metadata share an address
def _addressed(url: str) -> tuple[str, int]:
    """The canonical form of an address, and its hash."""
    address = urls.canonical(url)
    digest = hashlib.sha256(address.encode("ascii")).digest() if address else bytes(8)
    return address, struct.unpack_from("<Q", digest)[0]


def _judged(record: warc.Record | warc.Bad, address: str, config: Config, work: Work) -> Page | Refusal:
    """The page of a record, or why there is none."""
    if isinstance(record, warc.Bad):
        return record.reason, record.value
    if record.kind != "response":
        return Reason.NOT_RESPONSE, 0.0
    if not address:
        return Reason.BAD_URL, 0.0
    try:
        gated = gate(record, config)
        return gated if isinstance(gated, tuple) else read(record, gated, address, config, work)
    except MemoryError:
        raise
    except Exception:  # the record guard: one page's surprise must not cost the file
        return Reason.PARSER, 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Gated:
    """What passed the gate: the page as UTF-8, and the headers that speak of rights."""

    html: bytes
    robots: str
    reserved: str


def gate(record: warc.Record, config: Config) -> Gated | Refusal:
    """All checks that need no parse, cheapest first."""
    if record.size > config.max_record_bytes:
        return Reason.TOO_LARGE, float(record.size)
    message = warc.response(record.block)
    if isinstance(message, Reason):
        return message, 0.0
    if message.status != 200:
        return Reason.HTTP_STATUS, float(message.status)
    content_type = message.first("content-type")
    kind = content_type.partition(";")[0].strip().lower()
    if kind not in HTML_TYPES and kind not in GENERIC_TYPES and "/" in kind:
        return Reason.NOT_HTML, 0.0
    robots = rights.robots_header(message.all("x-robots-tag"), config.agent)
    if config.respect_opt_out and (directive := rights.opted_out(robots, record.date)):
        return Reason.OPT_OUT_HEADER, float(directive)
    reserved = rights.reserved(message.all("tdm-reservation")) or rights.usage_reserved(
        [*message.all("content-usage"), *message.all("content-signal")]
    )
    if config.respect_opt_out and reserved:
        return Reason.OPT_OUT_TDM, 0.0
    if not message.body.strip():
        return Reason.EMPTY, 0.0
    body = warc.decoded(message, config.max_page_bytes)
    if body is Reason.TOO_LARGE:
        return body, float(max(len(message.body), config.max_page_bytes + 1))
    if isinstance(body, Reason):
        return body, 0.0
    if not body.strip():
        return Reason.EMPTY, 0.0
    if body.startswith(NEVER_HTML) or (kind not in HTML_TYPES and not HTML_START.match(body)):
        return Reason.NOT_HTML, 0.0
    text = charset.to_utf8(body, content_type)
    if not text.codec:
        return Reason.CHARSET, text.bad
    over = guards.exceeded(guards.scan(text.text, config.guards), config.guards)
    if over is not None:
        return over[0], float(over[1])
    return Gated(html=text.text, robots=robots, reserved=reserved)


def read(record: warc.Record, gated: Gated, address: str, config: Config, work: Work) -> Page | Refusal:
    """Parse a page that passed the gate; stream, rights, language, block rules, scores."""
    found = stream.parse(gated.html, address, config.max_images)
    meta = rights.robots_meta(found.metas, config.agent)
    reserved = gated.reserved or rights.reserved(value for name, value in found.metas if name == "tdm-reservation")
    if config.respect_opt_out and (directive := rights.opted_out(meta, record.date)):
        return Reason.OPT_OUT_META, float(directive)
    if config.respect_opt_out and reserved:
        return Reason.OPT_OUT_TDM, 0.0
    if found.too_many_images:
        return Reason.TOO_MANY_IMAGES, float(config.max_images + found.too_many_images)
    if len(found.images) == len(found.kinds):
        return Reason.NO_TEXT, 0.0
    lang = language.identify(found.lines(language.CLD_CHARS), found.lang, config.language)
    if lang.wanted < config.min_language_score:
        return Reason.LANGUAGE, lang.wanted
    kept = drop_blocks(found, config, work)
    if kept is None:
        return Reason.NO_TEXT, 0.0
    return Page(
        record=replace(record, block=b""),  # pages wait for others; their bytes need not
        host=urls.host(address),
        lang=lang,
        rights=rights.Rights(robots=gated.robots, meta=meta, tdm=reserved),
        stream=kept[0],
        scores=kept[1],
    )


def drop_blocks(found: Stream, config: Config, work: Work) -> tuple[Stream, Array] | None:
    """Apply the block rules; what goes is counted as block:<rule>. What stays, and its scores; None if nothing does."""
    image = np.zeros(len(found.kinds) + 2, np.bool_)
    image[1:-1] = found.kinds == IMAGE
    texts = ~image[1:-1]
    counted = rules.count(found.text, found.offsets[~image[1:]])  # an image takes no room in the text
    beside = (image[:-2] | image[2:])[texts]
    failed = rules.failing(found.kinds[texts], beside, counted, config.blocks)
    if not failed.any():
        return found, rules.page(counted)
    for rule, num in enumerate(np.bincount(failed).tolist()):
        if rule:
            work.count(f"block{SIDE}{rules.RULES[rule]}", num)
    kept = np.flatnonzero(failed == 0)
    if not len(kept):
        return None
    drop = np.zeros(len(texts), np.bool_)
    drop[texts] = failed != 0
    return found.without(drop), rules.page(counted, kept)


def describe(config: Config, reason: Reason, value: float) -> str:
    """What a verdict's value stands for and the bound that it broke, for people; "" where there is neither."""
    if reason in (Reason.OPT_OUT_HEADER, Reason.OPT_OUT_META):
        directive = rights.OPT_OUT[int(value) - 1] if 0 < value <= len(rights.OPT_OUT) else "a directive"
        return f"the page says {directive}; extract.respect_opt_out is {str(config.respect_opt_out).lower()}"
    if reason == Reason.OPT_OUT_TDM:
        told = "tdm-reservation or content-usage reserves training"
        return f"{told}; extract.respect_opt_out is {str(config.respect_opt_out).lower()}"
    limits = config.guards
    size = "max_record_bytes" if value > config.max_record_bytes else "max_page_bytes"
    attributes = "tag_attributes" if value <= limits.attributes else "attributes"
    bounds: dict[Reason, tuple[str, str, object]] = {
        Reason.HTTP_STATUS: ("status", "", 200),
        Reason.TOO_LARGE: ("bytes", size, getattr(config, size)),
        Reason.TOO_DEEP: ("nested elements", "guards.depth", limits.depth),
        Reason.TOO_MANY_NODES: ("nodes", "guards.nodes", limits.nodes),
        Reason.TOO_MANY_ATTRIBUTES: ("attributes", f"guards.{attributes}", getattr(limits, attributes)),
        Reason.TOO_MANY_IMAGES: ("images", "max_images", config.max_images),
        Reason.LANGUAGE: (f"score of {config.language}", "min_language_score", config.min_language_score),
    }
    if reason not in bounds:
        return f"value {value:.4g}" if value else ""
    what, setting, bound = bounds[reason]
    return f"{what} {value:.7g}, " + (f"extract.{setting} is {bound}" if setting else f"only {bound} is read")
