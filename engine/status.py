"""What a store holds of a recipe: units and rows a stage, generations, and the funnel: every record under a reason."""

from __future__ import annotations

from dataclasses import dataclass

from engine.chain import Chain
from engine.ledger import Ledger
from engine.recipe import Recipe
from engine.stage import SIDE


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
    """A generation of the chain: its units at the head, its state, the stages that have published it."""

    number: int
    state: str
    units: int
    published: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Status:
    """All of it. funnel: stage -> verdicts a reason, largest first. candidates, kept: its two ends. apart: title ->
    stage -> what is counted beside the records. others: stage keys in the store that this recipe's config does not use.
    """

    url: str
    recipe: str
    stages: tuple[StageStatus, ...]
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
    stages = []
    for stage in mine:
        rows: dict[str, int] = {output.name: 0 for output in stage.outputs}
        units = num_bytes = crashed = peak = 0
        cpu_s = 0.0
        counts: dict[str, int] = {}
        for commit in ledger.commits(stage.key):
            if commit.generation and not stage.own_series and commit.generation not in standing:
                continue
            units += 1
            num_bytes += commit.num_bytes
            cpu_s += commit.cpu_seconds
            crashed += len(commit.crashed)
            peak = max(peak, commit.peak_bytes)
            for name in rows:
                rows[name] += commit.rows(name)
            for reason, num in commit.counts.items():
                counts[reason] = counts.get(reason, 0) + num
        done = ledger.committed(stage.key)
        failing = [unit for unit in sorted(ledger.failures(stage.key)) if unit not in done]
        stages.append(
            StageStatus(
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
        )
    keys = {stage.key for stage in mine}
    verdicts = {
        stage.stage: {reason: num for reason, num in stage.counts.items() if SIDE not in reason}
        for name in recipe.funnel
        for stage in stages
        if stage.stage == name and stage.units
    }
    ends = [verdicts.get(name, {}) for name in (recipe.funnel or ("",))]
    others = [key for key in ledger.store.folders() if key not in keys and ledger.store.exists(f"{key}/stage.json")]
    return Status(
        url=ledger.store.url,
        recipe=recipe.name,
        stages=tuple(stages),
        generations=_generations(recipe, ledger, chain) if recipe.chain else (),
        funnel=verdicts,
        apart={title: _apart(recipe, names, stages) for title, names in recipe.apart},
        candidates=sum(num for reason, num in ends[0].items() if reason not in recipe.besides),
        kept=ends[-1].get("kept", 0),
        others=tuple(key for key in others if not key.startswith("snapshot-")),
    )


def _apart(recipe: Recipe, names: tuple[str, ...], stages: list[StageStatus]) -> dict[str, dict[str, int]]:
    """Counts beside the records; a stage that is not in the funnel has no others."""
    found = {}
    for stage in stages:
        if stage.stage in names:
            beside = {
                reason: num
                for reason, num in stage.counts.items()
                if SIDE in reason or stage.stage not in recipe.funnel
            }
            # what all of a stage's names begin with says nothing under the title
            one_kind = len({reason.partition(SIDE)[0] for reason in beside if SIDE in reason}) < 2
            counts = {
                (reason.partition(SIDE)[2] or reason) if one_kind else reason.replace(SIDE, " "): num
                for reason, num in beside.items()
            }
            if counts:
                found[stage.stage] = counts
    return found


def _generations(recipe: Recipe, ledger: Ledger, chain: Chain) -> tuple[GenerationStatus, ...]:
    numbered = [step.stage for step in recipe.chain if not step.stage.own_series]
    settled = {stage.name: ledger.settled(stage.key) for stage in numbered}
    found = []
    for number in ledger.generations(chain.head.key):
        generation = ledger.generation(chain.head.key, number)
        if generation is None:
            continue
        first = recipe.maps[0].stage.name
        state = settled[chain.head.name].get(number, {}).get("state", "open")
        found.append(
            GenerationStatus(
                number=number,
                state=str(state),
                units=len(ledger.manifest(generation.manifests[first][1])),
                published=tuple(name for name, of in settled.items() if of.get(number, {}).get("state") == "published"),
            )
        )
    return tuple(found)
