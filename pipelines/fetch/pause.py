"""Retry-After: how long a server asks to be left alone, in seconds or as a date (RFC 9110, 10.2.3)."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC
from email.utils import parsedate_to_datetime

MAX_S = 1e9  # whatever is longer is as good as never


def seconds(text: str, now: float) -> float | None:
    """The seconds from `now` (since 1970) that a header's value asks for, 0 to MAX_S; None if it says nothing."""
    text = text.strip()
    if text.isascii() and text.isdigit():
        return min(float(text[:12]), MAX_S)
    with suppress(ValueError, TypeError, OverflowError, IndexError):
        date = parsedate_to_datetime(text[:100])
        at = (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
        return min(max(0.0, at - now), MAX_S)
    return None
