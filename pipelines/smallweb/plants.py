"""The bad pages: each is planted for one reason and gives no earlier rule cause to act.

Rules act in this order: words, word length, repetition of characters and of words, special characters, stopwords,
flagged words, punctuation, spam words, symbols, bullets, ellipses, letters, lines, n-grams, gibberish. Rules that only
the preset obelics has are planted for too; most of them act on blocks there, so that such a page has no text left.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from pipelines.smallweb.contents import figures, paragraphs
from pipelines.smallweb.markup import Part, Text
from pipelines.smallweb.page import Page, meta
from pipelines.smallweb.prose import Dice, Writer, articles, first, lines, topics, vocabulary
from pipelines.smallweb.sites import write


def own_words(name: str) -> tuple[str, ...]:
    """A list of the words that only bad pages use."""
    return vocabulary()["bad"][name]


def page(dice: Dice, host: str, topic: str, kind: str, reason: str, parts: list[Part], strict: str = "") -> Page:
    """A planted page with its parts, at an address that says nothing of it."""
    url = f"https://{host}/p/{dice.below(1_000_000)}"
    return Page(url=url, kind=kind, topic=topic, parts=tuple(parts), frame="article", reason=reason, strict=strict)


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
    """One short sentence over and over."""
    writer = Writer(dice, topic)
    sentence = writer.fill("There is {a} {look} {thing} of {material} here.")
    parts = [*figures(writer, host, 1), *texts(*[sentence] * 24)]
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
    return page(dice, host, topic, "symbols_everywhere", "kept", texts(*blocks), strict="no_text")


def keywords(dice: Dice, host: str, topic: str) -> Page:
    """Keyword stuffing: names of goods of every kind with no sentence around them."""
    common = vocabulary()["common"]
    goods = []
    for other in dice.shuffled(topics()) * 2:
        own = vocabulary()[other]
        goods.append(f"{dice.pick(common['adjectives'])} {dice.pick(own['looks'])} {first(dice.pick(own['things']))}")
    blocks = [", ".join(goods[start : start + 6]).capitalize() + "." for start in range(0, len(goods), 6)]
    return page(dice, host, topic, "keywords", "stopwords", texts(*blocks), strict="no_text")


def flagged(dice: Dice, host: str, topic: str) -> Page:
    """A flagged word or two in every paragraph: all of them go."""
    writer = Writer(dice, topic)
    blocks = [f"{writer.sentence()[:-1]}, {' '.join(own_words('flagged'))}." for _ in range(6)]
    return page(dice, host, topic, "flagged", "no_text", texts(*blocks))


def unpunctuated(dice: Dice, host: str, topic: str) -> Page:
    """Prose without a single stop."""
    writer = Writer(dice, topic)
    drop = str.maketrans("", "", '.,;:?!"')
    blocks = [writer.paragraph(4).lower().translate(drop) for _ in range(6)]
    return page(dice, host, topic, "unpunctuated", "kept", texts(*blocks), strict="no_text")


def spam(dice: Dice, host: str, topic: str) -> Page:
    """An advertisement that is grammatical enough."""
    writer = Writer(dice, topic)
    blocks = []
    for _ in range(7):
        pattern = f"{writer.write('advert')} {writer.write('advert')}"
        wanted = iter(dice.shuffled(own_words("spam")))
        blocks.append(articles("".join(next(wanted) if letter == "@" else letter for letter in pattern)))
    return page(dice, host, topic, "spam", "kept", texts(*blocks), strict="spam_words")


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
    """A long sentence that comes back four times, between others that do not."""
    writer = Writer(dice, topic)
    line = ""
    while not 20 <= len(line.split(" ")) <= 23:  # two 10-grams each time, and no more 5-grams than needed
        line = writer.sentence()
    blocks: list[str] = []
    while sum(len(block.split(" ")) for block in blocks) < 330:
        blocks.append(writer.paragraph(2))
    spots = [len(blocks) * share // 4 for share in range(4)]
    blocks = [f"{block} {line}" if spot in spots else block for spot, block in enumerate(blocks)]
    return page(dice, host, topic, "refrain", "duplicate_ngrams", texts(*blocks))


def it_is(dice: Dice, host: str, topic: str) -> Page:
    """Two words that make up a fifth of the text."""
    own, common = vocabulary()[topic], vocabulary()["common"]
    looks = dice.shuffled([*own["looks"], *common["adjectives"], *common["feelings"]])
    sayings = [f"it is {looks[spot]} and {looks[spot + 1]}, it is {looks[spot + 2]}" for spot in range(0, 45, 3)]
    blocks = ["; ".join(sayings[start : start + 3]).capitalize() + " to see." for start in range(0, len(sayings), 3)]
    return page(dice, host, topic, "it_is", "top_ngram", texts(*blocks))


def addresses(dice: Dice, host: str, topic: str) -> Page:
    """A third of all tokens are addresses."""
    writer = Writer(dice, topic)
    letters = "abcdefghijklmnoprstuvwz"
    blocks = []
    for _ in range(6):
        words = writer.write("pointer").split("@")
        names = ["".join(dice.pick(letters) for _ in range(5)) for _ in words[1:]]
        named = [f"www.{name[:3]}.example/{name[3:]}{word}" for name, word in zip(names, words[1:], strict=True)]
        blocks.append(words[0] + "".join(named))
    return page(dice, host, topic, "addresses", "gibberish", texts(*blocks))


def emoji(dice: Dice, host: str, topic: str) -> Page:
    """Emoji and hashtags with a word or two between."""
    writer = Writer(dice, topic)
    blocks = []
    for _ in range(6):
        words = writer.paragraph(2).split(" ")
        mixed: list[str] = []
        for spot, word in enumerate(words):
            tag = [] if spot % 2 else [f"#{dice.pick(words).strip('.,')}"]
            mixed += [word, dice.pick(own_words("emoji")), *tag]
        blocks.append(" ".join(mixed))
    return page(dice, host, topic, "emoji", "symbols", texts(*blocks))


def link_list(dice: Dice, host: str, topic: str) -> Page:
    """A page of links and nothing else."""
    writer = Writer(dice, topic)
    rows = "".join(f'<li><a href="/{number}.html">{writer.title()}</a></li>' for number in range(40))
    made = page(dice, host, topic, "link_list", "no_text", [])
    body = f"<html lang='en'><title>Links</title><body><div class='links'><ul>{rows}</ul></div></body></html>"
    return replace(made, raw=body.encode())


def tongue(dice: Dice, host: str, topic: str, line: str) -> Page:
    """The page of one line of tongues.txt."""
    lang, charset, title, text = line.split(" | ")
    parts = [Text(block="h1", text=title), *texts(text)]
    made = page(dice, host, topic, f"foreign_{lang}", "language", parts)
    said = f"text/html; charset={charset}" if dice.chance(60) else "text/html"
    return replace(
        made, lang=lang, encoding=charset, content_type=said, head=f'<meta charset="{charset}">', frame="bare"
    )


def reserved(reason: str, kind: str, *headers: tuple[str, str], head: str = "") -> Callable[[Dice, str, str], Page]:
    """A good page whose owner has opted out."""

    def make(dice: Dice, host: str, topic: str) -> Page:
        good = write(dice, host, topic, "article", 2)
        return replace(good, kind=kind, headers=headers, head=head, reason=reason)

    return make


PLANTS: dict[str, Callable[[Dice, str, str], Page]] = {
    "too_short": too_short,
    "long_words": long_words,
    "repetitive": repetitive,
    "said_twice": said_twice,
    "symbols_everywhere": symbols_everywhere,
    "keywords": keywords,
    "flagged": flagged,
    "unpunctuated": unpunctuated,
    "spam": spam,
    "hashes": hashes,
    "bulleted": bulleted,
    "trailing_off": trailing_off,
    "numbers": numbers,
    "same_headings": same_headings,
    "refrain": refrain,
    "it_is": it_is,
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
