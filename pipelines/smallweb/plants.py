"""The bad pages: each is planted for one reason and gives no earlier rule cause to act.

Rules act in this order: words, word length, repetition of characters and of words, special characters, stopwords,
flagged words, punctuation, spam words, symbols, bullets, ellipses, letters, lines, n-grams, gibberish.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from pipelines.smallweb.contents import figures, paragraphs
from pipelines.smallweb.markup import Part, Text
from pipelines.smallweb.page import Page, meta
from pipelines.smallweb.prose import Dice, Writer, lines, vocabulary
from pipelines.smallweb.sites import write


def own_words(name: str) -> tuple[str, ...]:
    """A list of the words that only bad pages use."""
    return vocabulary()["bad"][name]


def page(dice: Dice, host: str, topic: str, kind: str, reason: str, parts: list[Part], stage: str = "judge") -> Page:
    """A planted page with its parts, at an address that says nothing of it."""
    url = f"https://{host}/p/{dice.below(1_000_000)}"
    return Page(url=url, kind=kind, topic=topic, parts=tuple(parts), frame="article", reason=reason, stage=stage)


def texts(*blocks: str) -> list[Part]:
    """Paragraphs."""
    return [Text(block="p", text=block) for block in blocks]


def too_short(dice: Dice, host: str, topic: str) -> Page:
    """A headline, a picture and a dozen words."""
    writer = Writer(dice, topic)
    parts: list[Part] = [
        Text(block="h1", text=writer.word("thing").capitalize()),
        *figures(writer, host, 1, captions=0),
    ]
    return page(
        dice, host, topic, "too_short", "words", [*parts, *texts("It is back in the shop, so come and see us.")]
    )


def long_words(dice: Dice, host: str, topic: str) -> Page:
    """Officialese: more than ten letters a word."""
    blocks = []
    for _ in range(5):
        words = dice.shuffled(own_words("officialese"))[:14]
        joined = [words[0].capitalize(), "and", *words[1:7], "of the", *words[7:11], "with", *words[11:]]
        blocks.append(" ".join(joined) + ".")
    return page(dice, host, topic, "long_words", "mean_word_length", texts(*blocks))


def repetitive(dice: Dice, host: str, topic: str) -> Page:
    """One sentence over and over."""
    writer = Writer(dice, topic)
    sentence = writer.sentence()
    parts = [*figures(writer, host, 1), *texts(*[" ".join([sentence] * 5)] * 6)]
    return page(dice, host, topic, "repetitive", "character_repetition", parts)


def said_twice(dice: Dice, host: str, topic: str) -> Page:
    """Every paragraph stands there twice."""
    writer = Writer(dice, topic)
    once = paragraphs(writer, 6)
    return page(dice, host, topic, "said_twice", "word_repetition", [*figures(writer, host, 1), *once, *once])


def symbols_everywhere(dice: Dice, host: str, topic: str) -> Page:
    """Prose between rows of ornaments."""
    writer = Writer(dice, topic)
    blocks = []
    for _ in range(8):
        ornament = "".join(dice.pick("~*=-+^<>|/\\%$@!&()[]{}") for _ in range(60))
        words = writer.sentence().split(" ")
        cut = len(words) // 2
        blocks.append(" ".join([*words[:cut], ornament[:30], *words[cut:], ornament[30:]]))
    return page(dice, host, topic, "symbols_everywhere", "special_characters", texts(*blocks))


def keywords(dice: Dice, host: str, topic: str) -> Page:
    """Keyword stuffing: names of goods with no sentence around them."""
    common, own = vocabulary()["common"], vocabulary()[topic]
    blocks = []
    for _ in range(6):
        goods = []
        for _ in range(12):
            pair = (
                dice.pick(common["adjectives"]),
                dice.pick(own["looks"]),
                dice.pick(own["things"]).partition("/")[0],
            )
            goods.append(" ".join(pair))
        blocks.append(", ".join(goods).capitalize() + ".")
    return page(dice, host, topic, "keywords", "stopwords", texts(*blocks))


def unpunctuated(dice: Dice, host: str, topic: str) -> Page:
    """Prose without a single stop."""
    writer = Writer(dice, topic)
    drop = str.maketrans("", "", '.,;:?!"')
    blocks = [writer.paragraph(4).lower().translate(drop) for _ in range(6)]
    return page(dice, host, topic, "unpunctuated", "punctuation", texts(*blocks))


def spam(dice: Dice, host: str, topic: str) -> Page:
    """An advertisement that is grammatical enough."""
    forms = (
        "{} it {}, and you have {} in the {} of the {}.",
        "If you {} this {}, it is a {} to {} for.",
        "You will {} the {}, and we will {} you a {}.",
        "It is {}, it is a {}, and it is the {} that you {}.",
    )
    blocks = []
    for _ in range(6):
        sentences = []
        for form in dice.shuffled(forms)[:3]:
            words = dice.shuffled(own_words("spam"))
            text = form.format(*words[: form.count("{}")])
            sentences.append(f"{text[:1].upper()}{text[1:]} {Writer(dice, topic).write('title')}.")
        blocks.append(" ".join(sentences))
    return page(dice, host, topic, "spam", "spam_words", texts(*blocks))


def hashes(dice: Dice, host: str, topic: str) -> Page:
    """A hash or an ellipsis at every sixth word."""
    writer = Writer(dice, topic)
    blocks = []
    for _ in range(6):
        words = writer.paragraph(3).split(" ")
        for spot in range(2, len(words), 6):
            words[spot] = f"#{words[spot]}"
        blocks.append(" ".join(words))
    return page(dice, host, topic, "hashes", "symbols", texts(*blocks))


def bulleted(dice: Dice, host: str, topic: str) -> Page:
    """Nothing but bullets, typed by hand."""
    writer = Writer(dice, topic)
    return page(dice, host, topic, "bulleted", "bullets", texts(*[f"• {writer.sentence()}" for _ in range(14)]))


def trailing_off(dice: Dice, host: str, topic: str) -> Page:
    """Every line breaks off."""
    writer = Writer(dice, topic)
    blocks = [f"{writer.sentence()} {writer.sentence()[:-1]}…" for _ in range(10)]
    return page(dice, host, topic, "trailing_off", "ellipsis", texts(*blocks))


def numbers(dice: Dice, host: str, topic: str) -> Page:
    """Words and numbers by turns."""
    writer = Writer(dice, topic)
    blocks = []
    for _ in range(6):
        mixed: list[str] = []
        for spot, word in enumerate(writer.paragraph(3).split(" ")):
            mixed += [word, str(dice.between(10, 9999))] if spot % 3 == 1 else [word]
        blocks.append(" ".join(mixed))
    return page(dice, host, topic, "numbers", "alphabetic_words", texts(*blocks))


def same_headings(dice: Dice, host: str, topic: str) -> Page:
    """The same short heading over every paragraph."""
    writer = Writer(dice, topic)
    parts: list[Part] = []
    for _ in range(14):
        parts += [Text(block="h3", text="Note"), Text(block="p", text=writer.sentence())]
    return page(dice, host, topic, "same_headings", "duplicate_lines", parts)


def refrain(dice: Dice, host: str, topic: str) -> Page:
    """A long sentence that comes back four times in a long text."""
    writer = Writer(dice, topic)
    line = writer.fill(
        "{name.up} said that {what} and {a} {noun} are to be {past} by {who} with {abstract} and {material}"
    )
    blocks = []
    for number in range(12):
        blocks.append(
            f"{writer.paragraph(2)} {line}, {writer.write('tail')}." if number % 3 == 0 else writer.paragraph(2)
        )
    return page(dice, host, topic, "refrain", "duplicate_ngrams", texts(*blocks))


def oh_so(dice: Dice, host: str, topic: str) -> Page:
    """Two words that make up a fifth of the text."""
    own, common = vocabulary()[topic], vocabulary()["common"]
    looks = dice.shuffled([*own["looks"], *common["adjectives"], *common["feelings"]])
    blocks = []
    for start in range(0, 60, 6):
        some = looks[start : start + 6]
        blocks.append(", ".join(f"oh so {word}" for word in some).capitalize() + ".")
    return page(dice, host, topic, "oh_so", "top_ngram", texts(*blocks))


def addresses(dice: Dice, host: str, topic: str) -> Page:
    """A third of all tokens are addresses."""
    writer = Writer(dice, topic)
    blocks = []
    for _ in range(6):
        mixed: list[str] = []
        for spot, word in enumerate(writer.paragraph(2).split(" ")):
            letters = "".join(dice.pick("abcdefghijklmnoprstuvwz") for _ in range(4))
            mixed += [word, f"http://{letters}.example"] if spot % 2 == 1 else [word]
        blocks.append(" ".join(mixed))
    return page(dice, host, topic, "addresses", "gibberish", texts(*blocks))


def emoji(dice: Dice, host: str, topic: str) -> Page:
    """Emoji and hashtags with a word between."""
    writer = Writer(dice, topic)
    blocks = []
    for _ in range(6):
        words = writer.paragraph(2).split(" ")
        blocks.append(
            " ".join(f"{word} {dice.pick(own_words('emoji'))} #{dice.pick(words).strip('.,')}" for word in words)
        )
    return page(dice, host, topic, "emoji", "symbols", texts(*blocks))


def link_list(dice: Dice, host: str, topic: str) -> Page:
    """A page of links and nothing else."""
    writer = Writer(dice, topic)
    rows = "".join(f'<li><a href="/{number}.html">{writer.title()}</a></li>' for number in range(40))
    made = page(dice, host, topic, "link_list", "no_text", [], "extract")
    body = f"<html lang='en'><title>Links</title><body><div class='links'><ul>{rows}</ul></div></body></html>"
    return replace(made, raw=body.encode())


def tongue(dice: Dice, host: str, topic: str, line: str) -> Page:
    """The page of one line of tongues.txt."""
    lang, charset, title, text = line.split(" | ")
    parts = [Text(block="h1", text=title), *texts(text)]
    made = page(dice, host, topic, f"foreign_{lang}", "language", parts, "extract")
    said = f"text/html; charset={charset}" if dice.chance(60) else "text/html"
    return replace(
        made, lang=lang, encoding=charset, content_type=said, head=f'<meta charset="{charset}">', frame="bare"
    )


def reserved(reason: str, kind: str, *headers: tuple[str, str], head: str = "") -> Callable[[Dice, str, str], Page]:
    """A good page whose owner has opted out."""

    def make(dice: Dice, host: str, topic: str) -> Page:
        good = write(dice, host, topic, "article", 2)
        return replace(good, kind=kind, headers=headers, head=head, reason=reason, stage="extract")

    return make


PLANTS: dict[str, Callable[[Dice, str, str], Page]] = {
    "too_short": too_short,
    "long_words": long_words,
    "repetitive": repetitive,
    "said_twice": said_twice,
    "symbols_everywhere": symbols_everywhere,
    "keywords": keywords,
    "unpunctuated": unpunctuated,
    "spam": spam,
    "hashes": hashes,
    "bulleted": bulleted,
    "trailing_off": trailing_off,
    "numbers": numbers,
    "same_headings": same_headings,
    "refrain": refrain,
    "oh_so": oh_so,
    "addresses": addresses,
    "emoji": emoji,
    "link_list": link_list,
    "header_noai": reserved("opt_out_header", "header_noai", ("X-Robots-Tag", "noai, noimageai")),
    "header_noindex": reserved("opt_out_header", "header_noindex", ("x-robots-tag", "max-snippet:20, NOINDEX")),
    "header_agent": reserved(
        "opt_out_header", "header_agent", ("X-Robots-Tag", "otherbot: all"), ("X-Robots-Tag", "kosmosbot: none")
    ),
    "meta_noindex": reserved("opt_out_meta", "meta_noindex", head=meta("robots", "noindex, follow")),
    "meta_noai": reserved("opt_out_meta", "meta_noai", head=meta("ROBOTS", "max-image-preview:large,noimageai")),
    "tdm_header": reserved("opt_out_tdm", "tdm_header", ("TDM-Reservation", "1")),
    "tdm_meta": reserved("opt_out_tdm", "tdm_meta", head=meta("tdm-reservation", "1")),
}


def pages(seed: int, crawl: str, hosts: list[tuple[str, str, str]], each: int) -> list[Page]:
    """So many pages of every plant, one host after another, and every page of tongues.txt."""
    made = []
    for number, (name, make) in enumerate(PLANTS.items()):
        for copy in range(each):
            dice = Dice(seed, crawl, name, copy)
            host, topic, _ = hosts[(number * each + copy) % len(hosts)]
            made.append(make(dice, host, topic))
    for number, line in enumerate(lines("tongues.txt")):
        host, topic, _ = hosts[(number * 5) % len(hosts)]
        made.append(tongue(Dice(seed, crawl, "tongue", number), host, topic, line))
    return made
