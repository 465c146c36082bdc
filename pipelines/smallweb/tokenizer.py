"""Trains the bundled tokenizer on the prose of the bundled web: `python -m pipelines.smallweb.tokenizer OUT`.

The settings are the released KOSMOS model's, with 4,000 pieces for 64,000; the same bytes each time. Every word also
stands on a line of its own: a seed piece is a repeat that goes on in more than one way, and in prose of a small grammar
"and" always goes on with a space, so that without those lines it would be no piece (1.36 tokens a word, not 1.13).
"""

from __future__ import annotations

import io
import string
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from pipelines.smallweb.contents import CONTENTS
from pipelines.smallweb.markup import Part, Table, Text
from pipelines.smallweb.prose import Dice, Writer, doing, first, past, plural, topics, vocabulary

PIECES = 4000
PAGES = 8  # of each kind and topic: the fewest, in powers of two, whose prose has so many pieces
NOUNS = ("things", "parts", "people", "nouns")
# one piece each whatever the prose holds, so that English from elsewhere has no <unk> in it
CHARACTERS = string.ascii_letters + string.digits + string.punctuation + "\u2018\u2019\u201c\u201d\u2013\u2014£€°é"


def corpus() -> list[str]:
    """What the model is trained on: distinct lines in order of their code points."""
    said = {line for topic in topics() for kind in CONTENTS for line in pages(topic, kind)}
    said.update(forms())
    said.update([word for line in said for word in line.split()])
    return sorted(line for line in said if line)


def pages(topic: str, kind: str) -> Iterator[str]:
    """The lines of some pages of one kind about one topic."""
    for number in range(PAGES):
        writer = Writer(Dice("tokenizer", topic, kind, number), topic)
        for part in CONTENTS[kind](writer, "words.example", 3):
            yield from spoken(part)


def spoken(part: Part) -> Iterable[str]:
    """The lines of a part of a page."""
    match part:
        case Text():
            return part.text.split("\n")
        case Table():
            return [cell for row in part.rows for cell in row]
        case _:
            return part.alt, part.caption


def forms() -> Iterator[str]:
    """All forms of all words."""
    for lists in vocabulary().values():
        for name, words in lists.items():
            for word in words:
                yield first(word)
                if name in NOUNS:
                    yield plural(word)
                elif name == "deeds":
                    yield from (past(word), doing(word))


def train(lines: Iterable[str], pieces: int = PIECES) -> bytes:
    """A Unigram model of exactly so many pieces; RuntimeError if the lines allow fewer. Depends on the lines alone."""
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        vocab_size=pieces,
        # as in the file that KOSMOS-2 ships: Unigram, not the BPE that its name says
        model_type="unigram",
        normalization_rule_name="nmt_nfkc",
        character_coverage=0.99999,
        max_sentencepiece_length=16,
        split_by_number=True,
        required_chars=CHARACTERS,
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()


def main(words: list[str]) -> int:
    """Write the model to the path."""
    if len(words) != 1:
        print("usage: python -m pipelines.smallweb.tokenizer OUT", file=sys.stderr)
        return 2
    Path(words[0]).write_bytes(train(corpus()))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
