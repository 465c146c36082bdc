"""Keeping a store sound: `verify` checks what is published against its sums, `gc` removes what no commit names."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass, field
from datetime import timedelta

from engine.attempt import produce, scratch_folder
from engine.chain import Chain
from engine.errors import ConfigError, StoreError
from engine.ledger import Commit, Ledger
from engine.recipe import Recipe
from engine.stage import Stage, Unit
from engine.work import LedgerWork

MIN_AGE = timedelta(hours=24)  # an attempt under way may still commit what looks like garbage (lifecycle.md)


@dataclass(kw_only=True, slots=True)
class Check:
    """What `verify` found."""

    commits: int = 0
    files: int = 0
    num_bytes: int = 0
    recomputed: int = 0
    faults: list[str] = field(default_factory=list)


def verify(recipe: Recipe, ledger: Ledger, sample: int = 2, scratch: str = "", stage_name: str = "") -> Check:
    """Read every file that a commit names and compare size and sha256; compute `sample` units a stage again.

    A recorded stage is not computed again: it is no pure function. Faults are sentences, never exceptions.
    """
    check = Check()
    if not ledger.check(create=False):
        raise ConfigError(f"{ledger.store.url} is empty: there is nothing to verify; check --store")
    stages = [recipe.stage(stage_name)] if stage_name else [step.stage for step in recipe.steps]
    for stage in stages:
        commits = []
        for unit in sorted(ledger.committed(stage.key)):
            check.commits += 1
            try:
                commit = ledger.commit(stage.key, unit)
            except StoreError as error:
                check.faults.append(str(error))
                continue
            commits.append(commit)
            _sums(ledger, commit, check)
        if not stage.recorded:
            picked = random.Random(0).sample(commits, min(sample, len(commits)))
            for commit in picked:
                _again(ledger, stage, commit, scratch, check)
        if stage.barrier:
            _generations(recipe, ledger, stage, check)
    return check


def _sums(ledger: Ledger, commit: Commit, check: Check) -> None:
    for files in commit.outputs.values():
        for file in files:
            check.files += 1
            head = ledger.store.head(file.path)
            if head is None:
                check.faults.append(f"{file.path} is gone: {_cure(commit)}")
                continue
            # one of another size is not even read
            body = ledger.store.get(file.path, file.bytes) if head.size == file.bytes else b""
            check.num_bytes += len(body)
            if hashlib.sha256(body).hexdigest() != file.sha256:
                check.faults.append(f"{file.path} has other bytes than its commit says: remove it; {_cure(commit)}")


def _cure(commit: Commit) -> str:
    # a published generation is not looked into again
    published = f" and {commit.stage}/published/{commit.generation}.json" if commit.generation else ""
    return f"remove {commit.stage}/commits/{commit.unit}.json{published}, then run the recipe again to compute it anew"


def _again(ledger: Ledger, stage: Stage, commit: Commit, scratch: str, check: Check) -> None:
    unit = Unit(id=commit.unit, inputs=commit.inputs, generation=commit.generation)
    with scratch_folder(scratch, f"verify-{stage.name}-{unit.id}.0") as folder:
        work = LedgerWork(ledger, stage, unit, folder, poisoned=frozenset(commit.crashed))
        try:
            files, fault = produce(stage, unit, work, folder)
        except StoreError as error:
            files, fault = {}, str(error)
        if fault:
            check.faults.append(f"{stage.name} {unit.id} cannot be computed again: {fault}")
            return
        check.recomputed += 1
        for name, produced in files.items():
            found = [(file.rows, file.sha256) for file in produced]
            if found != [(file.rows, file.sha256) for file in commit.outputs.get(name, ())]:
                check.faults.append(
                    f"{stage.name} {unit.id}: output {name} computed again has other bytes (committed by {commit.code} "
                    f"on {commit.host}): a library or the code changed without the stage's version"
                )


def _generations(recipe: Recipe, ledger: Ledger, stage: Stage, check: Check) -> None:
    for number in ledger.generations(stage.key) if stage.own_series else Chain(recipe, ledger).standing():
        generation = ledger.generation(stage.key, number)
        if generation is None:
            continue
        for name, (_, mark) in generation.manifests.items():
            if not ledger.store.exists(f"manifests/{mark}.parquet"):
                check.faults.append(f"generation {number} of {stage.name}: its manifest of {name}, {mark}, is gone")


@dataclass(kw_only=True, slots=True)
class Garbage:
    """What `gc` found (and removed unless it was a dry run)."""

    files: int = 0
    num_bytes: int = 0
    kept_young: int = 0


def gc(ledger: Ledger, min_age: timedelta = MIN_AGE, dry_run: bool = False) -> Garbage:
    """Remove data files that no commit names and that are older than `min_age` by the store's own clock."""
    garbage = Garbage()
    if not ledger.check(create=False):
        raise ConfigError(f"{ledger.store.url} is empty: there is nothing to remove; check --store")
    now = ledger.store.now()
    for key in ledger.store.folders():
        if not ledger.store.exists(f"{key}/stage.json"):
            continue
        # data first, commits second: what is committed meanwhile is then seen as named
        heads = list(ledger.store.list(f"{key}/data/"))
        named = {file.path for commit in ledger.commits(key) for files in commit.outputs.values() for file in files}
        doomed = []
        for head in heads:
            if head.path in named:
                continue
            if now - head.modified < min_age:
                garbage.kept_young += 1
                continue
            doomed.append(head.path)
            garbage.files += 1
            garbage.num_bytes += head.size
        if doomed and not dry_run:
            ledger.store.delete(doomed)
    _partial(ledger, now.timestamp() - min_age.total_seconds(), dry_run, garbage)
    return garbage


def _partial(ledger: Ledger, before: float, dry_run: bool, garbage: Garbage) -> None:
    # a process killed while it wrote to file:// leaves `name#1`, which object_store itself never lists
    if ledger.store.folder is None:
        return
    for path in ledger.store.folder.rglob("*#*"):
        if path.name.rsplit("#", 1)[-1].isdigit() and path.stat().st_mtime < before:
            garbage.files += 1
            garbage.num_bytes += path.stat().st_size
            if not dry_run:
                path.unlink(missing_ok=True)
