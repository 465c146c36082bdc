"""Why a record is not in the data: one number a reason, for ever.

Numbers are written to verdict tables, so they are only ever added, never changed or used again. 0 is "kept".
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum

import numpy as np
import numpy.typing as npt


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
    OPT_OUT_HEADER = 30  # X-Robots-Tag; value = the number of the directive, as in rights.OPT_OUT
    OPT_OUT_META = 31  # <meta name=robots>; likewise
    OPT_OUT_TDM = 32  # TDM reservation, or a Content-Usage that excludes training
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
    # evaluation sets
    CONTAMINATED = 110  # holds an item of an evaluation set; value = share of its 13-grams
    # dedupe
    DUPLICATE_URL = 120
    DUPLICATE_TEXT = 121
    NEAR_DUPLICATE = 122
    # an image reference, before any request; value = the number that decided
    IMAGE_BLOCKED = 160  # a token of its path is on the blocklist: logo, icon, pixel, ...
    IMAGE_ADULT = 161  # a token of its path is on the adult list
    IMAGE_DECLARED_SMALL = 162  # width or height declared in the page under the bound
    IMAGE_DRAWING = 163  # svg or svgz: no pixels
    IMAGE_FREQUENT = 164  # in more documents than the bound; value = documents
    IMAGE_TWICE = 165  # the same address stands earlier in the document
    IMAGE_SURPLUS = 166  # the document has enough candidates, or enough images
    # a document, over its images
    NO_IMAGE = 170  # the page has no image reference: it belongs to the texts
    NO_CANDIDATE = 171  # no reference is worth a request
    TOO_MANY_REFERENCES = 172  # more than the bound after the address rules; value = how many
    SINGLE_IMAGE = 173  # the coin: half of the documents with one image go
    NO_IMAGE_LEFT = 174  # every candidate failed at fetch or at the image gate
    NO_TEXT_LEFT = 176  # nothing but paragraphs that its site repeats; value = how many went
    NOT_INTERSPERSED = 175  # no prose beside any image (K: images must be interspersed with text)
    SAME_IMAGES = 177  # the very images of another kept document, which shows them; value = how many
    # a request; value = HTTP status, curl's error number, or bytes
    NOT_ASKED = 180  # no outcome is on record
    DNS = 181
    CONNECT = 182  # refused, reset, unreachable
    TLS = 183
    TIMEOUT = 184  # connect, total, or too slow for too long
    HTTP_GONE = 185  # 404, 410
    HTTP_CLIENT = 186  # other 4xx
    HTTP_BUSY = 187  # 429
    HTTP_SERVER = 188  # 5xx
    HTTP_OTHER = 189  # any other status that is not 200
    REDIRECTS = 190  # too many, or to what is no http(s) address
    PRIVATE_ADDRESS = 191  # the name or a redirect led to an address or port that is not public
    OPT_OUT_IMAGE = 192  # X-Robots-Tag or TDM reservation of the image
    ROBOTS = 193  # robots.txt disallows
    ROBOTS_UNREACHABLE = 194  # robots.txt answers 5xx
    BODY_TOO_LARGE = 195  # over the byte limit; value = the limit
    BODY_EMPTY = 196
    BODY_CUT = 197  # fewer bytes than announced, or an encoding that cannot be decoded
    PROTOCOL = 198  # no HTTP
    DOMAIN_DOWN = 200  # not asked: so many requests to its domain in a row had no answer, or "later"
    FETCHER = 199  # our own code raised on this address: a bug worth a report
    DEFERRED = 201  # not asked: pace and pauses of its domain left no turn in its unit; value = its seconds
    MOVED = 202  # redirects to another operator, who is asked in a turn of his own
    DOMAIN_BUDGET = 203  # not asked: its domain has more addresses than the budget; value = the budget
    OPT_OUT_ROBOTS = 204  # robots.txt reserves the use for training
    # the image gate
    NOT_AN_IMAGE = 210  # the first bytes are of no format that we read
    UNDECODABLE = 211  # an image's header, but no image
    TOO_MANY_PIXELS = 212  # by its header; value = megapixels
    SIDE_SMALL = 213  # value = the smaller side
    SIDE_LARGE = 214  # value = the larger side
    ASPECT = 215  # value = larger side over smaller
    SINGLE_COLOUR = 216  # value = standard deviation on 32 x 32
    # an image, over all documents
    IMAGE_REPEATED = (
        220  # the same bytes or the same perceptual hash in more documents than the bound; value = documents
    )
    IMAGE_REPEATED_HERE = 221  # likewise or nearly so, earlier in the document; value = bits that differ
    IMAGE_CONTAMINATED = 222  # an image of an evaluation set; value = bits of the perceptual hash that differ
    # what could be a training row
    PART_WITHOUT_IMAGE = 230  # a part of a document over the length, left without an image; value = its tokens
    CAPTION_NONE = 231  # an image without alternative text and caption
    CAPTION_SHORT = 232  # fewer characters or words than the bound; value = words
    CAPTION_LONG = 233  # more words than the bound; value = words
    CAPTION_NAME = 234  # a file name or an address

    @property
    def word(self) -> str:
        """The reason as people and counters see it."""
        return self.name.lower()


# What passes: asked again once in each later generation, three times in all (lifecycle). Everything else is for good.
PASSING = frozenset(
    (
        Reason.DNS,
        Reason.CONNECT,
        Reason.TIMEOUT,
        Reason.HTTP_BUSY,
        Reason.HTTP_SERVER,
        Reason.ROBOTS_UNREACHABLE,
        Reason.BODY_CUT,
        Reason.DOMAIN_DOWN,
        Reason.DEFERRED,
        Reason.FETCHER,
    )
)


def tally(reasons: npt.NDArray[np.uint16]) -> Iterator[tuple[str, int]]:
    """(word, how often) of each reason that occurs, in order of numbers: what a stage counts."""
    for number, num in zip(*np.unique(reasons, return_counts=True), strict=True):
        yield Reason(int(number)).word, int(num)
