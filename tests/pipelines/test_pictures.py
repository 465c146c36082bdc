"""Which address an <img> or <picture> shows."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines import pictures

CHOICES = [
    ({"src": "a.jpg"}, [], "a.jpg"),
    ({"src": "a.jpg", "srcset": "b.jpg 400w, c.jpg 1600w, d.jpg 4000w"}, [], "c.jpg"),
    ({"src": "a.jpg", "srcset": "b.jpg 3000w, c.jpg 4000w"}, [], "c.jpg"),
    ({"src": "a.jpg", "srcset": "b.jpg, c.jpg 2x"}, [], "c.jpg"),
    ({"srcset": "b.jpg 1x, c.jpg 2x, d.jpg 3x", "width": "1000"}, [], "c.jpg"),
    ({"srcset": "/w_100,h_50/b.jpg 100w, /w_200,h_90/c.jpg 200w"}, [], "/w_200,h_90/c.jpg"),
    ({"srcset": "b.jpg 1x,c.jpg 2x"}, [], "c.jpg"),
    ({"srcset": "data:image/gif;base64,R0lGOD 1w, c.jpg 2w"}, [], "c.jpg"),
    ({"src": "data:image/gif;base64,R0", "data-src": "real.jpg"}, [], "real.jpg"),
    ({"src": "/img/placeholder.png", "data-original": "real.jpg"}, [], "real.jpg"),
    ({"src": "spacer.gif", "data-srcset": "s.jpg 320w, m.jpg 960w", "data-src": "s.jpg"}, [], "m.jpg"),
    ({"src": "tiny.jpg", "class": "lazyload blur", "data-src": "real.jpg"}, [], "real.jpg"),
    ({"src": "real.jpg", "data-src": "other.jpg"}, [], "real.jpg"),
    ({"data-lazy-src": "real.jpg"}, [], "real.jpg"),
    ({"data-src": "{{ image.url }}", "src": "a.jpg"}, [], "a.jpg"),
    ({"src": "a.jpg"}, [{"srcset": "b.webp 800w, c.webp 1200w", "type": "image/webp"}], "c.webp"),
    ({"src": "a.jpg"}, [{"srcset": "b.avif 800w", "type": "image/avif"}], "a.jpg"),
    ({}, [{"srcset": "b.avif 800w", "type": "image/avif"}], "b.avif"),
    # a browser takes the first source that fits, and asks the img last
    ({"src": "a.jpg", "srcset": "b.jpg 800w, c.jpg 1600w"}, [{"srcset": "d.webp 800w, e.webp 1600w"}], "e.webp"),
    (
        {"src": "a.jpg"},
        [{"srcset": "b.avif", "type": "image/avif"}, {"srcset": "c.webp"}, {"srcset": "d.jpg"}],
        "c.webp",
    ),
    ({"src": "a.jpg"}, [{"media": "(max-width: 700px)", "srcset": "b.jpg"}, {"srcset": "c.jpg"}], "c.jpg"),
    ({"src": "a.jpg"}, [{"media": "(orientation: portrait)", "srcset": "b.jpg"}], "a.jpg"),
    ({"src": "a.jpg"}, [{"srcset": "data:image/gif;base64,R0 1w", "data-srcset": "b.jpg 9w, c.jpg 99w"}], "c.jpg"),
    # what scripts fill in
    (
        {"src": "a_300x.jpg", "class": "lazyload", "data-src": "a_{width}x.jpg", "data-widths": "[180, 2048, 4096]"},
        [],
        "a_2048x.jpg",
    ),
    ({"data-src": "a_{width}x.jpg"}, [], "a_1024x.jpg"),
    ({"data-src": "a_{height}x.jpg", "src": "b.jpg"}, [], "b.jpg"),
    ({"src": "a.jpg", "class": "jetpack-lazy-image", "data-lazy-src": "a.jpg?w=9&is-pending-load=1"}, [], "a.jpg?w=9"),
    ({"src": "data:image/gif;base64,R0", "ec-data-src": "/real.jpg"}, [], "/real.jpg"),
    ({"src": "data:image/gif;base64,R0", "data-permalink": "/a-page/"}, [], ""),
    ({"src": "https://w.example/media/math/render/svg/5f2ad3"}, [], ""),
    ({"src": "https://camo.example/5fd1", "data-canonical-src": "https://ci.example/badge.svg"}, [], ""),
    (
        {"src": "https://camo.example/5fd1", "data-canonical-src": "https://ci.example/photo.jpg"},
        [],
        "https://camo.example/5fd1",
    ),
    ({"src": "drawing.svg"}, [], ""),
    ({"src": "drawing.svg?v=2"}, [], ""),
    ({"src": "data:image/png;base64,AAAA"}, [], ""),
    ({"src": ""}, [], ""),
    ({}, [], ""),
]


@pytest.mark.parametrize(("img", "sources", "expected"), CHOICES)
def test_choice(img: dict[str, str | None], sources: list[dict[str, str | None]], expected: str) -> None:
    assert pictures.choose(img, sources)[0] == expected


@pytest.mark.parametrize(
    ("attributes", "width"),
    [
        ({"width": "300"}, 300), ({"width": "300px"}, 300), ({"width": " 300.5 "}, 300), ({"width": "100%"}, 0),
        ({"width": "auto", "style": "max-width: 9px; width:120px"}, 120), ({"style": "max-width:50px"}, 0), ({}, 0),
        ({"width": None}, 0),
    ],
)  # fmt: skip
def test_declared_sizes(attributes: dict[str, str | None], width: int) -> None:
    assert pictures.length(attributes, "width") == width


@given(st.dictionaries(st.sampled_from(["src", "srcset", "data-src", "data-srcset", "class", "width"]), st.text()))
def test_any_attributes_have_an_answer(img: dict[str, str | None]) -> None:
    address, _ = pictures.choose(img, [img])
    assert not address.lower().startswith("data:")


@pytest.mark.parametrize(
    ("media", "fits"),
    [
        ("", True), ("(min-width: 980px)", True), ("(min-width: 4000px)", False), ("(max-width:600px)", False),
        ("(max-width: 40em)", False), ("(min-width: 60em)", True), ("(max-width: 600px), (min-width: 900px)", True),
        ("(min-width: 660px) and (-webkit-min-device-pixel-ratio: 1.25)", True), ("(min-resolution: 300dpi)", False),
        ("(orientation: portrait)", False), ("(orientation: landscape)", True), ("(prefers-color-scheme: dark)", False),
        ("print", False), ("screen and (min-width: 10px)", True), ("(hover: none)", True), ("(min-width: ...px)", True),
    ],
)  # fmt: skip
def test_media_conditions_are_asked_of_a_wide_screen(media: str, fits: bool) -> None:
    assert pictures.fits(media) is fits


@pytest.mark.parametrize(
    ("address", "size"),
    [
        ("https://a.example/a.jpg", 0), ("https://a.example/a-150x100.jpg", 100),
        ("https://a.example/a_110x110@2x.png?v=1", 110),
        ("https://a.example/a_300x.jpg", 300), ("https://a.example/a.jpg?w=60&h=40&q=5", 40),
        ("https://a.example/max/60/1*a.jpeg?q=20", 60), ("https://a.example/w_320,h_50/a.jpg", 50),
        ("https://a.example/thumb/a.jpg/20px-a.jpg", 20), ("https://a.example/I/41abc._SS84_.jpg", 84),
        ("https://a.example/2020-10-12x3/a.jpg", 0), ("https://a.example/a.jpg?w=1", 0),
        ("https://a.example/show?how=9&w=99x", 0),
    ],
)  # fmt: skip
def test_sizes_that_an_address_tells(address: str, size: int) -> None:
    assert pictures.told(address) == size


def test_thumbnails_are_copies_of_what_is_larger() -> None:
    shown = [
        ("https://a.example/suite.jpg", 950, 560),
        ("https://a.example/suite-150x100.jpg", 150, 100),
        ("https://a.example/other-150x100.jpg", 150, 100),  # of nothing that is shown
        ("https://a.example/cap_90x90.jpg?v=2", 0, 0),
        ("https://a.example/cap_800x.jpg?v=2", 0, 0),
        ("https://a.example/cap_90x90.jpg?v=3", 0, 0),  # another picture
        ("https://a.example/suite.jpg", 300, 200),  # the same address is no copy
        ("https://a.example/wall-700x500.jpg", 0, 0),
        ("https://a.example/wall-2000x1500.jpg", 0, 0),
    ]
    assert sorted(pictures.copies(shown)) == [1, 3, 7]
    assert pictures.copies(shown[2:3]) == []
