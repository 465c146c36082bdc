"""What pages say: for each kind of page a list of parts, in the order in which a reader meets them.

The first part is always the h1. Pictures come with an alt text that says what they show, half of them with a caption
that says it otherwise.
"""

from __future__ import annotations

from collections.abc import Callable

from pipelines.smallweb.markup import Figure, Part, Table, Text
from pipelines.smallweb.pictures import draw
from pipelines.smallweb.prose import Dice, Writer


def sentence_case(text: str) -> str:
    """The text with its first letter in upper case."""
    return text[:1].upper() + text[1:]


def figures(writer: Writer, host: str, num_images: int, captions: int = 50) -> list[Figure]:
    """So many pictures of the writer's topic, so many of a hundred with a caption."""
    made = []
    for _ in range(num_images):
        shown = draw(writer.dice, host, "images", writer.topic)
        caption = shown.describe(writer.dice) + "." if writer.dice.chance(captions) else ""
        made.append(Figure(picture=shown, alt=shown.describe(writer.dice), caption=caption))
    return made


def paragraphs(writer: Writer, count: int) -> list[Part]:
    """So many paragraphs of two to four sentences."""
    return [Text(block="p", text=writer.paragraph(writer.dice.between(2, 4))) for _ in range(count)]


def interleave(parts: list[Part], pictures: list[Figure], dice: Dice) -> list[Part]:
    """The pictures between the parts, in order, none before the second part and none after the last."""
    slots = sorted(dice.shuffled(range(2, len(parts)))[: len(pictures)])
    while len(slots) < len(pictures):
        slots.append(len(parts) - 1)
    mixed = list(parts)
    for slot, shown in zip(reversed(slots), reversed(pictures), strict=True):
        mixed.insert(slot, shown)
    return mixed


def article(writer: Writer, host: str, num_images: int) -> list[Part]:
    """Paragraphs under a headline, some under headings of their own, a list or a quotation."""
    dice = writer.dice
    parts: list[Part] = [Text(block="h1", text=writer.title()), *paragraphs(writer, dice.between(2, 3))]
    for _ in range(dice.between(1, 2)):
        parts.append(Text(block="h2", text=writer.write("heading")))
        parts += paragraphs(writer, dice.between(1, 2))
    if dice.chance(40):
        parts += [Text(block="li", text=sentence_case(writer.write("item")) + ".") for _ in range(dice.between(3, 5))]
    if dice.chance(40):
        parts.append(Text(block="quote", text=writer.write("quote")))
    parts += paragraphs(writer, max(1, num_images // 2))
    return interleave(parts, figures(writer, host, num_images), dice)


def gallery(writer: Writer, host: str, num_images: int) -> list[Part]:
    """An introduction, pictures with captions one after another, a closing word."""
    shown = figures(writer, host, max(num_images, 5), captions=100)
    opening = [Text(block="h1", text=writer.title()), *paragraphs(writer, 2)]
    return [*opening, *shown, *paragraphs(writer, writer.dice.between(2, 3))]


def forum(writer: Writer, host: str, num_images: int) -> list[Part]:
    """A question and its answers, each under its author's name."""
    dice = writer.dice
    parts: list[Part] = [Text(block="h1", text=writer.title())]
    pictures = figures(writer, host, num_images, captions=0)
    for _ in range(dice.between(3, 4)):
        parts.append(
            Text(block="h4", text=f"{writer.write('name')} {writer.write('surname')} from {writer.word('town')}")
        )
        if dice.chance(30) and len(parts) > 4:
            parts.append(Text(block="quote", text=writer.write("quote")))
        parts += paragraphs(writer, dice.between(1, 2))
        if pictures:
            parts.append(pictures.pop(0))
    return [*parts, *paragraphs(writer, 1), *pictures, *(paragraphs(writer, 1) if pictures else [])]


def product(writer: Writer, host: str, num_images: int) -> list[Part]:
    """What is for sale: pictures, a description, features, a table of measures."""
    dice = writer.dice
    parts: list[Part] = [Text(block="h1", text=writer.title()), *paragraphs(writer, 2)]
    parts += figures(writer, host, num_images, captions=20)
    parts.append(Text(block="h2", text=writer.write("heading")))
    parts += [Text(block="li", text=sentence_case(writer.write("item")) + ".") for _ in range(dice.between(3, 6))]
    parts += paragraphs(writer, 2)
    rows = [("Part of the set", "What it is made of")]
    for _ in range(dice.between(3, 5)):
        rows.append(
            (sentence_case(writer.write("item")), f"it is of {writer.word('material')} and {writer.word('material')}")
        )
    return [*parts, Table(rows=tuple(rows)), *paragraphs(writer, 1)]


def manual(writer: Writer, host: str, num_images: int) -> list[Part]:
    """Documentation: sections with steps, code and a table."""
    dice = writer.dice
    parts: list[Part] = [Text(block="h1", text=writer.title()), *paragraphs(writer, 2)]
    name = writer.word("part").replace(" ", "_").replace("'", "")
    code = [f"def {name}(size: int = {dice.between(2, 99)}) -> list[int]:"]
    code += [f"    # to {writer.word('deed')} the {writer.word('part')} of the {writer.word('thing')}"]
    code += [f"    return [size * step for step in range({dice.between(3, 40)})]"]
    parts += [Text(block="h2", text=writer.write("heading")), *paragraphs(writer, 1)]
    parts += [Text(block="pre", text="\n".join(code)), *paragraphs(writer, 1)]
    parts += [Text(block="li", text=writer.write("step")) for _ in range(dice.between(3, 5))]
    parts += [Text(block="h2", text=writer.write("heading")), *paragraphs(writer, 1)]
    rows = [("Name of the option", "What it is for")]
    rows += [(writer.write("item"), f"to {writer.word('deed')} the {writer.word('part')}") for _ in range(3)]
    parts += [Table(rows=tuple(rows)), *paragraphs(writer, 2)]
    return interleave(parts, figures(writer, host, num_images), dice)


def recipe(writer: Writer, host: str, num_images: int) -> list[Part]:
    """A story, what one needs, what one does."""
    dice = writer.dice
    parts: list[Part] = [Text(block="h1", text=writer.title()), *paragraphs(writer, 2)]
    pictures = figures(writer, host, num_images)
    parts += pictures[:1]
    parts.append(Text(block="h2", text=f"What you need to {writer.word('deed')} it"))
    parts += [Text(block="li", text=sentence_case(writer.write("item"))) for _ in range(dice.between(4, 7))]
    parts.append(Text(block="h2", text=f"How to {writer.word('deed')} the {writer.word('part')}"))
    parts += [Text(block="li", text=writer.write("step")) for _ in range(dice.between(4, 6))]
    parts += [*paragraphs(writer, 1), *pictures[1:], *paragraphs(writer, 2)]
    return parts


def front_page(writer: Writer, host: str, num_images: int) -> list[Part]:
    """Today's stories: a headline, a picture and a few sentences each."""
    dice = writer.dice
    parts: list[Part] = [Text(block="h1", text=f"The {writer.word('town')} {dice.pick(('Herald', 'Courier', 'Post'))}")]
    pictures = figures(writer, host, num_images, captions=0)
    for _ in range(dice.between(4, 6)):
        parts.append(Text(block="h2", text=writer.title()))
        if pictures:
            parts.append(pictures.pop(0))
        parts.append(Text(block="p", text=f"{writer.write('teaser')} {writer.sentence()} {writer.sentence()}"))
    return [*parts, *pictures, *(paragraphs(writer, 1) if pictures else [])]


CONTENTS: dict[str, Callable[[Writer, str, int], list[Part]]] = {
    "article": article,
    "blog": article,
    "gallery": gallery,
    "forum": forum,
    "shop": product,
    "docs": manual,
    "recipe": recipe,
    "news": front_page,
}
