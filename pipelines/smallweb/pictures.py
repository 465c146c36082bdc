"""The pictures of the bundled web, as specifications: what is where, and what is wrong with it.

A picture shows one thing of one colour and shape on a ground of another colour, and its alt text says so: a model can
learn the words from it. About one in five is planted with a fault that the image gate has to find.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

from pipelines.smallweb.prose import Dice, articles, first, vocabulary

COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white", "grey", "turquoise")
SHAPES = (
    "round",
    "square",
    "triangular",
    "oval",
    "star-shaped",
    "ring-shaped",
    "striped",
    "diamond-shaped",
    "crescent",
)
# kind -> (share of a hundred, width, height); photos and drawings vary in size
KINDS: dict[str, tuple[int, int, int]] = {
    "photo": (62, 480, 360),  # smooth shades and noise, as a camera makes
    "drawing": (18, 400, 400),  # flat colours and hard edges
    "slow": (3, 320, 240),  # the server takes its time
    "single_colour": (3, 200, 200),  # nothing to see
    "banner": (4, 728, 90),  # aspect over 3
    "tiny": (3, 48, 40),  # sides under 64
    "corrupt": (3, 300, 200),  # bytes that do not decode
    "missing": (4, 0, 0),  # 404
    "disallowed": (0, 320, 240),  # robots.txt keeps it from us
    "reserved": (0, 320, 240),  # robots.txt reserves it against training
    "busy": (0, 320, 240),  # the first request is told to come again
    "smaller": (0, 240, 180),  # a photo at half its size
    "logo": (0, 160, 120),  # of a site, drawn on every page
    "pixel": (0, 1, 1),  # counts readers
}
ENDS = dict(zip(KINDS, accumulate(share for share, _, _ in KINDS.values()), strict=True))
SIZES = ((320, 240), (480, 360), (640, 480), (360, 480), (512, 512), (800, 450))
FORMS = (
    "{a} {shape} {colour} {thing} on {a} {ground_colour} {ground}",
    "{a} {colour} {shape} {thing} against {a} {ground_colour} {ground}",
    "the {shape} {thing} is {colour} and the {ground} is {ground_colour}",
    "a picture of {a} {shape} {colour} {thing} in front of {a} {ground_colour} {ground}",
    "{a} {thing}, {shape} and {colour}, with {a} {ground_colour} {ground} behind it",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """What an address shows: enough to draw its pixels, or to fail as it should.

    width, height are pixels, 0 for what is not there; shape, colour, thing, ground_colour and ground are words. moved:
    the address that its own redirects to, where it lies; "" if it lies at its own.
    """

    url: str
    kind: str
    width: int
    height: int
    format: str
    seed: int
    shape: str
    colour: str
    thing: str
    ground_colour: str
    ground: str
    moved: str = ""

    @property
    def place(self) -> str:
        """The address where it lies."""
        return self.moved or self.url

    def describe(self, dice: Dice) -> str:
        """One of the ways to say what it shows: an alt text or a caption, without a full stop."""
        words = {name: str(getattr(self, name)) for name in ("shape", "colour", "thing", "ground_colour", "ground")}
        text = articles(dice.pick(FORMS).format(a="a", **words))
        return text[:1].upper() + text[1:]


def draw(dice: Dice, host: str, folder: str, topic: str, kind: str = "") -> Picture:
    """A picture of a thing of the topic, at an address under https://host/folder; the kind drawn by its share."""
    if not kind:
        throw = dice.below(100)
        kind = next(name for name, end in ENDS.items() if throw < end)
    width, height = KINDS[kind][1:]
    if kind in ("photo", "drawing"):
        width, height = dice.pick(SIZES)
    colour, ground_colour = dice.shuffled(COLOURS)[:2]
    shape = dice.pick(SHAPES)
    thing = first(dice.pick(vocabulary()[topic]["things"]))
    ground = dice.pick(vocabulary()["common"]["ground"])
    form = "png" if kind in ("drawing", "single_colour", "logo", "pixel") else "jpeg"
    seed = dice.below(1 << 32)
    slug = f"{colour}-{shape}-{thing}".replace(" ", "-").replace("'", "")
    suffix = {"png": "png", "jpeg": "jpg"}[form]
    return Picture(
        url=f"https://{host}/{folder}/{slug}-{seed % 100_000}.{suffix}",
        kind=kind,
        width=width,
        height=height,
        format=form,
        seed=seed,
        shape=shape,
        colour=colour,
        thing=thing,
        ground_colour=ground_colour,
        ground=ground,
    )
