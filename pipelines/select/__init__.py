"""Which images are worth a request, before the first one is made: refer, frequency, choose, schedule.

refer      a block of units    -> image references of kept pages that pass the address rules, by address partition;
                                  the set of each page's images, by its hash
frequency  an address partition-> how many documents show each address, and which show the very images of another
choose     a block             -> at most eight candidates a document, and the coin
recall     an address partition-> those of which nothing is on record that holds, by domain
schedule   a domain partition  -> the units of the fetch stage: each unique address once, politely
moved      an address partition-> what redirected to another domain, for a second round: schedule again, then fetch
budget     a domain partition  -> what both rounds left out, since its domain has so many
"""

from __future__ import annotations

from dataclasses import dataclass, field

from engine.errors import ConfigError
from engine.spread import check_partitions
from pipelines.coin import Coin


@dataclass(frozen=True, kw_only=True, slots=True)
class Cut:
    """partitions: of the space of addresses; domains: of the space of domains; powers of two."""

    partitions: int = 256
    domains: int = 64

    def __post_init__(self) -> None:
        check_partitions(self.partitions)
        check_partitions(self.domains)


@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    """What an address and its declared size may be. Tokens of its path are compared whole and case-folded, so Essex
    stays.

    Sources: M4, OB, MI + ours (curation, URL rules for images).
    """

    blocked: tuple[str, ...] = (
        "logo", "button", "icon", "plugin", "widget", "avatar", "sprite", "spacer", "blank", "1x1", "pixel", "tracking",
        "badge", "emoji", "emoticon", "smiley", "gravatar", "captcha", "favicon", "piwik", "matomo",
        "qr", "qrcode",
    )  # fmt: skip
    # Whole names of folders; in the name of a file the same words may say what a picture shows.
    folders: tuple[str, ...] = (
        "logos", "buttons", "icons", "plugins", "widgets", "avatars", "customavatars", "sprites", "badges", "emojis",
        "emoticons", "smileys", "smilies", "statusicon", "callouts", "theme", "themes", "skins", "author",
        "authors", "autores", "autoren", "signaturepics", "ads", "adverts", "banner", "banners", "werbung", "anzeigen",
        "reklama", "rekl", "publicidad", "publicite", "pubblicita",
    )  # fmt: skip
    # Whole names of .gif and .png files: the symbols of manuals, and what lays out old pages.
    symbols: tuple[str, ...] = (
        "note", "tip", "warning", "caution", "important", "next", "prev", "previous", "up", "home", "arrow", "bullet",
        "dot", "clear", "trans", "transparent", "loading", "loader", "placeholder", "separator", "divider",
        "star", "banner",
    )  # fmt: skip
    # Labels of a host before its last two: who counts readers and who sells them.
    hosts: tuple[str, ...] = (
        "ad", "ads", "adserver", "adservice", "pixel", "pixels", "tracking", "tracker", "counter", "analytics", "stats",
        "beacon",
    )  # fmt: skip
    adult: tuple[str, ...] = ("porn", "xxx", "sex")
    min_side: int = 64  # K: image sides


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """max_docs: documents that may show an address. max_candidates: images a document asks for, more than it keeps
    because some fail. max_references: a document with more references after the address rules is a gallery or a menu.
    same_images: whether a document goes that shows the very images (two or more) of another that is kept. max_tries:
    requests for an address that gives no answer that holds."""

    max_docs: int = 10  # OB: images that appear more than ten times go
    max_candidates: int = 8
    max_references: int = 30  # OB, MI: 1-30 images
    same_images: bool = True  # OB: one document of those with the same set of images stays
    max_tries: int = 3
    coin: Coin = field(default_factory=Coin)

    def __post_init__(self) -> None:
        if not 1 <= self.max_tries <= 100:
            raise ConfigError(f"select.choice.max_tries is {self.max_tries}; set it to 1-100")


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """unit_urls: addresses a fetch unit, small domains together. unit_s: seconds that a large domain's unit may take
    at its rate. rate: requests a second and domain (0: no limit), as the fetch stage keeps it. domain_budget: addresses
    of one domain in one generation (0: no bound); at two a second, the default takes 28 hours."""

    unit_urls: int = 10_000
    unit_s: float = 1200.0
    rate: float = 2.0
    domain_budget: int = 200_000

    def __post_init__(self) -> None:
        if self.unit_urls < 1 or self.unit_s <= 0 or self.rate < 0 or self.domain_budget < 0:
            raise ConfigError("select.schedule: unit_urls is 1 or more, unit_s over 0, rate, domain_budget 0 or more")


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """All settings of these stages; each stage is keyed on its own part."""

    cut: Cut = field(default_factory=Cut)
    rules: Rules = field(default_factory=Rules)
    choice: Choice = field(default_factory=Choice)
    schedule: Schedule = field(default_factory=Schedule)
