"""Prose of our own from a grammar and word lists: English enough for every text rule, and never the same twice.

Everything is drawn from a `Dice`, whose numbers depend on its words alone: not on Python's version, not on the machine.
A writer deals its sentence patterns like cards, so that a page uses each once before any comes again.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import TypeVar

T = TypeVar("T")
SLOT = re.compile(r"\{([a-z]+)(\.up)?\}")
VOWEL_SOUND = re.compile(r"^(?!one|use|uni|eu|once)[aeiou]|^(?:hon|hour)", re.IGNORECASE)
TOPIC_LISTS = ("things", "parts", "places", "people", "deeds", "looks")


class Dice:
    """SplitMix64 seeded by the sha256 of some words: a stream of numbers that is the same everywhere."""

    __slots__ = ("_state",)

    def __init__(self, *words: object) -> None:
        self._state = int.from_bytes(hashlib.sha256("\n".join(map(str, words)).encode()).digest()[:8], "little")

    def below(self, limit: int) -> int:
        """A number from 0 to limit - 1."""
        self._state = (self._state + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
        mixed = ((self._state ^ (self._state >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
        return (mixed ^ (mixed >> 31)) % limit

    def between(self, low: int, high: int) -> int:
        """A number from low to high, both included."""
        return low + self.below(high - low + 1)

    def pick(self, items: Sequence[T]) -> T:
        """One of the items."""
        return items[self.below(len(items))]

    def chance(self, percent: int) -> bool:
        """True in so many of a hundred throws."""
        return self.below(100) < percent

    def shuffled(self, items: Sequence[T]) -> list[T]:
        """The items in another order."""
        rest = list(items)
        for last in range(len(rest) - 1, 0, -1):
            other = self.below(last + 1)
            rest[last], rest[other] = rest[other], rest[last]
        return rest


def lines(name: str) -> list[str]:
    """The lines of a text file of this package that are neither empty nor comments."""
    text = files(__package__).joinpath(name).read_text(encoding="utf-8")
    return [line for line in text.split("\n") if line and not line.startswith("#")]


@cache
def vocabulary() -> dict[str, dict[str, tuple[str, ...]]]:
    """Topic -> list name -> words, as in words.txt; "common" is for all topics, "bad" for bad pages."""
    topics: dict[str, dict[str, tuple[str, ...]]] = {}
    for line in lines("words.txt"):
        if line.startswith("["):
            words = topics.setdefault(line.strip("[]"), {})
            continue
        name, _, rest = line.partition(": ")
        words[name] = tuple(rest.split(", "))
    return topics


@cache
def topics() -> tuple[str, ...]:
    """The names of the topics, in file order."""
    return tuple(topic for topic in vocabulary() if topic not in ("common", "bad"))


@cache
def grammar() -> dict[str, tuple[str, ...]]:
    """Rule -> its alternatives, as in sentences.txt."""
    rules: defaultdict[str, list[str]] = defaultdict(list)
    for line in lines("sentences.txt"):
        name, _, text = line.partition(" = ")
        rules[name].append(text)
    return {name: tuple(texts) for name, texts in rules.items()}


def plural(word: str) -> str:
    """More than one of a noun, as words.txt writes it; of "jug of milk" it is the jug that is counted."""
    one, _, many = word.partition("/")
    if many:
        return many
    head, of, rest = one.partition(" of ")
    if of:
        return plural(head) + of + rest
    if re.search(r"(s|x|z|ch|sh)$", one):
        return one + "es"
    if re.search(r"[^aeiou]y$", one):
        return one[:-1] + "ies"
    return one + "s"


def past(verb: str) -> str:
    """The past of a verb as words.txt writes it."""
    forms = verb.split("/")
    if len(forms) > 1:
        return forms[1]
    if verb.endswith("e"):
        return verb + "d"
    return verb[:-1] + "ied" if re.search(r"[^aeiou]y$", verb) else verb + "ed"


def doing(verb: str) -> str:
    """The -ing form of a verb as words.txt writes it."""
    forms = verb.split("/")
    if len(forms) > 2:
        return forms[2]
    return verb[:-1] + "ing" if re.search(r"[^eo]e$", verb) else verb + "ing"


def first(word: str) -> str:
    """The plain form of a word as words.txt writes it."""
    return word.partition("/")[0]


class Writer:
    """Writes about one topic: sentences, paragraphs, titles, list items, captions."""

    def __init__(self, dice: Dice, topic: str) -> None:
        self.dice = dice
        self.topic = topic
        self._own = vocabulary()[topic]
        self._common = vocabulary()["common"]
        self._decks: dict[str, list[str]] = {}

    def word(self, slot: str) -> str:
        """A word for a slot of the grammar."""
        dice, own, common = self.dice, self._own, self._common
        match slot:
            case "thing" | "part" | "place":
                return first(dice.pick(own[slot + "s"]))
            case "things" | "parts" | "people":
                return plural(dice.pick(own[slot]))
            case "person":
                return first(dice.pick(own["people"]))
            case "deed":
                return first(dice.pick(own["deeds"]))
            case "past":
                return past(dice.pick(own["deeds"]))
            case "ing":
                return doing(dice.pick(own["deeds"]))
            case "look":
                return dice.pick(own["looks"])
            case "adj":
                return dice.pick(common["adjectives"])
            case "nouns":
                return plural(dice.pick(common["nouns"]))
            case "year":
                return str(dice.between(1790, 2025))
            case "abstract" | "mind":
                return dice.pick(common[slot])
            case "a":
                return "a"
            case _:
                return dice.pick(common[slot if slot in common else slot + "s"])

    def write(self, rule: str) -> str:
        """One expansion of a rule of the grammar."""
        if rule not in grammar():
            return self.word(rule)
        deck = self._decks.setdefault(rule, [])
        if not deck:
            deck.extend(self.dice.shuffled(grammar()[rule]))
        return self.fill(deck.pop())

    def fill(self, pattern: str) -> str:
        """A pattern with its slots filled, "a" turned to "an" where it has to be."""

        def expand(match: re.Match[str]) -> str:
            text = self.write(match[1])
            return text[:1].upper() + text[1:] if match[2] else text

        return articles(SLOT.sub(expand, pattern))

    def sentence(self) -> str:
        """A sentence."""
        text = self.write("s").replace(",,", ",").replace(",.", ".").replace(",?", "?")
        return text.replace(", .", ".").replace(",;", ";")

    def paragraph(self, num_sentences: int) -> str:
        """So many sentences."""
        return " ".join(self.sentence() for _ in range(num_sentences))

    def title(self) -> str:
        """A headline."""
        text = self.write("title")
        return text[:1].upper() + text[1:]


def articles(text: str) -> str:
    """The text with "an" for "a" before a vowel's sound."""

    def mend(match: re.Match[str]) -> str:
        return f"{match[1]}n {match[2]}" if VOWEL_SOUND.match(match[2]) else match[0]

    return re.sub(r"\b([Aa]) ([A-Za-z]+)", mend, text)
