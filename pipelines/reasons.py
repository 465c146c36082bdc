"""Why a record is not in the data: one number a reason, for ever.

Numbers are written to verdict tables, so they are only ever added, never changed or used again. 0 is "kept".
"""

from __future__ import annotations

from enum import IntEnum


class Reason(IntEnum):
    """A verdict on one record; `.name.lower()` is the word that counts and people see."""

    KEPT = 0
    # the WARC record
    NOT_RESPONSE = 1  # warcinfo, request, metadata, revisit, resource, ...
    CORRUPT = 2  # a gzip member or record header that cannot be read; the reader went on at the next member
    HTTP_HEADER = 3  # no HTTP status line, or headers over the limit
    HTTP_STATUS = 4  # not 200; value = the status
    NOT_HTML = 5  # Content-Type is not HTML, or the body is something else
    EMPTY = 6  # no body
    TOO_LARGE = 7  # body over the byte limit; value = bytes
    CONTENT_ENCODING = 8  # body cannot be decoded (gzip, deflate, br, chunked)
    CRASHED = 9  # the record crashed the worker twice
    CHARSET = 10  # no charset gives readable text; value = share of bad characters
    BAD_URL = 11  # target is not an absolute http or https URL
    PARSER = 12  # our own code raised on this page: a bug worth a report, and no reason to lose the rest of the file
    # guards before and after the parse; value = the count that was over
    TOO_DEEP = 20
    TOO_MANY_NODES = 21
    TOO_MANY_ATTRIBUTES = 22
    TOO_MANY_IMAGES = 23
    # the page
    OPT_OUT_HEADER = 30  # X-Robots-Tag
    OPT_OUT_META = 31  # <meta name=robots>
    OPT_OUT_TDM = 32  # TDM reservation
    NO_TEXT = 40  # nothing left once boilerplate is out
    LANGUAGE = 41  # value = score of the wanted language
    # document rules; value = the score that failed
    WORDS = 60
    MEAN_WORD_LENGTH = 61
    CHARACTER_REPETITION = 62
    WORD_REPETITION = 63
    SPECIAL_CHARACTERS = 64
    STOPWORDS = 65
    FLAGGED_WORDS = 66
    PUNCTUATION = 67
    SPAM_WORDS = 68
    SYMBOLS = 69
    BULLETS = 70
    ELLIPSIS = 71
    ALPHABETIC_WORDS = 72
    DUPLICATE_LINES = 73
    DUPLICATE_NGRAMS = 74
    TOP_NGRAM = 75
    GIBBERISH = 76
    # dedupe
    DUPLICATE_URL = 120
    DUPLICATE_TEXT = 121
    NEAR_DUPLICATE = 122

    @property
    def word(self) -> str:
        """The reason as people and counters see it."""
        return self.name.lower()
