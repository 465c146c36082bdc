"""What reasons mean, in a few words, and how the value that decided is said."""

from __future__ import annotations

from pipelines.reasons import Reason

NOT_ASKED, ASKED, LOOKED_AT, COMPARED = "address", "request", "gate", "compared"

# reason -> (what it means, how its value is told; "" if it has none)
WORDS: dict[Reason, tuple[str, str]] = {
    Reason.IMAGE_BLOCKED: ("a word of its address is on the blocklist", ""),
    Reason.IMAGE_ADULT: ("a word of its address is on the adult list", ""),
    Reason.IMAGE_DECLARED_SMALL: ("declared smaller than the bound", "{:.0f} px declared"),
    Reason.IMAGE_DRAWING: ("a drawing, which has no pixels", ""),
    Reason.IMAGE_FREQUENT: ("its address is in too many documents", "in {:,.0f} documents"),
    Reason.IMAGE_TWICE: ("its address stands earlier in the document", ""),
    Reason.IMAGE_SURPLUS: ("the document has enough images", ""),
    Reason.SINGLE_IMAGE: ("alone in its document, which lost the toss", ""),
    Reason.NO_TEXT_LEFT: ("its document was nothing but paragraphs that its site repeats", "{:.0f} paragraphs"),
    Reason.SAME_IMAGES: ("another document shows the very same images", "{:.0f} images"),
    Reason.NOT_ASKED: ("no answer is on record", ""),
    Reason.DNS: ("its host has no address", "curl error {:.0f}"),
    Reason.CONNECT: ("no connection", "curl error {:.0f}"),
    Reason.TLS: ("no certificate that holds", "curl error {:.0f}"),
    Reason.TIMEOUT: ("too slow", "curl error {:.0f}"),
    Reason.HTTP_GONE: ("the server says that it is gone", "HTTP {:.0f}"),
    Reason.HTTP_CLIENT: ("the server refuses it", "HTTP {:.0f}"),
    Reason.HTTP_BUSY: ("the server is busy", "HTTP {:.0f}"),
    Reason.HTTP_SERVER: ("the server fails", "HTTP {:.0f}"),
    Reason.HTTP_OTHER: ("an answer that is no image", "HTTP {:.0f}"),
    Reason.REDIRECTS: ("redirects too often, or to no web address", ""),
    Reason.PRIVATE_ADDRESS: ("leads to an address that is not public", ""),
    Reason.OPT_OUT_IMAGE: ("the answer reserves its use", ""),
    Reason.ROBOTS: ("robots.txt disallows it", ""),
    Reason.ROBOTS_UNREACHABLE: ("robots.txt cannot be read", "HTTP {:.0f}"),
    Reason.BODY_TOO_LARGE: ("over the limit in bytes", "limit {:,.0f} bytes"),
    Reason.BODY_EMPTY: ("an empty answer", ""),
    Reason.BODY_CUT: ("an answer that ends too early", ""),
    Reason.PROTOCOL: ("an answer that is no HTTP", "curl error {:.0f}"),
    Reason.FETCHER: ("our own code failed on it", ""),
    Reason.DOMAIN_DOWN: ("its site did not answer many requests before", ""),
    Reason.DEFERRED: ("the pace of its site left no turn for it", "{:,.0f} s"),
    Reason.MOVED: ("redirects to another site", ""),
    Reason.DOMAIN_BUDGET: ("its site has more images than the budget", "budget {:,.0f}"),
    Reason.OPT_OUT_ROBOTS: ("robots.txt reserves its use for training", ""),
    Reason.NOT_AN_IMAGE: ("of no format that is read", ""),
    Reason.UNDECODABLE: ("cannot be decoded", ""),
    Reason.TOO_MANY_PIXELS: ("too many pixels", "{:.1f} megapixels"),
    Reason.SIDE_SMALL: ("a side under the bound", "{:.0f} px"),
    Reason.SIDE_LARGE: ("a side over the bound", "{:,.0f} px"),
    Reason.ASPECT: ("too long for its width", "{:.2f} : 1"),
    Reason.SINGLE_COLOUR: ("of one colour", "deviation {:.2f}"),
    Reason.IMAGE_REPEATED: ("the same picture is in too many documents", "in {:,.0f} documents"),
    Reason.IMAGE_REPEATED_HERE: ("the same picture stands earlier in the document", "{:.0f} bits differ"),
    Reason.IMAGE_CONTAMINATED: ("looks like an image of an evaluation set", "{:.0f} bits differ"),
}
# of which 0 is a measure, and not "none"
COUNTED_FROM_0 = frozenset((Reason.IMAGE_REPEATED_HERE, Reason.IMAGE_CONTAMINATED, Reason.SINGLE_COLOUR))


def meaning(reason: Reason) -> str:
    """The reason in a few words; "" where nobody has found any."""
    return WORDS.get(reason, ("", ""))[0]


def told(reason: Reason, value: float) -> str:
    """The value that decided, with its unit; "" if there is none."""
    form = WORDS.get(reason, ("", "value {:.4g}"))[1]
    return form.format(value) if form and (value or reason in COUNTED_FROM_0) else ""


def kind(reason: Reason) -> str:
    """When it was found: by the address, by asking, by looking, or by comparing with others."""
    if reason < Reason.NOT_ASKED:
        return COMPARED if reason in (Reason.SINGLE_IMAGE, Reason.NO_TEXT_LEFT, Reason.SAME_IMAGES) else NOT_ASKED
    if reason < Reason.NOT_AN_IMAGE:
        return ASKED
    return LOOKED_AT if reason < Reason.IMAGE_REPEATED else COMPARED
