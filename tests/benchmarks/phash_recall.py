"""What the perceptual hash is worth: python -m tests.benchmarks.phash_recall [DATA] [--store STORE]

For each transform, the share of pictures within d bits of the original, through the real path: the transform is
encoded, and measured as fetch does. Then the share of pairs of different pictures within d bits, by kind of picture,
and, of a store, of the pairs that stand in one document. DATA: a folder with images/index.tsv, images/files and photos;
drawn pictures without it. The hash has as many bits set as clear, so distances are even but for flat pictures.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.images import Encode, decode, kosmos1
from pipelines.images.decode import measure
from pipelines.images.hashes import hamming
from pipelines.reasons import Reason

cv2 = decode.cv2  # imported there, after its limits are set
Pixels = npt.NDArray[np.uint8]
Transform = Callable[[Pixels], bytes]
ENCODE, GATE = Encode(), kosmos1()
WHOLE = Encode(short_side=20_000, quality=100)  # the picture as the gate shows it: turned, on white
SHOWN = (0, 2, 4, 6, 8, 10, 12, 16)
# Folders of the served images whose pictures are mostly of one kind; what is not named is a drawing of an old book.
KINDS = {
    "photo": ("American-Adventures", "mdn/learning-area", "RayTracing"),
    "screenshot": ("debian-handbook", "gimp-help-en", "kicad"),
    "diagram": ("xfig", "w3c", "maxima", "grass", "ncase", "imagemagick", "lilypond"),
}


def coded(picture: Pixels, name: str = ".jpg", *settings: int) -> bytes:
    """An encoded picture; JPEG of quality 90 unless it is said."""
    settings = settings or ((cv2.IMWRITE_JPEG_QUALITY, 90) if name == ".jpg" else ())
    return bytes(cv2.imencode(name, picture, settings)[1])


def resized(picture: Pixels, scale: float) -> Pixels:
    """A picture whose sides are `scale` times as long."""
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(picture, None, fx=scale, fy=scale, interpolation=how), np.uint8)


def levels(picture: Pixels, change: Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]) -> Pixels:
    """A picture whose levels (0 to 1) are changed."""
    table = np.clip(change(np.arange(256) / 255) * 255, 0, 255).round().astype(np.uint8)
    return np.asarray(table[picture], np.uint8)


def noisy(picture: Pixels, sigma: float) -> Pixels:
    noise = np.random.default_rng(1).normal(0, sigma, picture.shape)
    return np.asarray(np.clip(picture + noise, 0, 255), np.uint8)


def marked(picture: Pixels, share: float) -> Pixels:
    """A white box with text in the lower right corner, `share` of either side."""
    made = picture.copy()
    height, width = picture.shape[:2]
    high, wide = max(int(height * share), 8), max(int(width * share), 8)
    cv2.rectangle(made, (width - wide, height - high), (width, height), (255, 255, 255), -1)
    cv2.putText(made, "abc", (width - wide, height - 2), cv2.FONT_HERSHEY_SIMPLEX, high / 30, (0, 0, 200), 1)
    return made


def lettered(picture: Pixels) -> Pixels:
    """White letters at the foot, a twelfth of the height."""
    made = picture.copy()
    height = picture.shape[0]
    place = (4, height - 1 - height // 20)
    cv2.putText(made, "example.org", place, cv2.FONT_HERSHEY_SIMPLEX, height / 300, (255, 255, 255), 2)
    return made


def bordered(picture: Pixels, share: float, level: int) -> Pixels:
    edge = max(int(min(picture.shape[:2]) * share), 1)
    return np.asarray(
        cv2.copyMakeBorder(picture, edge, edge, edge, edge, cv2.BORDER_CONSTANT, value=(level,) * 3), np.uint8
    )


def captioned(picture: Pixels) -> Pixels:
    """A white bar of a tenth of the height below."""
    bar = np.full((max(picture.shape[0] // 10, 1), picture.shape[1], 3), 255, np.uint8)
    return np.concatenate([picture, bar])


def cropped(picture: Pixels, share: float, left: float = 0.5, top: float = 0.5) -> Pixels:
    """`share` of either side cut away: a half on each edge, or `left` and `top` of it there."""
    height, width = picture.shape[:2]
    high, wide = int(height * share), int(width * share)
    x, y = int(wide * left), int(high * top)
    return np.ascontiguousarray(picture[y : y + height - high, x : x + width - wide])


def rotated(picture: Pixels, degrees: float) -> Pixels:
    height, width = picture.shape[:2]
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1)
    return np.asarray(cv2.warpAffine(picture, turn, (width, height), borderValue=(255, 255, 255)), np.uint8)


def hued(picture: Pixels, degrees: int) -> Pixels:
    hsv = cv2.cvtColor(picture, cv2.COLOR_BGR2HSV)
    hsv[..., 0] = (hsv[..., 0].astype(np.int64) + degrees // 2) % 180
    return np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR), np.uint8)


def tinted(picture: Pixels) -> Pixels:
    """Warmer: red up, blue down by a tenth."""
    return np.asarray(np.clip(picture * np.array([0.9, 1, 1.1]), 0, 255), np.uint8)


def sharpened(picture: Pixels) -> Pixels:
    soft = cv2.GaussianBlur(picture, (0, 0), 2)
    return np.asarray(cv2.addWeighted(picture, 1.8, soft, -0.8, 0), np.uint8)


def short(picture: Pixels, side: int) -> Pixels:
    return resized(picture, side / min(picture.shape[:2]))


def transforms() -> dict[str, Transform]:
    """What is done to pictures, by name."""
    made: dict[str, Transform] = {
        f"JPEG {quality}": lambda p, q=quality: coded(p, ".jpg", cv2.IMWRITE_JPEG_QUALITY, q)  # type: ignore[misc]
        for quality in (95, 75, 50, 30)
    }
    changes: dict[str, Callable[[Pixels], Pixels]] = {
        "resize 0.25": lambda p: resized(p, 0.25),
        "resize 0.5": lambda p: resized(p, 0.5),
        "resize 2": lambda p: resized(p, 2),
        "short side 256": lambda p: short(p, 256),
        "grey": lambda p: np.repeat(np.asarray(cv2.cvtColor(p, cv2.COLOR_BGR2GRAY))[..., None], 3, 2),
        "brightness +20 %": lambda p: levels(p, lambda v: v * 1.2),
        "brightness -20 %": lambda p: levels(p, lambda v: v * 0.8),
        "contrast +20 %": lambda p: levels(p, lambda v: (v - 0.5) * 1.2 + 0.5),
        "contrast -20 %": lambda p: levels(p, lambda v: (v - 0.5) * 0.8 + 0.5),
        "gamma 0.7": lambda p: levels(p, lambda v: v**0.7),
        "gamma 1.4": lambda p: levels(p, lambda v: v**1.4),
        "blur 1.5": lambda p: np.asarray(cv2.GaussianBlur(p, (0, 0), 1.5), np.uint8),
        "sharpen": sharpened,
        "noise 10": lambda p: noisy(p, 10),
        "letters at the foot": lettered,
        "logo 10 %": lambda p: marked(p, 0.1),
        "logo 20 %": lambda p: marked(p, 0.2),
        "tint": tinted,
        "hue 30 degrees": lambda p: hued(p, 30),
        "border 2 % white": lambda p: bordered(p, 0.02, 255),
        "border 2 % black": lambda p: bordered(p, 0.02, 0),
        "border 5 % white": lambda p: bordered(p, 0.05, 255),
        "border 5 % black": lambda p: bordered(p, 0.05, 0),
        "caption bar": captioned,
        "crop 2 %": lambda p: cropped(p, 0.02),
        "crop 5 %": lambda p: cropped(p, 0.05),
        "crop 10 %": lambda p: cropped(p, 0.10),
        "crop 10 % at a corner": lambda p: cropped(p, 0.10, 0, 0),
        "crop 20 %": lambda p: cropped(p, 0.20),
        "square of the centre": lambda p: square(p),
        "rotate 1": lambda p: rotated(p, 1),
        "rotate 2": lambda p: rotated(p, 2),
        "rotate 5": lambda p: rotated(p, 5),
        "mirror": lambda p: np.ascontiguousarray(p[:, ::-1]),
        "mirror, resize 0.5": lambda p: np.ascontiguousarray(resized(p, 0.5)[:, ::-1]),
    }
    made |= {"PNG": lambda p: coded(p, ".png"), "WebP 75": lambda p: coded(p, ".webp", cv2.IMWRITE_WEBP_QUALITY, 75)}
    return made | {name: lambda p, change=change: coded(change(p)) for name, change in changes.items()}


def square(picture: Pixels) -> Pixels:
    """The largest square of the centre."""
    side = min(picture.shape[:2])
    top, left = (picture.shape[0] - side) // 2, (picture.shape[1] - side) // 2
    return np.ascontiguousarray(picture[top : top + side, left : left + side])


def drawn(num: int) -> list[Pixels]:
    """Pictures of smooth noise over several scales, as photographs have it."""
    random = np.random.default_rng(0)
    made = []
    for _ in range(num):
        total = np.zeros((480, 640, 3))
        for cells in (2, 4, 8, 16, 64):
            noise = random.normal(0, 60 / cells**0.7, (cells, cells, 3)).astype(np.float32)
            total += cv2.resize(noise, (640, 480), interpolation=cv2.INTER_CUBIC)
        made.append(np.clip(total + 128, 0, 255).astype(np.uint8))
    return made


def bodies(data: Path | None) -> Iterator[tuple[str, str, bytes]]:
    """(kind, name, body) of each different file."""
    if data is None:
        yield from (("photo", f"drawn {number}", coded(picture)) for number, picture in enumerate(drawn(100)))
        return
    for path in sorted((data / "photos").rglob("*")):
        if path.is_file():
            yield "photo", path.name, path.read_bytes()
    with (data / "images" / "index.tsv").open(encoding="utf-8", newline="") as file:
        rows = {row["file"]: row["source"] for row in csv.DictReader(file, delimiter="\t")}
    for name, source in sorted(rows.items()):
        kind = next((kind for kind, words in KINDS.items() if any(word in source for word in words)), "drawing")
        yield kind, name, (data / "images" / name).read_bytes()


def hashed(body: bytes) -> int:
    """The perceptual hash; 0 of what is no picture."""
    return measure(body, ENCODE).phash


def shown(body: bytes) -> Pixels:
    """The picture in full size, as browsers show it."""
    return np.asarray(cv2.imdecode(np.frombuffer(measure(body, WHOLE).body, np.uint8), cv2.IMREAD_COLOR), np.uint8)


def passing(body: bytes) -> int:
    """The perceptual hash of what the gate lets pass, else 0."""
    found = measure(body, ENCODE)
    low, high = min(found.width, found.height), max(found.width, found.height)
    wide = low >= GATE.min_side and high <= GATE.max_aspect * low
    return found.phash if found.reason == Reason.KEPT and wide and found.deviation >= GATE.min_deviation else 0


def line(name: str, distances: npt.NDArray[np.uint8]) -> str:
    shares = [f"{(distances <= d).mean():.3g}" if len(distances) else "-" for d in SHOWN]
    return f"{name:<24}" + "".join(f"{share:>10}" for share in shares) + f"{len(distances):>9}"


def head(title: str) -> str:
    return f"\n{title:<24}" + "".join(f"{f'<= {d}':>10}" for d in SHOWN) + f"{'pairs':>9}"


def recall(found: dict[str, list[bytes]], most: int) -> Iterator[str]:
    """A line for each transform, over at most `most` pictures of each kind."""
    for kind, files in found.items():
        taken = files[:: max(len(files) // most, 1)][:most]
        pictures = [shown(body) for body in taken]
        own = np.array([hashed(body) for body in taken], np.uint64)
        yield head(f"{kind}: the same")
        for name, transform in transforms().items():
            made = np.array([hashed(transform(picture)) for picture in pictures], np.uint64)
            yield line(name, hamming(own, made)[made != 0])


def apart(hashes: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint8]:
    """Distances of all pairs."""
    left, right = np.triu_indices(len(hashes), 1)
    return hamming(hashes[left], hashes[right])


def pieces(files: list[bytes]) -> npt.NDArray[np.int64]:
    """How many pairs of pieces of different photographs differ in 0 to 64 bits: photographs are few, pieces are not.

    Photographs of which a dozen pairs of pieces are nearly the same are one photograph.
    """
    looks, owners = [], []
    for owner, picture in enumerate(map(shown, files)):
        height, width = picture.shape[:2]
        for share in (0.4, 0.6, 0.8, 1.0) if min(height, width) >= 200 else ():
            edges = (0, 0.5, 1) if share < 1 else (0.5,)
            for piece in (cropped(picture, 1 - share, left, top) for left in edges for top in edges):
                for made in (piece, np.ascontiguousarray(piece[:, ::-1])):
                    looks.append(hashed(coded(made)))
                    owners.append(owner)
    hashes, of = np.array(looks, np.uint64), np.array(owners)
    found = np.zeros((len(files), len(files), 65), np.int64)
    for place in range(len(hashes)):
        np.add.at(found[of[place]], (of[place + 1 :], hamming(hashes[place], hashes[place + 1 :])), 1)
    other = found[..., :9].sum(-1) < 12
    np.fill_diagonal(other, False)
    return np.asarray(found[other].sum(0), np.int64)


def together(store: Path) -> npt.NDArray[np.uint8]:
    """Distances of the pairs of pictures that passed the gate in one document, of the runs into a store."""
    tables = [pa.ipc.open_file(path).read_all() for path in sorted(store.glob("match-*/data/*.images.*.arrow"))]
    found: dict[int, list[int]] = {}
    for table in tables:
        for doc, reason, looks in zip(*(table[name].to_pylist() for name in ("doc", "reason", "phash")), strict=True):
            if not reason:
                found.setdefault(doc, []).append(looks)
    parts = [apart(np.array(looks, np.uint64)) for looks in found.values()]
    return np.concatenate(parts) if parts else np.zeros(0, np.uint8)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", type=Path)
    parser.add_argument("--store", type=Path)
    parser.add_argument("--most", type=int, default=60, help="pictures of a kind that are transformed")
    arguments = parser.parse_args()
    found: dict[str, list[bytes]] = {}
    hashes: dict[str, list[int]] = {}
    for kind, _, body in bodies(arguments.data):
        if looks := passing(body):
            found.setdefault(kind, []).append(body)
            hashes.setdefault(kind, []).append(looks)
    for text in recall(found, arguments.most):
        print(text, flush=True)
    print(head("different pictures"))
    for kind, own in hashes.items():
        print(line(kind, apart(np.array(own, np.uint64))))
    apiece = np.cumsum(pieces(found["photo"]))
    counts = ", ".join(f"<= {d}: {apiece[d]:,}" for d in SHOWN)
    print(f"pairs of pieces of different photographs: {counts}, of {apiece[-1]:,}")
    if arguments.store:
        print(line("of one document", together(arguments.store)))


if __name__ == "__main__":
    main()
