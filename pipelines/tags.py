"""The vocabulary of the walk: what each tag is, and the numbers by which its two compiled passes speak."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

INLINE, BLOCK, SKIP, BREAK, IMG, PICTURE, LINK, CONTAINER, STRUCTURE, CELL, META, SPACED, UNKNOWN = range(13)
GROUPS = {
    INLINE: "html b strong i em u s strike small big tt code kbd samp var cite dfn abbr acronym q sub sup mark ins del "
    "font bdi bdo nobr time data ruby rb rt rtc wbr blink output math mrow mi mo mn msup msub mfrac mtext semantics",
    BLOCK: "p h1 h2 h3 h4 h5 h6 li blockquote pre listing xmp figcaption dt dd caption address hr summary legend",
    SKIP: "script style svg iframe object embed applet audio video canvas select datalist textarea input template "
    "progress meter map frameset noframes noembed plaintext annotation annotation-xml rp option optgroup",
    CONTAINER: "div section ul ol dl table tbody thead tfoot tr center details fieldset figure article main dir hgroup "
    "menu body search noscript",
    STRUCTURE: "nav header footer aside form button dialog",
    BREAK: "br",
    IMG: "img amp-img amp-anim",
    PICTURE: "picture",
    LINK: "a",
    CELL: "td th",
    META: "title meta base source",
    SPACED: "span label",
}  # fmt: skip
VOID = "area base basefont bgsound br col embed frame hr img input keygen link meta param source track wbr"
RAW = "script style xmp iframe noembed noframes plaintext"
HEADINGS = {f"h{n}": n for n in range(1, 7)}
KINDS = ("other", "p", *HEADINGS, "li", "quote", "pre", "figcaption", "dt", "dd", "th", "table")
OTHER, PARAGRAPH, HEADING, ITEM, QUOTE, PRE, FIGCAPTION, TH, TABLE = 0, 1, 2, 8, 9, 10, 11, 14, 15
KIND_OF = {"blockquote": "quote", "listing": "pre", "xmp": "pre", "caption": "figcaption"}
KIND_OF |= {"summary": "p", "legend": "p"}
TEXT, VERBATIM, BLANK, START, END = range(5)  # tokens; VERBATIM: text without entities, BLANK: ASCII white space
# What attributes say of an element: found by the caller, save the two about links.
HIDDEN, MUTED, NAMED, CAPTION, MAIN, OPEN, NUMBER, LINKS, SHOWS, PICTURED, LAZY, UNSEEN, LARGE = (
    1 << n for n in range(13)
)
WEAK, REMARKS = 1 << 13, 1 << 14  # names that content may have, too; names of what readers say
CLASS_A, ID_A, STYLE_A, HIDDEN_A, ARIA_A, ROLE_A, HREF_A, OPEN_A = (1 << n for n in range(8))
ATTRIBUTES = {
    "class": CLASS_A, "id": ID_A, "style": STYLE_A, "hidden": HIDDEN_A, "aria-hidden": ARIA_A, "role": ROLE_A,
    "href": HREF_A, "open": OPEN_A,
}  # fmt: skip
ALWAYS = 1 << 15
# What the end of an element means; from BOX on it is a span: any container, structure, nav, named, named by a weak
# word, by readers' comments, an aside or footer of content, a form; main; a figure, a caption.
NOTHING, GAP, BLOCK_END, BOX, REGION, BARE, SOFT, FAINT, COMMENTS, ASIDE, FORM, BODY, FIGURE, LEGEND = range(14)
FNV, PRIME = 0xCBF29CE484222325, 0x100000001B3

TAGS = ("", *(name for words in GROUPS.values() for name in words.split()))
TAGS += tuple(name for name in VOID.split() if name not in TAGS)
NUMBER_OF = {name: number for number, name in enumerate(TAGS)}


def _name_hash(name: str) -> int:
    value = FNV
    for byte in name.encode():
        value = ((value ^ byte) * PRIME) % (1 << 64)
    return value


def _table(values: dict[str, int]) -> tuple[Array, Array]:
    """Open addressing from the hash of a name to its value; 0 is an empty slot."""
    keys, found = np.zeros(1024, np.uint64), np.zeros(1024, np.int64)
    for name, value in values.items():
        slot = _name_hash(name) & 1023
        while keys[slot]:
            slot = (slot + 1) & 1023
        keys[slot], found[slot] = _name_hash(name), value
    return keys, found


def _traits() -> Array:
    """i64[tags, 6]: role, void, raw, kind of block, level, attributes to ask about."""
    hides = STYLE_A | HIDDEN_A | ARIA_A
    asked = {BLOCK: hides, LINK: hides, PICTURE: ALWAYS, IMG: ALWAYS, META: ALWAYS, SPACED: hides | CLASS_A}
    asked |= dict.fromkeys((CONTAINER, STRUCTURE, CELL), hides | CLASS_A | ID_A | ROLE_A | OPEN_A)
    roles = {name: role for role, words in GROUPS.items() for name in words.split()}
    table = np.zeros((len(TAGS), 6), np.int64)
    for number, name in enumerate(TAGS):
        role = roles.get(name, UNKNOWN)
        kind = KIND_OF.get(name, name)
        table[number] = (
            role, name in VOID.split(), name in RAW.split(), KINDS.index(kind) if kind in KINDS else OTHER,
            HEADINGS.get(name, 0), asked.get(role, hides if role == UNKNOWN else 0),
        )  # fmt: skip
    for name in ("p", "dl"):
        table[NUMBER_OF[name], 5] |= CLASS_A
    return table


TRAITS = _traits()
TAG_KEYS, TAG_VALUES = _table(NUMBER_OF)
ATTRIBUTE_KEYS, ATTRIBUTE_VALUES = _table(ATTRIBUTES)
