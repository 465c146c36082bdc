"""The sites' templates: content in the middle, and around it all that a reader does not come for.

`document` gives a whole HTML page. Nothing of the frame belongs to the stream: menus, cookie banners, share bars,
related links, sidebars, comments, newsletters, footers, hidden text, scripts.
"""

from __future__ import annotations

from collections.abc import Callable
from html import escape

from pipelines.smallweb.prose import Dice, Writer

MENU = ("Home", "About", "Archive", "Contact", "Events", "Members", "Shop", "Search", "Help", "Gallery")
STYLE = "body{font:16px serif;max-width:60em}.share a{color:#06c}@media print{nav{display:none}}"
SCRIPT = "(function(){var a=document.getElementsByTagName('p');if(a.length<3){document.write('<p>not here</p>')}})();"


def links(writer: Writer, count: int, holder: str = "ul") -> str:
    """A list of links to other stories."""
    rows = "".join(
        f'<li><a href="/{writer.dice.below(9999)}.html">{escape(writer.title())}</a></li>' for _ in range(count)
    )
    return f"<{holder}>{rows}</{holder}>"


def header(writer: Writer, host: str) -> str:
    """The site's head: logo and menu."""
    entries = "".join(f'<li><a href="/{name.lower()}">{name}</a></li>' for name in writer.dice.shuffled(MENU)[:6])
    logo = f'<a class="logo" href="/"><img src="/logo.png" alt="{escape(host)}" width="120" height="40"></a>'
    return f'<header class="site-header">{logo}<nav class="main-menu"><ul>{entries}</ul></nav></header>'


def footer(writer: Writer, host: str) -> str:
    """The site's foot, with the tracking pixel."""
    pixel = f'<img src="https://stats.example/pixel.png?h={host}" width="1" height="1" alt="">'
    return (
        f'<footer class="site-footer"><p>&copy; 2026 {host}. All rights reserved by {writer.write("name")}.</p>'
        f'<p><a href="/privacy">Privacy</a> | <a href="/terms">Terms of use</a></p>{pixel}</footer>'
    )


def cookies(writer: Writer) -> str:
    """A cookie banner."""
    return (
        '<div id="cookie-consent" class="cookie-banner"><p>We and our partners use cookies to make this site better '
        "for you and to measure how it is used.</p>"
        '<button type="button">Accept all</button><button>Settings</button></div>'
    )


def share(writer: Writer) -> str:
    """A share bar."""
    names = ("Mail", "Print", "Chirper", "Facepage", "Pinwall")
    return '<div class="share-buttons">' + "".join(f'<a href="#{n.lower()}">{n}</a>' for n in names) + "</div>"


def related(writer: Writer, host: str) -> str:
    """Teasers of other pages, with pictures that are not this page's."""
    cards = "".join(
        f'<li><a href="/r{n}"><img src="https://{host}/thumbs/{writer.dice.below(999)}.jpg" width="90" height="60">'
        f"{escape(writer.title())}</a></li>"
        for n in range(3)
    )
    return f'<div class="related-posts"><h3>You may also like</h3><ul>{cards}</ul></div>'


def comments(writer: Writer) -> str:
    """What readers wrote below."""
    rows = "".join(
        f'<li class="comment"><b>{writer.write("name")}</b><p>{escape(writer.write("comment"), quote=False)}</p></li>'
        for _ in range(writer.dice.between(1, 4))
    )
    form = '<form action="/comment"><label>Leave a reply</label><textarea></textarea><button>Send</button></form>'
    return (
        f'<section id="comments" class="comments"><h3>Comments</h3><ol class="comment-list">{rows}</ol>{form}</section>'
    )


def newsletter(writer: Writer) -> str:
    """A form that asks for an address."""
    return (
        '<form class="newsletter-signup" action="/join"><label>Our letter comes every month, and it is free of charge.'
        '</label><input type="email" name="email"><button>Join</button></form>'
    )


def hidden(writer: Writer) -> str:
    """Text that no reader sees."""
    return (
        f'<div style="display: none">{escape(writer.sentence(), quote=False)}</div>'
        f"<p hidden>{escape(writer.sentence(), quote=False)}</p>"
        f'<div aria-hidden="true"><p>{escape(writer.sentence(), quote=False)}</p></div>'
    )


def article_frame(writer: Writer, host: str, content: str) -> str:
    """HTML5 of the usual kind: main, article, footer."""
    return (
        f'{header(writer, host)}\n<main id="main"><article>\n{content}\n</article>\n{share(writer)}\n'
        f"{related(writer, host)}</main>\n{newsletter(writer)}\n{footer(writer, host)}"
    )


def blog_frame(writer: Writer, host: str, content: str) -> str:
    """Divs with classes, a sidebar, comments."""
    about = f"<h3>Recent posts</h3>{links(writer, 4)}<h3>About me</h3><p>{writer.sentence()}</p>"
    return (
        f'{header(writer, host)}\n<div id="wrap"><div class="post hentry"><div class="entry-content">\n{content}\n'
        f"</div>\n{share(writer)}</div>\n{comments(writer)}\n"
        f'<aside class="sidebar">{about}</aside></div>\n{footer(writer, host)}'
    )


def forum_frame(writer: Writer, host: str, content: str) -> str:
    """A thread, its breadcrumb, other threads."""
    crumbs = '<nav class="breadcrumb"><a href="/">Board index</a> &raquo; <a href="/f2">General talk</a></nav>'
    return (
        f'{header(writer, host)}{crumbs}<div id="thread" class="posts">\n{content}\n</div>\n'
        f'<nav class="pagination"><a href="?p=1">1</a> <a href="?p=2">2</a> <a href="?p=2">Next</a></nav>\n'
        f'<div class="related-threads"><h3>Other threads</h3>{links(writer, 4)}</div>{footer(writer, host)}'
    )


def shop_frame(writer: Writer, host: str, content: str) -> str:
    """A product, a form to buy it, other products."""
    price = f"{writer.dice.between(3, 400)}.{writer.dice.between(10, 99)}"
    buy = f'<form class="buy" action="/cart"><span>Price: {price}</span><button>Add to basket</button></form>'
    return (
        f'{header(writer, host)}<div id="product" class="product-page">\n{content}\n</div>{buy}\n'
        f"{related(writer, host)}{newsletter(writer)}{footer(writer, host)}"
    )


def docs_frame(writer: Writer, host: str, content: str) -> str:
    """A tree of chapters on the left, the chapter on the right."""
    return (
        f'{header(writer, host)}<nav class="toc" role="navigation">{links(writer, 6)}</nav>\n<div role="main">\n'
        f'{content}\n</div>\n<nav class="prev-next"><a href="/p">Previous</a> <a href="/n">Next</a></nav>'
        f"{footer(writer, host)}"
    )


def news_frame(writer: Writer, host: str, content: str) -> str:
    """A front page: stories in the middle, lists of links on both sides."""
    return (
        f'{header(writer, host)}<aside class="latest"><h3>Latest</h3>{links(writer, 5)}</aside>\n<main>\n{content}\n'
        f'</main>\n<aside class="most-read"><h3>Most read</h3>{links(writer, 5, "ol")}</aside>{footer(writer, host)}'
    )


def bare_frame(writer: Writer, host: str, content: str) -> str:
    """A page from before style sheets: nothing but content and a line of links."""
    return f'{content}\n<hr>\n<nav><a href="/">Home</a> | <a href="/index.html">Index</a></nav>'


FRAMES: dict[str, Callable[[Writer, str, str], str]] = {
    "article": article_frame,
    "blog": blog_frame,
    "gallery": article_frame,
    "forum": forum_frame,
    "shop": shop_frame,
    "docs": docs_frame,
    "recipe": blog_frame,
    "news": news_frame,
    "bare": bare_frame,
}


def document(frame: str, content: str, *, title: str, host: str, topic: str, dice: Dice, lang: str, head: str) -> str:
    """A whole HTML page with the content in the named frame; lang "" leaves the attribute out."""
    writer = Writer(dice, topic)
    body = FRAMES[frame](writer, host, content)
    if frame != "bare":
        extras = [cookies(writer)] if dice.chance(40) else []
        extras += [hidden(writer)] if dice.chance(20) else []
        head = f"{head}<style>{STYLE}</style><script>{SCRIPT}</script>"
        body = "\n".join([body, *extras])
    attribute = f' lang="{lang}"' if lang else ""
    return (
        f"<!DOCTYPE html>\n<html{attribute}>\n<head>{head}\n<title>{escape(title, quote=False)}</title></head>\n"
        f"<body>\n{body}\n</body>\n</html>\n"
    )
