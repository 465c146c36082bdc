"""Which containers of a page are not its content: by class and id tokens, ARIA roles and inline styles.

Names match by token, never by substring: "date" does not hit "update", and "has-sidebar" says what a page has, not what
the element is.
"""

from __future__ import annotations

import re
from functools import lru_cache


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


NAMES = _words(
    """nav navbar navigation navigate navbox navheader navfooter navlinks menu submenu breadcrumb breadcrumbs sidebar
    cookie cookies consent gdpr ccpa share sharing sharebar sharethis addthis addtoany social newsletter subscribe
    subscription signup login signin related recommended recommendations trending advert adverts advertisement
    advertising ads ad adsense sponsor sponsored promo popup modal comments disqus footer masthead topbar pagination
    pager editsection tagcloud blogroll skiplink paywall sitemap"""
)
PAIRS = _words(
    """site-header page-header site-footer sr-only screen-reader visually-hidden skip-link skip-nav read-next
    you-might you-may more-stories more-from most-read most-popular sign-up mailing-list back-top related-posts
    follow-us cookie-notice jump-nav"""
)
NOT = _words("no has with without hide after before")
SKIPPED_ROLES = _words("navigation banner contentinfo search dialog alertdialog menu menubar toolbar")
MAIN_ROLES = frozenset(("main", "article"))
CAPTION = frozenset(("caption", "captions", "figcaption"))
NUMBERING = frozenset(("secnum", "secno", "sectnum", "chapnum", "section-number", "header-section-number"))
PIECES = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
DECORATION = _words(
    "avatar avatars gravatar userpic emoji emoticon smiley smilies icon icons logo favicon spinner badge author"
)
# How slick, swiper, owl, bxslider and splide name the slides that they repeat to go round.
CLONE = re.compile(r"(?:^|\s)(?:slick-cloned|swiper-slide-duplicate|cloned|bx-clone|splide__slide--clone)(?:\s|$)")
CLONES = frozenset(("cloned", "duplicate", "clone"))  # the last token of each
HIDDEN = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden", re.I)
MAX_NAME = 1000  # of a class or id that is looked at


def tokens(name: str) -> list[str]:
    """Tokens of a class or id, lower case: split at what is no letter or digit, and at the humps of camelCase."""
    return [piece.lower() for piece in PIECES.findall(name)]


def named(classes: str, identity: str) -> bool:
    """Whether the names of an element say that it is boilerplate."""
    return any(_named(name) for name in (*classes[:MAX_NAME].split(), identity[:MAX_NAME]))


def caption(classes: str) -> bool:
    """Whether the classes of an element say that it is a caption (".wp-caption-text", not ".wp-caption")."""
    return _caption(classes[:MAX_NAME])


@lru_cache(maxsize=1 << 16)
def _named(name: str) -> bool:
    before = ""
    for token in tokens(name):
        if (token in NAMES and before not in NOT) or f"{before}-{token}" in PAIRS:
            return True
        before = token
    return False


@lru_cache(maxsize=1 << 12)
def _caption(classes: str) -> bool:
    for name in classes.split():
        found = tokens(name)
        if found and ((found[-1] in CAPTION and found[0] != "wp") or found[-2:] == ["caption", "text"]):
            return True
    return False


def numbering(classes: str) -> bool:
    """Whether an element is the number of a section, which style sheets set apart from its title without a space."""
    return not NUMBERING.isdisjoint(classes[:MAX_NAME].split())


def decoration(classes: str) -> bool:
    """Whether the classes of an image say that it is no picture of the page: an avatar, an icon, a spinner."""
    return bool(classes) and _decoration(classes[:MAX_NAME])


@lru_cache(maxsize=1 << 12)
def _decoration(classes: str) -> bool:
    return any(not DECORATION.isdisjoint(tokens(name)) and NOT.isdisjoint(tokens(name)) for name in classes.split())


def clone(classes: str) -> bool:
    """Whether the classes of an element say that a slider made it as a copy of another."""
    return bool(classes) and ("lon" in classes or "uplicat" in classes) and CLONE.search(classes) is not None


def hidden(style: str) -> bool:
    """Whether an inline style hides the element."""
    return bool(style) and HIDDEN.search(style) is not None
