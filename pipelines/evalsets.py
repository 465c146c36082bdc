"""Evaluation sets as text: the lines of JSONL and TSV files, each an item, and the ways in which an item reads.

What a page would hold of an item is prose, and no JSON: fields in the order in which people read them, one alternative
at a time. So `{"choices": ["a", "b"], "query": "q"}` reads "q a", "q b" and, as quizzes put letters between, "q" alone.
Labels of prompts ("Question:", "Answer:") are no part of it.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from engine.errors import ConfigError
from engine.store import Store, absolute, local_path

MAX_BYTES = 256 << 20  # of a file, decompressed: all of BIG-bench is less
MAX_ITEMS = 1 << 22  # of a file
MAX_FIELDS = 1024  # strings of an item
MAX_DEPTH = 16
MAX_ALTERNATIVES = 64  # that are read, of an item: the first ones
SETTINGS = "decontaminate.sets or decontaminate.allow"
KINDS = {".jsonl": "jsonl", ".json": "jsonl", ".ndjson": "jsonl", ".tsv": "tsv"}
NAMED = re.compile(r"([\w.-]+)=(.+)", re.DOTALL)
PLAIN = re.compile(r"[\w.-]+")
# Where nothing is said about fields: those that say nothing of what an item asks, and those that come last.
BESIDES = re.compile(
    r"id|idx|ind|[ugq]u?id|gold|labels?|source|source_?id|split|url|type|category|subject|topic|is_correct"
    r"|answer_?(?:key|start|idx)"
)
CLOSING = re.compile(
    r"choices?|options?|endings?|continuation|completion|(?:correct_?)?answers?|targets?|distractors?|sol(?:ution)?s?"
)
LABEL = re.compile(
    r"^[ \t]*(?:question|passage|context|choices|options|answers?|sentence|premise|hypothesis|article|story|text|goal"
    r"|q|a)[ \t]*:[ \t]*",
    re.IGNORECASE | re.MULTILINE,
)
TREEBANK = ((" n't", "n't"), ("-lrb-", "("), ("-rrb-", ")"), ("-LRB-", "("), ("-RRB-", ")"))  # as SST-2 writes
NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?")


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """A file that is configured. kind: jsonl, tsv, or text, which is a list of phrases."""

    name: str
    uri: str
    kind: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """An item of a set. line: from 0. readings: each way in which a page would hold it, none of them empty."""

    line: int
    readings: tuple[str, ...]


def source(setting: str) -> Source:
    """What "name=address" or an address means; ConfigError if the file's name does not say what it is."""
    named = NAMED.fullmatch(setting)
    uri = named[2] if named else setting
    stem, ending = suffix(uri)
    if ending not in KINDS:
        raise ConfigError(
            f"{uri} is neither .jsonl nor .tsv (.gz may follow); convert it, and give decontaminate.sets name=path"
        )
    name = named[1] if named else stem
    if not PLAIN.fullmatch(name):
        raise ConfigError(f"{name!r} cannot name a set (letters, digits, _ . -); give decontaminate.sets name={uri}")
    return Source(name=name, uri=uri, kind=KINDS[ending])


def sources(settings: Sequence[str]) -> list[Source]:
    """The configured sets in their order; ConfigError if two have one name."""
    found = [source(setting) for setting in settings]
    names = [one.name for one in found]
    for one in found:
        if names.count(one.name) > 1:
            raise ConfigError(f"two sets are named {one.name}; give decontaminate.sets name=path to tell them apart")
    return found


def body(uri: str, settings: str = SETTINGS) -> bytes:
    """The bytes of a file at a path or address, unpacked if it is .gz; ConfigError if there are none or too many.

    settings: that may name it, for the sentence of an error.
    """
    found = _stored(uri, settings)
    if uri.lower().endswith(".gz"):
        try:
            with gzip.open(BytesIO(found)) as file:
                found = file.read(MAX_BYTES + 1)
        except (OSError, EOFError, zlib.error) as error:
            raise ConfigError(f"{uri} is damaged ({error}); fetch it again") from None
    if len(found) > MAX_BYTES:
        raise ConfigError(f"{uri} is over {MAX_BYTES >> 20} MiB; cut it into files and name each of them")
    return found


def digest(found: Sequence[tuple[Source, bytes]]) -> str:
    """Hex sha256 of names, kinds and contents, in their order: a set is known by its place."""
    total = hashlib.sha256()
    for one, content in found:
        total.update(f"{one.kind} {one.name} {hashlib.sha256(content).hexdigest()}\n".encode())
    return total.hexdigest()


def items(one: Source, content: bytes, fields: Sequence[str] = ()) -> Iterator[Item]:
    """The items of a set; ConfigError that names file and line for what cannot be read.

    fields: of a JSONL object or, with a first line that names them, of a TSV file, in the order in which they read.
    """
    read = objects(one, content) if one.kind == "jsonl" else _rows(one, content, fields)
    num = 0
    for num, (line, value) in enumerate(read, 1):
        if num > MAX_ITEMS:
            raise ConfigError(f"{one.uri} has over {MAX_ITEMS} items; cut it into files")
        try:
            spoken = readings(value, fields)
        except ValueError as error:
            raise ConfigError(f"{one.uri}, line {line + 1}: {error}; mend it or leave the line empty") from None
        if fields and not spoken and not any(name in value for name in fields):
            raise ConfigError(
                f"{one.uri}, line {line + 1} has none of the fields {', '.join(fields)} but {', '.join(value)[:160]}; "
                "set decontaminate.fields to some of them, or to nothing for all"
            )
        yield Item(line=line, readings=spoken)
    if num == 0:
        raise ConfigError(f"{one.uri} holds no item; take it out of decontaminate.sets")


def phrases(uri: str, content: bytes) -> list[str]:
    """The lines of an allow list; ConfigError if they are not UTF-8."""
    return [text for _, text in lines(Source(name=uri, uri=uri, kind="text"), content)]


def readings(value: dict[str, Any], fields: Sequence[str] = ()) -> tuple[str, ...]:
    """The texts of an item: a reading an alternative, and what is asked alone where there are several.

    A list holds alternatives; two lists go in step. ValueError if it has too many strings or levels.
    """
    known: dict[str, Any] = {name: value[name] for name in fields if name in value} if fields else value
    parts = list(_parts(known, closing=False, depth=0, ordered=bool(fields)))
    if sum(len(texts) for texts, _ in parts) > MAX_FIELDS:
        raise ValueError(f"it has over {MAX_FIELDS} strings")
    num = max((len(texts) for texts, _ in parts), default=0)
    stem = [texts[0] for texts, closing in parts if len(texts) == 1 and not closing]
    found = [stem] if num > 1 else []
    found += [[texts[min(i, len(texts) - 1)] for texts, _ in parts] for i in range(min(num, MAX_ALTERNATIVES))]
    return tuple(dict.fromkeys(text for text in (" ".join(words).strip() for words in found) if text))


def _parts(value: Any, *, closing: bool, depth: int, ordered: bool) -> Iterator[tuple[tuple[str, ...], bool]]:
    """(alternatives, whether they close the item) in the order of reading."""
    if depth > MAX_DEPTH:
        raise ValueError(f"it has over {MAX_DEPTH} levels")
    if isinstance(value, str):
        text = _clean(value)
        if text:
            yield (text,), closing
    elif isinstance(value, list):
        each = [_parts(one, closing=False, depth=depth + 1, ordered=False) for one in value]
        texts = [" ".join(text for alternatives, _ in parts for text in alternatives) for parts in each]
        said = tuple(text for text in texts if text)
        if said:
            yield said, closing
    elif isinstance(value, dict):
        known = value if ordered else _grouped(value)
        names = list(known) if ordered else [name for name in known if not BESIDES.fullmatch(name.lower())]
        if not ordered:
            names.sort(key=_closes)  # stable: else as the file has them
        for name in names:
            yield from _parts(known[name], closing=closing or _closes(name), depth=depth + 1, ordered=False)


def _closes(name: str) -> bool:
    return CLOSING.fullmatch(name.lower()) is not None


def _grouped(value: dict[str, Any]) -> dict[str, Any]:
    """ending0, ending1 and so on as one list: that is how they are alternatives."""
    found: dict[str, Any] = {}
    for name, inner in value.items():
        whole = name.rstrip("0123456789").rstrip("_")
        if whole != name and _closes(whole):
            found.setdefault(whole, [])
            found[whole] = [*(found[whole] if isinstance(found[whole], list) else [found[whole]]), inner]
        else:
            found[name] = inner
    return found


def _clean(text: str) -> str:
    for old, new in TREEBANK:
        text = text.replace(old, new)
    # half of a surrogate pair is no text, and JSON can spell it
    return LABEL.sub("", text).strip().encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def objects(one: Source, content: bytes) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number from 0, object) of each line that is not empty; a text is an object with that text. ConfigError for what
    is neither."""
    for line, text in lines(one, content):
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ConfigError(
                f"{one.uri}, line {line + 1} is no JSON ({error}); each line of a .jsonl file is an object"
            ) from None
        if isinstance(value, str):
            value = {"text": value}
        if not isinstance(value, dict):
            raise ConfigError(f"{one.uri}, line {line + 1} is no object; each line of a .jsonl file is one")
        yield line, value


def _rows(one: Source, content: bytes, fields: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    names: list[str] = []
    for line, text in lines(one, content):
        cells = text.split("\t")
        if not names:
            names = [cell.strip() for cell in cells] if fields else [f"column {i + 1}" for i in range(len(cells))]
            if fields:
                if not set(fields) & set(names):
                    raise ConfigError(
                        f"{one.uri}, line 1 names none of the fields {', '.join(fields)}; set decontaminate.fields to "
                        "some of its names, or to nothing for all columns"
                    )
                continue
        if len(cells) != len(names):
            raise ConfigError(
                f"{one.uri}, line {line + 1} has {len(cells)} columns and the first has {len(names)}; mend it"
            )
        yield line, {name: "" if NUMBER.fullmatch(cell) else cell for name, cell in zip(names, cells, strict=True)}


def lines(one: Source, content: bytes) -> Iterator[tuple[int, str]]:
    """(number from 0, text) of each line that is not empty; ConfigError if it is not UTF-8."""
    for line, raw in enumerate(BytesIO(content.removeprefix(b"\xef\xbb\xbf"))):
        try:
            text = raw.decode().strip("\r\n")
        except UnicodeDecodeError:
            raise ConfigError(f"{one.uri}, line {line + 1} is not UTF-8; convert the file") from None
        if text.strip():
            yield line, text


def _stored(uri: str, settings: str) -> bytes:
    path = local_path(uri) if "://" in uri else Path(uri).expanduser()
    if path is None:
        root, _, name = absolute(uri).rpartition("/")
        store = Store(root)
        head = store.head(name)
        if head is None:
            raise ConfigError(f"{uri} is not there; mend its address in {settings}")
        return store.get(name) if head.size <= MAX_BYTES else bytes(MAX_BYTES + 1)
    if path.exists() and not path.is_file():
        raise ConfigError(f"{uri} is no file; mend its address in {settings}")
    try:
        with open(path, "rb") as file:
            return file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{uri} cannot be read ({error.strerror}); mend its address in {settings}") from None


def suffix(uri: str) -> tuple[str, str]:
    """(name of the file without its suffixes, the suffix before .gz, in small letters)."""
    name = uri.rpartition("/")[2]
    whole = name[:-3] if name.lower().endswith(".gz") else name
    stem, dot, ending = whole.rpartition(".")
    return stem, (dot + ending).lower()
