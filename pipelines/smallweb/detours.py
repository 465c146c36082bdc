"""Pages that are good, with pictures that do not simply lie at their address: closed, moved, asked for too soon; and
pages that show what another shows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from pipelines.smallweb import robots
from pipelines.smallweb.albums import figure, page, photo, several
from pipelines.smallweb.markup import Figure
from pipelines.smallweb.page import Page
from pipelines.smallweb.pictures import Picture
from pipelines.smallweb.prose import Dice

GALLERY = "same_images"
# pages of each crawl that show one gallery: of the first crawl one stays, with the second crawl none is added
GALLERIES = (2, 1)


def closed(dice: Dice, host: str, topic: str) -> list[Figure]:
    """Pictures that robots.txt keeps from everybody or from us, and two that it leaves to us."""
    shown = [
        photo(dice, robots.CLOSED, topic, kind="disallowed"),
        photo(dice, robots.CLOSED, topic, "photos/{}.jpg"),
        photo(dice, robots.SHUT, topic, kind="disallowed"),
        photo(dice, robots.SHUT, topic, f"images/{robots.OPEN}/{{}}.jpg"),
        photo(dice, robots.WELCOME, topic),
    ]
    return [figure(dice, one) for one in shown]


def all_closed(dice: Dice, host: str, topic: str) -> list[Figure]:
    """Nothing is left: all are kept from robots, or from training."""
    places = ((robots.CLOSED, "disallowed"), (robots.SHUT, "disallowed"), (robots.RESERVED, "reserved"))
    return [figure(dice, photo(dice, where, topic, kind=kind)) for where, kind in places]


def reserved(dice: Dice, host: str, topic: str) -> list[Figure]:
    """A picture whose site reserves training, between two that are free."""
    before, after = several(dice, host, topic, 2)
    return [before, figure(dice, photo(dice, robots.RESERVED, topic, kind="reserved")), after]


def moved(dice: Dice, host: str, topic: str) -> list[Figure]:
    """Pictures that lie elsewhere now: on another host of their site, with another operator, where nothing is, and
    where robots may not go; and one that does not."""
    domain = host.partition(".")[2]
    shown = [
        gone_to(photo(dice, host, topic), f"cdn.{domain}"),
        gone_to(photo(dice, host, topic), "pictures.storage.example"),
        gone_to(photo(dice, host, topic, kind="missing"), "pictures.storage.example"),
        gone_to(photo(dice, host, topic, kind="disallowed"), robots.CLOSED),
        photo(dice, host, topic),
    ]
    return [figure(dice, one) for one in shown]


def gone_to(shown: Picture, host: str) -> Picture:
    """The picture at an old address, from which the server sends to the host."""
    _, _, old, path = shown.url.split("/", 3)
    return replace(shown, url=f"https://{old}/old/{path.rpartition('/')[2]}", moved=f"https://{host}/{path}")


def busy(dice: Dice, host: str, topic: str) -> list[Figure]:
    """A picture for which the server wants to be asked again a second later."""
    before, after = several(dice, host, topic, 2)
    return [before, figure(dice, photo(dice, "www.busy.example", topic, kind="busy")), after]


def smaller(dice: Dice, host: str, topic: str) -> list[Figure]:
    """A photo, another, and the first once more at half its size."""
    first, second = several(dice, host, topic, 2)
    whole = first.picture
    half = replace(
        whole,
        kind="smaller",
        url=whole.url.replace("/images/", "/small/"),
        width=whole.width // 2,
        height=whole.height // 2,
    )
    return [first, second, figure(dice, half, f"In short: {half.describe(dice)}.")]


DETOURS: dict[str, Callable[[Dice, str, str], list[Figure]]] = {
    "closed_images": closed,
    "all_images_closed": all_closed,
    "reserved_image": reserved,
    "moved_images": moved,
    "busy_image": busy,
    "smaller_copy": smaller,
}


def gallery(seed: int, dice: Dice, host: str, topic: str, number: int) -> list[Figure]:
    """The same three photos for every page, in another order; a later page adds a logo, which does not count."""
    own = Dice(seed, GALLERY)
    shown = [figure(dice, photo(own, host, topic)) for _ in range(3)]
    shown = shown[number:] + shown[:number]
    if number:
        shown.insert(1, figure(dice, photo(dice, host, topic, "logo-{}.png")))
    return shown


def pages(seed: int, crawl: int, hosts: list[tuple[str, str, str]]) -> list[Page]:
    """Every plant once, and the pages of the gallery; crawl: 0 or 1."""
    made = []
    for number, (name, make) in enumerate(DETOURS.items()):
        host, topic, _ = hosts[(number * 5 + crawl) % len(hosts)]
        dice = Dice(seed, "turn", crawl, name)
        made.append(page(dice, host, topic, name, make(dice, host, topic)))
    host, topic, _ = hosts[7]
    for number in range(GALLERIES[crawl]):
        dice = Dice(seed, GALLERY, crawl, number)
        shown = gallery(seed, dice, host, topic, crawl + number)
        made.append(replace(page(dice, host, topic, GALLERY, shown), markup="plain"))
    return made
