"""What a store holds of a recipe: units and rows a stage, crawls, generations, and the funnel: every record under a
reason. Read from commits alone."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from engine.chain import Chain
from engine.crawls import LISTINGS, Crawls, CrawlStatus
from engine.ledger import Commit, Ledger
from engine.recipe import Recipe
from engine.stage import SIDE, Stage

# Before a reason: how many of its records went because of one that an earlier generation kept.
KNOWN = "known" + SIDE


@dataclass(frozen=True, kw_only=True, slots=True)
class StageStatus:
    """A stage's commits. counts: exact numbers a reason. failures: newest error of uncommitted units."""

    stage: str
    key: str
    units: int
    rows: dict[str, int]
    num_bytes: int
    counts: dict[str, int]
    cpu_s: float
    peak_bytes: int
    crashed: int
    failures: dict[str, str]
    quarantined: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerationStatus:
    """A generation of the chain: its units at the head, its state, the stages that have published it, its crawls.

    pages: what the first stage of the chain that gives verdicts has seen of it; each is kept, known (it went because of
    a page that an earlier generation kept) or removed (because of one of its own generation), the latter two by reason.
    """

    number: int
    state: str
    units: int
    published: tuple[str, ...]
    crawls: tuple[str, ...]
    pages: int
    kept: int
    known: dict[str, int]
    removed: dict[str, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Status:
    """All of it. funnel: stage -> verdicts a reason, largest first. candidates, kept: its two ends. apart: title ->
    stage -> what is counted beside the records. others: stage keys in the store that this recipe's config does not use.
    """

    url: str
    recipe: str
    stages: tuple[StageStatus, ...]
    crawls: tuple[CrawlStatus, ...]
    generations: tuple[GenerationStatus, ...]
    funnel: dict[str, dict[str, int]]
    apart: dict[str, dict[str, dict[str, int]]]
    candidates: int
    kept: int
    others: tuple[str, ...]


def status(recipe: Recipe, ledger: Ledger) -> Status:
    """Read the ledger. ConfigError for a foreign store; an empty one has no stages."""
    if not ledger.check(create=False):
        return Status(
            url=ledger.store.url,
            recipe=recipe.name,
            stages=(),
            crawls=(),
            generations=(),
            funnel={},
            apart={},
            candidates=0,
            kept=0,
            others=(),
        )
    mine = [step.stage for step in recipe.steps]
    chain = Chain(recipe, ledger)
    standing = set(chain.standing()) if recipe.chain else set()
    crawls = Crawls(ledger)
    judging = next((step.stage for step in recipe.chain if step.stage.name in recipe.funnel), None)
    verdicts_of: dict[int, Counter[str]] = defaultdict(Counter)

    def see(stage: Stage, commit: Commit) -> None:
        if stage is mine[0]:
            crawls.add(commit)
        if stage is judging:
            verdicts_of[commit.generation].update(commit.counts)

    stages = [_stage(ledger, stage, standing, see) for stage in mine]
    keys = {stage.key for stage in mine}
    verdicts = {
        stage.stage: {reason: num for reason, num in stage.counts.items() if SIDE not in reason}
        for name in recipe.funnel
        for stage in stages
        if stage.stage == name and stage.units
    }
    ends = [verdicts.get(name, {}) for name in (recipe.funnel or ("",))]
    generations = _generations(recipe, ledger, chain, crawls, verdicts_of) if recipe.chain else ()
    others = [key for key in ledger.store.folders() if key not in keys and ledger.store.exists(f"{key}/stage.json")]
    return Status(
        url=ledger.store.url,
        recipe=recipe.name,
        stages=tuple(stages),
        crawls=crawls.status({g.number: g.crawls for g in generations if g.number in standing}),
        generations=generations,
        funnel=verdicts,
        apart={title: _apart(recipe, names, stages) for title, names in recipe.apart},
        candidates=sum(num for reason, num in ends[0].items() if reason not in recipe.besides),
        kept=ends[-1].get("kept", 0),
        others=tuple(key for key in others if not key.startswith(LISTINGS)),
    )


def passed_over(recipe: Recipe, ledger: Ledger) -> tuple[str, ...]:
    """Keys of the head of the chain under which this store has generations, if it has none under the recipe's own:
    what they kept is not compared with."""
    if not recipe.chain or not ledger.check(create=False):
        return ()
    head = recipe.chain[0].stage
    if ledger.generations(head.key):
        return ()
    keys = [key for key in ledger.store.folders() if key.rpartition("-")[0] == head.name]
    return tuple(key for key in keys if ledger.generations(key))


def _stage(ledger: Ledger, stage: Stage, standing: set[int], see: Callable[[Stage, Commit], None]) -> StageStatus:
    """Add up a stage's commits of the generations that stand, showing each to `see`."""
    rows: dict[str, int] = {output.name: 0 for output in stage.outputs}
    units = num_bytes = crashed = peak = 0
    cpu_s = 0.0
    counts: Counter[str] = Counter()
    for commit in ledger.commits(stage.key):
        if commit.generation and not stage.own_series and commit.generation not in standing:
            continue
        see(stage, commit)
        units += 1
        num_bytes += commit.num_bytes
        cpu_s += commit.cpu_seconds
        crashed += len(commit.crashed)
        peak = max(peak, commit.peak_bytes)
        for name in rows:
            rows[name] += commit.rows(name)
        counts.update(commit.counts)
    done = ledger.committed(stage.key)
    failing = [unit for unit in sorted(ledger.failures(stage.key)) if unit not in done]
    return StageStatus(
        stage=stage.name,
        key=stage.key,
        units=units,
        rows=rows,
        num_bytes=num_bytes,
        counts=dict(sorted(counts.items(), key=lambda item: (-item[1], item[0]))),
        cpu_s=round(cpu_s, 3),
        peak_bytes=peak,
        crashed=crashed,
        failures={unit: str(ledger.failure_bodies(stage.key, unit)[-1]["error"]) for unit in failing},
        quarantined=tuple(sorted(ledger.quarantined(stage.key))),
    )


def _apart(recipe: Recipe, names: tuple[str, ...], stages: list[StageStatus]) -> dict[str, dict[str, int]]:
    """Counts beside the records; a stage that is not in the funnel has no others. Each kind of a stage's counts is a
    whole of its own, under the stage's name and its own, which alone would say nothing."""
    found: dict[str, dict[str, int]] = {}
    for stage in stages:
        if stage.stage not in names:
            continue
        kinds: dict[str, dict[str, int]] = {}
        for reason, num in stage.counts.items():
            kind, side, word = reason.partition(SIDE)
            if side:
                kinds.setdefault(kind, {})[word] = num
            elif stage.stage not in recipe.funnel:
                kinds.setdefault("", {})[reason] = num
        for kind, counts in sorted(kinds.items()):
            found[f"{stage.stage} {kind}" if kind and len(kinds) > 1 else stage.stage] = counts
    return found


def _generations(
    recipe: Recipe, ledger: Ledger, chain: Chain, crawls: Crawls, verdicts_of: Mapping[int, Counter[str]]
) -> tuple[GenerationStatus, ...]:
    numbered = [step.stage for step in recipe.chain if not step.stage.own_series]
    settled = {stage.name: ledger.settled(stage.key) for stage in numbered}
    found = []
    for number in ledger.generations(chain.head.key):
        generation = ledger.generation(chain.head.key, number)
        if generation is None:
            continue
        units = [commit.unit for commit in ledger.manifest(generation.manifests[recipe.maps[0].stage.name][1])]
        counts = verdicts_of.get(number, Counter())
        verdicts = {reason: num for reason, num in counts.items() if SIDE not in reason}
        known = {reason: counts[KNOWN + reason] for reason in verdicts if counts[KNOWN + reason]}
        removed = {reason: num - known.get(reason, 0) for reason, num in verdicts.items() if reason != "kept"}
        found.append(
            GenerationStatus(
                number=number,
                state=str(settled[chain.head.name].get(number, {}).get("state", "open")),
                units=len(units),
                published=tuple(name for name, of in settled.items() if of.get(number, {}).get("state") == "published"),
                crawls=crawls.of(units),
                pages=sum(verdicts.values()),
                kept=verdicts.get("kept", 0),
                known=dict(sorted(known.items())),
                removed={reason: num for reason, num in sorted(removed.items()) if num},
            )
        )
    return tuple(found)
