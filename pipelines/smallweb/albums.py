"""Pages that are good, with images that are not all: one plant for each rule about images, and one at each bound.

Photos that go round are shown by so many pages of each crawl: some pass the bound of ten documents in the first
crawl, some only with the second, one never. What should become of each is computed in `fates`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from pipelines.smallweb.contents import paragraphs
from pipelines.smallweb.markup import Figure, Part, Text
from pipelines.smallweb.page import Page
from pipelines.smallweb.pictures import Picture, draw
from pipelines.smallweb.prose import Dice, Writer

FAILING = ("missing", "corrupt", "tiny", "banner", "single_colour")
PAGES = (11, 4)  # of the two crawls that the photos below go round
# name -> (pages of the first crawl, of the second, whether each page has it at an address of its own)
ROUND = {
    "late": (8, 4, True),  # the same bytes in twelve documents, over the bound with the second crawl
    "early": (11, 1, True),  # over the bound at once
    "bound": (10, 0, True),  # ten documents are not more than ten
    "linked": (10, 2, False),  # one address, over the bound with the second crawl
}
# whole tokens of the path, whatever the case
REFUSED = (
    "logo-{}.png",
    "img/Icon/{}.jpg",
    "1x1/{}.png",
    "site_button_{}.jpg",
    "SEX/{}.jpg",
    "films/xxx-{}.jpg",
    "plan-{}.svg",
)
ALLOWED = (
    "essex-{}.jpg",
    "sussex/{}.jpg",
    "logotype/{}.jpg",
    "iconic-{}.jpg",
    "pixelated{}.jpg",
    "{}.jpg?of=logo&sex=1",
)


def photo(dice: Dice, host: str, topic: str, name: str = "", kind: str = "photo") -> Picture:
    """A picture of the topic; name: its path, with {} for a number."""
    shown = draw(dice, host, "images", topic, kind)
    return replace(shown, url=f"https://{host}/{name.format(dice.below(100_000))}") if name else shown


def figure(dice: Dice, shown: Picture, caption: str = "", declared: tuple[int, int] = (0, 0)) -> Figure:
    """The picture with an alt text."""
    return Figure(picture=shown, alt=shown.describe(dice), caption=caption, declared=declared)


def several(dice: Dice, host: str, topic: str, count: int) -> list[Figure]:
    """So many photos in which nothing is wrong, every third with a caption."""
    shown = [photo(dice, host, topic) for _ in range(count)]
    return [figure(dice, one, "" if spot % 3 else f"{one.describe(dice)}.") for spot, one in enumerate(shown)]


def many(dice: Dice, host: str, topic: str) -> list[Figure]:
    """More than are asked for, and more than stay."""
    return several(dice, host, topic, 10)


def far_too_many(dice: Dice, host: str, topic: str) -> list[Figure]:
    """More references than a document has."""
    return [replace(one, caption="") for one in several(dice, host, topic, 31)]


def just_enough(dice: Dice, host: str, topic: str) -> list[Figure]:
    """As many as a document may have, and three that do not count."""
    first, *rest = [replace(one, caption="") for one in several(dice, host, topic, 30)]
    refused = [figure(dice, photo(dice, host, topic, name)) for name in REFUSED[:2]]
    return [first, *refused, first, *rest]


def same_bytes(dice: Dice, host: str, topic: str) -> list[Figure]:
    """One photo under two addresses."""
    first, second = several(dice, host, topic, 2)
    again = replace(first.picture, url=first.picture.url.replace("/images/", "/copies/"))
    return [first, figure(dice, again, f"Once more: {again.describe(dice)}."), second]


def same_address(dice: Dice, host: str, topic: str) -> list[Figure]:
    """One address twice, the second time under other words."""
    first, second = several(dice, host, topic, 2)
    return [first, second, figure(dice, first.picture, f"Again {first.picture.describe(dice)}.")]


def all_fail(dice: Dice, host: str, topic: str) -> list[Figure]:
    """Five pictures, each with a fault of its own."""
    shown = [photo(dice, host, topic, kind=kind) for kind in FAILING]
    return [figure(dice, one, f"{one.describe(dice)}." if one.height else "") for one in shown]


def refused(dice: Dice, host: str, topic: str) -> list[Figure]:
    """Addresses of which none is worth a request."""
    return [figure(dice, photo(dice, host, topic, name)) for name in REFUSED]


def allowed(dice: Dice, host: str, topic: str) -> list[Figure]:
    """Addresses that only look like those; the words in host and query do not count either."""
    return [figure(dice, photo(dice, f"icon.{host}", topic, name)) for name in ALLOWED]


def both_wrong(dice: Dice, host: str, topic: str) -> list[Figure]:
    """References with two faults, of which the first in the order of the rules counts; and two that have none."""
    names = ("sex/logo-{}.svgz", "porn/logo-{}.jpg", "widget/{}.jpg")
    wrong = [figure(dice, photo(dice, host, topic, name), declared=(40, 30)) for name in names]
    return [*wrong, *several(dice, host, topic, 2)]


def declared(dice: Dice, host: str, topic: str) -> list[Figure]:
    """Large files that their page shows small, and two at the bound."""
    sizes = ((63, 300), (300, 63), (48, 0), (0, 20), (64, 64), (0, 64))
    return [figure(dice, photo(dice, host, topic), declared=size) for size in sizes]


def one_caption(dice: Dice, host: str, topic: str) -> list[Figure]:
    """A caption that two pictures share, of which one stays; and one of a picture that does not."""
    good, other = (photo(dice, host, topic) for _ in range(2))
    gone, broken = (photo(dice, host, topic, kind=kind) for kind in FAILING[:2])
    shared = f"{good.describe(dice)}."
    return [
        figure(dice, gone, shared),
        figure(dice, good, shared),
        figure(dice, broken, f"{broken.describe(dice)}."),
        figure(dice, other),
    ]


def only(kind: str) -> Callable[[Dice, str, str], list[Figure]]:
    """A single picture with a fault."""

    def make(dice: Dice, host: str, topic: str) -> list[Figure]:
        shown = photo(dice, host, topic, kind=kind)
        return [figure(dice, shown, f"{shown.describe(dice)}.")]

    return make


def one_left(dice: Dice, host: str, topic: str) -> list[Figure]:
    """A good photo between two that fail."""
    (good,) = several(dice, host, topic, 1)
    gone, flat = (figure(dice, photo(dice, host, topic, kind=kind)) for kind in ("missing", "single_colour"))
    return [gone, good, flat]


ALBUMS: dict[str, Callable[[Dice, str, str], list[Figure]]] = {
    "many_images": many,
    "far_too_many_images": far_too_many,
    "just_enough_images": just_enough,
    "same_bytes": same_bytes,
    "same_address": same_address,
    "all_images_fail": all_fail,
    "refused_images": refused,
    "allowed_images": allowed,
    "both_wrong": both_wrong,
    "declared_sizes": declared,
    "one_caption": one_caption,
    "one_left": one_left,
    "one_left_too": one_left,
    **{f"only_{kind}": only(kind) for kind in FAILING},
}
ESCAPED = ("refused_images", "both_wrong")  # no page gets away with an svg whose address says so


def page(dice: Dice, host: str, topic: str, kind: str, shown: list[Figure]) -> Page:
    """A good page with the pictures, a paragraph after every third."""
    writer = Writer(dice, topic)
    parts: list[Part] = [Text(block="h1", text=writer.title()), *paragraphs(writer, 3)]
    for start in range(0, len(shown), 3):
        parts += shown[start : start + 3]
        if start < 9:
            parts += paragraphs(writer, 1)
    markup = "escaped" if kind in ESCAPED else dice.pick(("plain", "schemeless", "lazy", "linked"))
    return Page(
        url=f"https://{host}/album/{dice.below(1_000_000)}.html",
        kind=kind,
        topic=topic,
        parts=(*parts, *paragraphs(writer, 2)),
        frame=dice.pick(("article", "blog", "bare")),
        markup=markup,
    )


def going_round(seed: int, number: int, crawl: int, host: str, dice: Dice) -> list[Figure]:
    """The photos that the numbered page of a crawl shows beside its own."""
    shown = []
    for name, (first, second, many_addresses) in ROUND.items():
        if number < (first, second)[crawl]:
            one = photo(Dice(seed, "round", name), "photos.example", "markets", "shared/{}.jpg")
            if many_addresses:
                one = replace(one, url=f"https://{host}/media/{name}/{crawl}-{number}.jpg")
            shown.append(figure(dice, one))
    return shown


def pages(seed: int, crawl: int, hosts: list[tuple[str, str, str]]) -> list[Page]:
    """Every plant once, and the pages that the same photos go round; crawl: 0 or 1."""
    made = []
    for number, (name, make) in enumerate(ALBUMS.items()):
        host, topic, _ = hosts[(number * 2 + crawl) % len(hosts)]
        dice = Dice(seed, "album", crawl, name)
        made.append(page(dice, host, topic, name, make(dice, host, topic)))
    for number in range(PAGES[crawl]):
        host, topic, _ = hosts[(number * 3 + crawl) % len(hosts)]
        dice = Dice(seed, "round", crawl, number)
        first, last = several(dice, host, topic, 2)
        shown = [first, *going_round(seed, number, crawl, host, dice), last]
        made.append(page(dice, host, topic, "going_round", shown))
    return made
