"""What a store holds of each crawl: WARC files, records, pages, and the generations that they entered.

Read from commits alone: those of listings (stages named snapshot) say how many files a crawl has, those of the first
map step which crawl a file is of (inputs: identity, address, crawl). Files from elsewhere have the crawl "".
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from engine.chain import Chain
from engine.ledger import Commit, Ledger
from engine.recipe import Recipe
from engine.stage import SIDE

LISTINGS = "snapshot-"  # stage keys of listings begin so
LISTED = "warcs" + SIDE  # before a crawl's name: the count of its files in a listing's commit


@dataclass(frozen=True, kw_only=True, slots=True)
class CrawlStatus:
    """A crawl in a store. crawl: its name, "" for files from elsewhere. listed: its WARC files, 0 if nobody counted
    them. committed: those that are extracted. records, kept: in these files, and pages that went on from them.
    generations: those that stand and have files of it."""

    crawl: str
    listed: int = 0
    committed: int = 0
    records: int = 0
    kept: int = 0
    generations: tuple[int, ...] = ()


def age(name: str) -> tuple[tuple[int, ...], str]:
    """A key that puts crawls in order of time: by the numbers in their names, as year and week."""
    return tuple(int(digits[:18]) for digits in re.findall("[0-9]+", name)), name


class Crawls:
    """Tells crawls apart, given the commits of the first map step one by one."""

    def __init__(self, ledger: Ledger) -> None:
        self._listed = _listed(ledger)
        self._of: dict[str, str] = {}
        self._files: Counter[str] = Counter()
        self._records: Counter[str] = Counter()
        self._kept: Counter[str] = Counter()

    def add(self, commit: Commit) -> None:
        """Note a commit of the first map step. A store without a listing has no crawls."""
        if not self._listed:
            return
        # one string a crawl, whatever the number of files
        crawl = sys.intern(commit.inputs[2]) if len(commit.inputs) > 2 else ""
        self._of[commit.unit] = crawl
        self._files[crawl] += 1
        self._records[crawl] += sum(num for reason, num in commit.counts.items() if SIDE not in reason)
        self._kept[crawl] += commit.counts.get("kept", 0)

    def of(self, units: Iterable[str]) -> tuple[str, ...]:
        """The crawls of units, oldest first, files from elsewhere before them all."""
        return tuple(sorted({self._of[unit] for unit in units if unit in self._of}, key=age))

    def status(self, generations: Mapping[int, Iterable[str]]) -> tuple[CrawlStatus, ...]:
        """Every crawl that is listed or committed, oldest first. generations: the crawls of each that stands."""
        return tuple(
            CrawlStatus(
                crawl=crawl,
                listed=self._listed.get(crawl, 0) if crawl else 0,
                committed=self._files[crawl],
                records=self._records[crawl],
                kept=self._kept[crawl],
                generations=tuple(number for number, names in sorted(generations.items()) if crawl in names),
            )
            for crawl in sorted({*self._listed, *self._files}, key=age)
            if crawl or self._files[crawl]
        )


def held(recipe: Recipe, ledger: Ledger) -> tuple[CrawlStatus, ...]:
    """The crawls of a store, oldest first; () if it is empty. ConfigError for a foreign store."""
    if not ledger.check(create=False):
        return ()
    crawls = Crawls(ledger)
    first = recipe.maps[0].stage
    for commit in ledger.commits(first.key):
        crawls.add(commit)
    chain = Chain(recipe, ledger)
    found = {}
    for number in chain.standing() if recipe.chain else []:
        generation = ledger.generation(chain.head.key, number)
        if generation is not None:
            found[number] = crawls.of(c.unit for c in ledger.manifest(generation.manifests[first.name][1]))
    return crawls.status(found)


def _listed(ledger: Ledger) -> dict[str, int]:
    """Crawl -> WARC files, of all listings; where two listings of a crawl differ, the longer one's."""
    found: dict[str, int] = {}
    for key in ledger.store.folders():
        if key.startswith(LISTINGS):
            for commit in ledger.commits(key):
                for reason, num in commit.counts.items():
                    if reason.startswith(LISTED):
                        crawl = reason.removeprefix(LISTED)
                        found[crawl] = max(found.get(crawl, 0), num)
    return found
