"""Which containers of a page are not its content: by class and id tokens, ARIA roles and inline styles.

Names match by token, never by substring: "date" does not hit "update", and "has-sidebar" says what a page has, not what
the element is. A name says what the element is or what it is about: "category-cookies", an id of four words. So there
are names that decide, and weak ones, whose element is content where it holds prose within the main text.
"""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import pairwise

from pipelines.tags import NAMED, REMARKS, WEAK


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Names that decide; each line of software that writes them.
DECIDING = _words(
    """nav navbar navigation navigate navbox navheader navfooter navlinks submenu breadcrumb breadcrumbs crumbs ccpa
    sharebar sharethis sharedaddy sharebox sharebuttons sharelinks addthis addtoany shariff sociable social newsletter
    subscription subscribe signup login signin recommendations advert adverts advertisement advertising ads ad adsense
    adsbygoogle promo disqus footer masthead topbar pagination paginator pagenav pager pagelinks editsection editlink
    tagcloud taglist blogroll skiplink paywall sitemap tableofcontents minitoc backlink linkwithin taboola outbrain
    dianomi zergnet revcontent relatedposts postprofile userinfo authorbox authorcard quickbuttons postbuttons votecell
    voting reactions likes siteslogan sitesub contentsub sitenotice jumplink catlinks printfooter printfriendly wishlist
    upsell upsells crosssell crosssells minicart linenos lineno linenumbers lastupdated relnav prevnext ticker facets
    facet socials socialmedia filmstrip photostream"""
)
PAIRED = _words(
    """site-header page-header site-footer page-footer sr-only screen-reader visually-hidden skip-link skip-nav skip-to
    read-next you-might you-may more-stories more-from more-posts more-articles most-read most-popular sign-up
    mailing-list back-top back-to related-posts related-articles related-stories related-products related-topics
    related-links follow-us jump-nav jump-to jump-links jump-link site-sub content-sub site-notice mw-jump mw-indicators
    print-footer cat-links tag-links tags-links post-tags post-taglist entry-tags article-tags tag-list tag-cloud
    post-author author-box author-bio author-card author-info about-author user-info message-signature
    message-attribution post-signature post-buttons post-likes similar-threads similar-topics similar-posts also-viewed
    also-like recently-viewed cross-sell cross-sells up-sell up-sells add-to sort-by star-rating product-flags
    edit-this edit-link edit-on last-updated last-edit prev-next post-navigation nav-links nav-previous
    nav-next page-links action-bar quick-view line-numbers site-info footer-nav site-nav site-navigation top-nav
    side-nav of-contents post-meta-tags product-sku product-meta servings-adjust rate-recipe comments-link
    also-read read-also lang-switcher language-switcher expand-link review-bar reviews-summary topic-category
    crawler-linkback edit-note notice-edited post-nav"""
)
WHOLE = _words("message-user message-cell--user topic-category")  # of software whose first words mean something else
# Names that content may have, too.
FAINT = _words(
    """share sharing cookie cookies consent gdpr related recommended trending sidebar sponsor sponsored popup modal menu
    tags buttons signature filters rating ratings toc"""
)
COMMENTS = _words("comments commentlist commentarea respond")
COMMENT_PAIRS = _words("comment-list")
# Inline elements that no reader takes for text of the line: line numbers, edit marks, letters of backlinks.
UNSEEN = _words("editsection lineno linenos linenumber linenumbers lnt headerlink visuallyhidden")
UNSEEN_PAIRS = _words(
    """sr-only screen-reader visually-hidden u-concealed line-number line-numbers cite-backlink accessibility-label
    toc-number"""
)
# All that can tell something; `tokens` asks for the attributes of an element only where one of these ends.
NAMES = DECIDING | FAINT | COMMENTS | UNSEEN
PAIRS = PAIRED | WHOLE | COMMENT_PAIRS | UNSEEN_PAIRS
NOT = _words("no has with without hide after before is")
# What the page is about, as content management systems write it on the element of a post: "tag-sharing".
ABOUT = _words("category tag tags type format status postid term tax taxonomy topic subject keyword slug ctx cat")
LISTS = _words("nav navigation menu sidebar list lists cloud links link footer header breadcrumb breadcrumbs")
SHORT = 3  # letters of a name, and names, from which on they are no words
SLUG = 4  # words in an id from which on it is the slug of a heading
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
    """Whether the names of an element say that it is boilerplate, be it by a weak word."""
    return names(classes, identity) != 0


def names(classes: str, identity: str) -> int:
    """What the names of an element say that it is: NAMED, boilerplate; WEAK, it may be; REMARKS, what readers say."""
    found = 0
    several = classes[:MAX_NAME].split()
    for name in several:
        found |= _named(name)
    if found and "ad" in several and sum(len(name) < SHORT for name in several) > SHORT:
        found = 0  # "dy ge ad hn" is what a style compiler writes
    if identity:
        found |= _identified(identity[:MAX_NAME])
    return found


def caption(classes: str) -> bool:
    """Whether the classes of an element say that it is a caption (".wp-caption-text", not ".wp-caption")."""
    return _caption(classes[:MAX_NAME])


def unseen(classes: str) -> bool:
    """Whether the classes of an inline element say that it is no text of the line it stands in."""
    return any(_unseen(name) for name in classes[:MAX_NAME].split())


@lru_cache(maxsize=1 << 14)
def _unseen(name: str) -> bool:
    found = tokens(name)
    return not UNSEEN.isdisjoint(found) or any(f"{a}-{b}" in UNSEEN_PAIRS for a, b in pairwise(found))


@lru_cache(maxsize=1 << 16)
def _named(name: str) -> int:
    if name.lower() in WHOLE:
        return NAMED
    if "--" in name:  # the modifier of a block says what it has
        name = name[: name.index("--")]
    found = tokens(name)
    if len(found) > 1 and found[0] in ABOUT and found[1] not in LISTS:
        return 0
    before = ""
    flags = 0
    for token in found:
        pair = f"{before}-{token}"
        if before not in NOT:
            if token in DECIDING or pair in PAIRED:
                return NAMED
            if token in COMMENTS or pair in COMMENT_PAIRS:
                flags |= REMARKS
            elif token in FAINT:
                flags |= WEAK
        before = token
    return flags


@lru_cache(maxsize=1 << 14)
def _identified(name: str) -> int:
    found = tokens(name)
    words = [token for token in found if not token.isdigit()]
    flags = _named(name)
    slug = "_" not in name and name == name.lower()
    return flags if len(words) < SLUG or not slug else WEAK if flags and len(words) == SLUG else 0


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
