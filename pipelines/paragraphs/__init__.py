"""Repeated paragraphs of a site: what stands on several of its pages is no text of any one of them.

    collect    a block      -> a key for each text item of a page that dedupe kept: hash of (site, normalised text)
    recurring  a partition  -> the pages that have each key, over all generations; items of the new ones that go

OBELICS drops a paragraph from all pages of a domain once three have it. Most of what that finds on real manuals and
books is text, not boilerplate: chapters that a translation left in English, options that several commands share. So
by default the first page that has a paragraph keeps it, and short items, which are headings and list entries, stay
everywhere; `obelics()` is the rule of the paper. What was published stays: an earlier generation's pages count only.
"""

from __future__ import annotations

from dataclasses import dataclass

from engine.errors import ConfigError
from engine.spread import check_partitions

BLOCKS = ("p", "h1", "h2", "h3", "h4", "h5", "h6", "li", "quote", "pre", "table", "figcaption", "dt", "dd", "other")


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """All settings of both stages; each is keyed on its own.

    min_pages: pages of one site that have a paragraph before any loses it; 0: none ever goes. keepers: so many of
    them keep it, the first by (generation, unit, row); 0: none does. min_words: items of fewer words of normalised text
    are not looked at. exempt: kinds of block that are not looked at. partitions: of the keys, a power of two.
    """

    min_pages: int = 3  # OB: at least three pages of the same domain
    keepers: int = 1
    min_words: int = 8
    # a caption says what an image shows, and goes and stays with it
    exempt: tuple[str, ...] = ("figcaption",)
    partitions: int = 256

    def __post_init__(self) -> None:
        check_partitions(self.partitions)
        check_bounds(self.min_pages, self.keepers)
        check_items(self.min_words, self.exempt)


def obelics() -> Config:
    """OBELICS's: whatever three pages of a domain have goes from all of them, captions and single words too."""
    return Config(keepers=0, min_words=1, exempt=())


def check_bounds(min_pages: int, keepers: int) -> None:
    """ConfigError unless the number of pages makes a repetition."""
    if min_pages < 0 or min_pages == 1:
        raise ConfigError(f"paragraphs.min_pages is {min_pages}; set it to 2 or more, or to 0 for none")
    if keepers < 0:
        raise ConfigError(f"paragraphs.keepers is {keepers}; set it to 0 or more")


def check_items(min_words: int, exempt: tuple[str, ...]) -> None:
    """ConfigError unless the kinds of block are known and an empty text is out of it."""
    if min_words < 1:
        raise ConfigError(f"paragraphs.min_words is {min_words}; set it to 1 or more")
    for block in exempt:
        if block not in BLOCKS:
            raise ConfigError(f"paragraphs.exempt: {block!r} is no kind of block; use {', '.join(BLOCKS)}")
