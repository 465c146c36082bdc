"""The reading-order stream: text blocks and image references, as the walk notes them and later steps thin them out."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(kw_only=True, slots=True)
class Image:
    """An image reference; `url` is canonical."""

    url: str
    alt: str = ""
    caption: str = ""
    title: str = ""
    width: int = 0
    height: int = 0


@dataclass(slots=True)
class Entry:
    """A text block, or an image where `image` is not -1."""

    text: str
    block: str
    level: int = 0
    image: int = -1
    drop: bool = False


@dataclass(kw_only=True, slots=True)
class Stream:
    """What a page says, in reading order; `robots` are its meta name/content pairs about robots and TDM."""

    entries: list[Entry] = field(default_factory=list)
    images: list[Image] = field(default_factory=list)
    title: str = ""
    lang: str = ""
    metas: list[tuple[str, str]] = field(default_factory=list)
    too_many_images: int = 0

    def settle(self) -> None:
        """Remove the entries that are marked, and the images that no entry shows."""
        self.entries = [entry for entry in self.entries if not entry.drop]
        images = [self.images[entry.image] for entry in self.entries if entry.image >= 0]
        place = 0
        for entry in self.entries:
            if entry.image >= 0:
                entry.image = place
                place += 1
        self.images = images
