"""Score an extractor on the golden pages: `python -m tests.golden --help`."""

from __future__ import annotations

import argparse
import difflib
import importlib
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.golden import pages
from tests.golden.score import Item, Score, Total, score, total, words

Extractor = Callable[[bytes, str, str], list[Item]]
HEAD = f"{'':28}{'pages':>6}{'recall':>8}{'precis.':>8}{'img F1':>8}{'order':>8}{'text':>8}{'kinds':>8}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the scores by case and in all; 2 if nothing was there to score."""
    parser = argparse.ArgumentParser(prog="python -m tests.golden", description=__doc__)
    parser.add_argument(
        "--extractor",
        default="tests.golden.extractors:kosmos",
        metavar="MODULE:FUNCTION",
        help="function (html: bytes, url: str, content_type: str) -> items in reading order, each "
        '{"text": ...} or {"image": address}; default: %(default)s',
    )
    parser.add_argument(
        "--answers",
        type=Path,
        metavar="JSONL",
        help='answers made elsewhere instead: a line {"page": "case/name", "items": [...]} a page',
    )
    parser.add_argument("--real", type=Path, metavar="CRAWL", help="the marked real pages, of the WARCs in this folder")
    parser.add_argument("--marks", default="real", choices=("real", "heldout"), help="which marks --real scores")
    parser.add_argument("--case", action="append", help="only this case; may be given again")
    parser.add_argument("--worst", type=int, default=0, metavar="N", help="also list the N worst pages")
    parser.add_argument("--diff", metavar="PAGE", help="show one page: expected (-) beside answered (+)")
    parser.add_argument("--json", action="store_true", help="one JSON line a page")
    options = parser.parse_args(arguments)
    answers = _answers(options.answers) if options.answers else None
    function = _resolve(options.extractor)
    scored: list[tuple[pages.Page, Score]] = []
    for page in pages.real(options.real, pages.HERE / options.marks) if options.real else pages.written():
        if (options.case and page.case not in options.case) or (options.diff and page.name != options.diff):
            continue
        answer = answers.get(page.name, []) if answers is not None else _answer(function, page)
        scored.append((page, score(page.items, answer)))
        if options.diff:
            _show(page.items, answer)
    if not scored:
        print("no page to score", file=sys.stderr)
        return 2
    if options.json:
        for page, one in scored:
            print(json.dumps({"page": page.name, **{name: getattr(one, name) for name in Score.__slots__}}))
        return 0
    print(HEAD)
    for case in sorted({page.case for page, _ in scored}):
        print(_line(case, total(one for page, one in scored if page.case == case)))
    print(_line("all", total(one for _, one in scored)))
    for page, one in sorted(scored, key=lambda pair: _worth(pair[1]))[: options.worst]:
        print(_line(page.name, total([one])))
    return 0


def _answer(function: Extractor, page: pages.Page) -> list[Item]:
    """What the extractor says; one that raises has nothing to say of this page."""
    try:
        return function(page.html, page.url, page.content_type)
    except Exception as error:
        print(f"{page.name}: {type(error).__name__}: {error}", file=sys.stderr)
        return []


def _worth(one: Score) -> float:
    return min(total([one]).image_f1, one.order, one.text)


def _line(name: str, sums: Total) -> str:
    figures = (sums.image_recall, sums.image_precision, sums.image_f1, sums.order, sums.text, sums.kinds)
    return f"{name[:27]:28}{sums.pages:6}" + "".join(f"{figure:8.3f}" for figure in figures)


def _resolve(dotted: str) -> Extractor:
    module, _, name = dotted.partition(":")
    function: Extractor = getattr(importlib.import_module(module), name)
    return function


def _answers(path: Path) -> dict[str, list[Item]]:
    lines = (json.loads(line) for line in path.read_text("utf-8").splitlines() if line.strip())
    return {line["page"]: line["items"] for line in lines}


def _show(expected: Sequence[Item], answer: Sequence[Item]) -> None:
    """Items as lines, so that what is missing or too much stands out."""

    def lines(items: Sequence[Item], known: bool) -> list[str]:
        return [
            f"<{item['image']}>" if "image" in item else " ".join(words(item["text"]))[:400]
            for item in items
            if known or "image" in item or words(item["text"])
        ]

    for line in difflib.ndiff(lines(expected, False), lines(answer, False)):
        if not line.startswith("?"):
            print(line)


if __name__ == "__main__":
    sys.exit(main())
