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
