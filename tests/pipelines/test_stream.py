"""The reading-order stream: text whole and unglued, boilerplate out, every image of the content in its place."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines import stream

URL = "http://a.example/dir/page.html"
PROSE = "The ferry leaves the harbour at noon and comes back in the evening, when the market has closed. " * 3


def flat(html: str, url: str = URL) -> list[str]:
    """Blocks as "kind text", images as "image address"."""
    found = stream.parse(html.encode(), url)
    return [
        f"{entry.block} {entry.text}" if entry.image < 0 else f"image {found.images[entry.image].url}"
        for entry in found.entries
    ]


def page(inside: str) -> str:
    return f"<html lang=en><title>T</title><body><p>{PROSE}</p>{inside}</body></html>"


def within(inside: str) -> list[str]:
    """The stream after the paragraph of prose."""
    return flat(page(inside))[1:]


@pytest.mark.parametrize(
    ("inside", "expected"),
    [
        ("<p>one<b>two</b>three <i>four</i>\n five</p>", ["p onetwothree four five"]),
        ("<div>a<div>b</div>c</div>", ["other a", "other b", "other c"]),
        ("<p>line<br>break</p>", ["p line break"]),
        ("<div>one<br><br>two</div>", ["other one", "other two"]),
        ("<p>a<input>b<button>c</button>d</p>", ["p ab", "p d"]),
        ("<h1>A</h1><h3>B <small>c</small></h3>", ["h1 A", "h3 B c"]),
        ("<ul><li>a<ul><li>b</ul><li><p>c</ul>", ["li a", "li b", "li c"]),
        ("<blockquote><p>q</p></blockquote>", ["quote q"]),
        ("<pre>  a\n   b  \n\n</pre>", ["pre   a\n   b"]),
        ("<dl><dt>t<dd>d</dl>", ["dt t", "dd d"]),
        ("<table><tr><th>a<th>b<tr><td>1<td>2 <b>3</b></table>", ["table a | b\n1 | 2 3"]),
        ("<table><tr><td><p>a</p><p>b</p><td>c</table>", ["table a b | c"]),
        (f"<table><tr><td><p>{PROSE}{PROSE}</p><td>c</table>", [f"p {(PROSE * 2).strip()}", "other c"]),
        ("<p>a&amp;b &lt;c&gt; &nbsp; d</p>", ["p a&b <c> d"]),
        ("<p>a</p>loose<p>b</p>", ["p a", "other loose", "p b"]),
        ("<math><mi>x</mi><mo>=</mo><mn>1</mn></math>", ["other x=1"]),
        ("<details><summary>s</summary>text</details>", ["p s", "other text"]),
    ],
)
def test_blocks(inside: str, expected: list[str]) -> None:
    assert within(inside) == expected


def test_levels() -> None:
    found = stream.parse(page("<h2>x</h2><ol><li>a<ul><li>b</ul></ol>").encode(), URL)
    assert [(entry.block, entry.level) for entry in found.entries] == [("p", 0), ("h2", 2), ("li", 1), ("li", 2)]


@pytest.mark.parametrize(
    "inside",
    [
        "<nav>menu</nav>",
        "<header>site</header>",
        "<footer>legal</footer>",
        "<aside>side</aside>",
        "<form>f</form>",
        "<script>s</script><style>t</style><template>u</template><svg><text>v</text></svg><iframe>w</iframe>",
        "<div hidden>h</div>",
        "<p style='color:red; display: none'>h",
        "<p><span style='visibility:hidden'>h</span>",
        "<span aria-hidden=true>icon</span>",
        "<div class='cookie-consent'>c</div>",
        "<div id=shareBar>s</div>",
        "<ul class='nav menu'><li>m</ul>",
        "<div role=navigation>n</div>",
        "<noscript>enable scripts</noscript>",
        "<div class=related><figure><img src=a.jpg></figure>r</div>",
        "<select><option>o</select>",
        "<dialog>d</dialog>",
        "<ul><li><a href=1>one</a><li><a href=2>two</a><li><a href=3>three</a></ul>",
        "<h3>More</h3><ul><li><a href=1><img src=t.jpg>one</a><li><a href=2>two</a><li><a href=3>three</a></ul>",
        "<p><a href=1>one</a> | <a href=2>two</a> | <a href=3>three</a></p>",
    ],
)
def test_boilerplate_goes(inside: str) -> None:
    assert within(inside) == []


@pytest.mark.parametrize(
    "html",
    [
        f"<form><p>{PROSE}</p></form>",
        f"<div class='page newsletter'><p>{PROSE}</p></div>",
        f"<aside><p>{PROSE}</p></aside>",
        f"<div class=update><p>{PROSE}</p></div>",
    ],
)
def test_what_holds_most_of_the_text_is_content(html: str) -> None:
    assert flat(html) == [f"p {PROSE.strip()}"]


def test_prose_with_links_and_short_lists_stay() -> None:
    prose = "<p>See <a href=1>the first</a>, <a href=2>the second</a> and <a href=3>the third</a> of these.</p>"
    assert len(within(prose)) == 1
    assert within("<ul><li>flour<li>water<li>salt</ul>") == ["li flour", "li water", "li salt"]


def test_the_main_element_is_preferred_only_if_it_holds_the_text() -> None:
    inside = f"<article><h1>A</h1><p>{PROSE}</p></article>"
    assert flat(f"<p>before</p>{inside}<p>after</p>") == ["h1 A", f"p {PROSE.strip()}"]
    assert len(flat(f"<article>one</article><p>{PROSE}</p>")) == 2


def test_a_header_inside_an_article_is_a_heading() -> None:
    html = f"<article><header><h1>Title</h1></header><p>{PROSE}</p><footer>tags</footer></article>"
    assert flat(html) == ["h1 Title", f"p {PROSE.strip()}"]


BASE = "image http://a.example/dir/"


@pytest.mark.parametrize(
    ("inside", "expected"),
    [
        ("<p>a<img src=x.jpg>b</p>", ["p a", f"{BASE}x.jpg", "p b"]),
        ("<a href=big.jpg><img src=x.jpg></a>", [f"{BASE}x.jpg"]),
        ("<img src='//b.example/x.jpg?a=1&amp;b=2'>", ["image http://b.example/x.jpg?a=1&b=2"]),
        ("<picture><source srcset='l.webp 900w'><img src=x.jpg></picture>", [f"{BASE}l.webp"]),
        ("<picture><source srcset='l.webp 900w'></picture>", [f"{BASE}l.webp"]),
        ("<img data-src=x.jpg src=blank.gif><noscript><img src=x.jpg></noscript>", [f"{BASE}x.jpg"]),
        ("<img data-src=x.jpg><noscript><img src=y.jpg></noscript>", [f"{BASE}x.jpg"]),
        ("<img src=data:image/gif;base64,R0><noscript><img src=y.jpg></noscript>", [f"{BASE}y.jpg"]),
        ("<aside><figure><img src=x.jpg><figcaption>c</figcaption></figure> more</aside>",
         [f"{BASE}x.jpg", "figcaption c"]),
        ("<nav><img src=logo.png></nav><img src=p.gif width=1 height=1><img hidden src=h.jpg>", []),
        ("<img src='x.svg'><img src=''><img>", []),
        ("<table><tr><td>a<td><img src=x.jpg><td>b</table>", ["other a", f"{BASE}x.jpg", "other b"]),
    ],
)  # fmt: skip
def test_images(inside: str, expected: list[str]) -> None:
    assert within(inside) == expected


def test_base_address_moves_references() -> None:
    html = f"<base href='http://c.example/sub/'><p>{PROSE}</p><img src=x.jpg><img src=/y.jpg>"
    assert flat(html)[1:] == ["image http://c.example/sub/x.jpg", "image http://c.example/y.jpg"]


IMAGE = "<img src=x.jpg alt=' an  alt ' title=t width=200 height=100px>"


@pytest.mark.parametrize(
    "inside",
    [
        f"<figure>{IMAGE}<figcaption>The <b>cap</b></figcaption></figure>",
        f"<figure><figcaption>The cap</figcaption><a href=y>{IMAGE}</a></figure>",
        f"<div class=wp-caption>{IMAGE}<p class=wp-caption-text>The cap</p></div>",
    ],
)
def test_what_comes_with_an_image(inside: str) -> None:
    (image,) = stream.parse(page(inside).encode(), URL).images
    assert (image.alt, image.title, image.caption) == ("an alt", "t", "The cap")
    assert (image.width, image.height) == (200, 100)


def test_page_fields() -> None:
    html = (
        "<html lang=en-GB><head><title> A \n title </title><meta name=Robots content=noai></head>"
        "<svg><title>no</title></svg>x"
    )
    found = stream.parse(html.encode(), URL)
    assert (found.title, found.lang, found.metas) == ("A title", "en-gb", [("robots", "noai")])


def test_too_many_images_are_counted_not_kept() -> None:
    found = stream.parse(page("<img src=a.jpg>" * 20).encode(), URL, max_images=5)
    assert (len(found.images), found.too_many_images) == (5, 15)


WRAPS = [
    "<div>{}</div>",
    "<p>{}",
    "<b>{}</b>",
    "<figure>{}<figcaption>c</figcaption></figure>",
    "<table><tr><td>{}</table>",
    "<ul><li>{}</ul>",
    "<a href=/x.jpg>{}</a>",
    "<picture>{}</picture>",
    "<blockquote>{}</blockquote>",
    "<section>{}</section>",
    "<center><font>{}</font></center>",
    "<span>{} text </span>",
    "text {}",
    "<pre>{}</pre>",
    "<h2>{}</h2>",
]


@given(st.lists(st.lists(st.sampled_from(WRAPS), max_size=6), max_size=8))
@settings(deadline=None)
def test_no_image_of_the_content_is_lost_or_moved(shapes: list[list[str]]) -> None:
    html, expected = f"<p>{PROSE}</p>", []
    for place, wraps in enumerate(shapes):
        piece = f"<img src={place}.jpg>"
        for wrap in wraps:
            piece = wrap.format(piece)
        html += f"<div>{piece}</div>\n"
        expected.append(f"http://a.example/dir/{place}.jpg")
    assert [image.url for image in stream.parse(html.encode(), URL).images] == expected


TAGS = ["p", "div", "table", "tr", "td", "ul", "li", "a", "figure", "figcaption", "picture", "nav", "b", "pre"]
ODD = ["<img src=a.jpg>", "<source srcset=b.jpg>", "<br>", "<base href=/x/>", "<x-y class=menu>", "\0"]
MARKUP = st.lists(
    st.one_of(
        st.sampled_from([f"<{tag}>" for tag in TAGS] + [f"</{tag}>" for tag in TAGS] + ODD),
        st.text(max_size=12),
    ),
    max_size=50,
)


@given(MARKUP)
@settings(deadline=None)
def test_any_markup_has_a_stream(pieces: list[str]) -> None:
    found = stream.parse("".join(pieces).encode("utf-8", "replace"), URL)
    assert [entry.image for entry in found.entries if entry.image >= 0] == list(range(len(found.images)))
    for entry in found.entries:
        assert bool(entry.text) == (entry.image < 0)
        if entry.block not in ("pre", "table", ""):
            assert entry.text == " ".join(entry.text.split())


MIXED = st.lists(
    st.sampled_from(["<p>é one</p>", "<img src={n}.png>", "<h2>two</h2>", "<p>three \u20ac\U0001f600</p>"])
)


@given(MIXED, st.integers(0, 60), st.randoms(use_true_random=False))
@settings(deadline=None)
def test_columns_are_the_entries(pieces: list[str], max_chars: int, random: Random) -> None:
    inside = "".join(piece.replace("{n}", str(n)) for n, piece in enumerate(pieces))
    found = stream.parse(f"<body>{inside}".encode(), URL)
    texts = [entry.text for entry in found.entries if entry.image < 0]
    assert found.lines(max_chars) == "\n".join(texts)[:max_chars]
    assert found.num_chars == len("".join(texts))
    drop = np.array([entry.image < 0 and random.random() < 0.5 for entry in found.entries], np.bool_)
    left = [entry for entry, gone in zip(found.entries, drop.tolist(), strict=True) if not gone]
    assert found.without(drop).entries == left and found.without(drop).images == found.images


@pytest.mark.parametrize(
    ("inside", "expected"),
    [
        ("<img src=a.png>", False),
        ("<p>one</p><img src=a.png>", True),
        ("<img src=a.png><p>one</p>", True),
        ("<h2>one</h2><img src=a.png>", False),
        ("<img src=a.png><h2>one</h2><p>two</p>", True),
        ("<p>one</p><h2>two</h2><img src=a.png>", False),
        ("<p>one</p><figure><figcaption>two</figcaption><img src=a.png></figure>", True),
        ("<p>one</p>", False),
    ],
)
def test_prose_beside_an_image(inside: str, expected: bool) -> None:
    assert stream.parse(f"<body>{inside}".encode(), URL).interspersed() is expected
