"""The recipes: they read top to bottom like a method section.

`interleaved`: pages are parsed once, judged on stored scores, signed, and compared with all that earlier crawls
published; then the images that are worth it are fetched, judged, compared, and laid into shards beside their text; and
those become the rows that a model trains on.
Everything that needs only text or addresses comes before the first image request: OmniCorpus cut 30 billion requests
to 9.65 billion by deduplicating first.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, TypeVar

from engine.errors import ConfigError
from engine.recipe import Recipe, Step
from engine.stage import Stage
from engine.vocab import HELDOUT
from pipelines import (
    assemble,
    decontaminate,
    dedupe,
    extract,
    fetch,
    images,
    judge,
    pack,
    paragraphs,
    select,
    sign,
    snapshot,
)
from pipelines.assemble import match, repeats, shards
from pipelines.dedupe import bands, decide, exact, group, index, spread, verify
from pipelines.pack import lay, tokenise
from pipelines.pack import shards as rows
from pipelines.paragraphs import collect, recurring
from pipelines.reasons import Reason
from pipelines.select import budget, choose, floor, frequency, moved, recall, refer, schedule

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Interleaved:
    """Every setting of the recipe, by stage; `--set stage.field=value` changes one."""

    extract: extract.Config = field(default_factory=extract.Config)
    judge: judge.Config = field(default_factory=judge.Config)
    decontaminate: decontaminate.Config = field(default_factory=decontaminate.Config)
    sign: sign.Config = field(default_factory=sign.Config)
    dedupe: dedupe.Config = field(default_factory=dedupe.Config)
    paragraphs: paragraphs.Config = field(default_factory=paragraphs.Config)
    select: select.Config = field(default_factory=select.Config)
    fetch: fetch.Config = field(default_factory=fetch.Config)
    images: images.Gate = field(default_factory=images.kosmos1)
    assemble: assemble.Config = field(default_factory=assemble.Config)
    pack: pack.Config = field(default_factory=pack.Config)


def obelics() -> Interleaved:
    """All the bounds of OBELICS, on blocks, pages, paragraphs and images; what else is set stays KOSMOS-1's."""
    return Interleaved(
        extract=extract.obelics(), judge=judge.obelics(), paragraphs=paragraphs.obelics(), images=images.obelics()
    )


def fineweb() -> Interleaved:
    """FineWeb's deduplication, 14 bands of 8, components, nothing verified: to compare with. All else is KOSMOS-1's."""
    return Interleaved(sign=sign.fineweb(), dedupe=dedupe.fineweb())


def small(config: Interleaved | None = None) -> Interleaved:
    """For some thousands of pages on a laptop: the same rules, fewer partitions of the key space."""
    config = config or Interleaved()
    return dataclasses.replace(
        config,
        dedupe=dataclasses.replace(config.dedupe, partitions=4),
        paragraphs=dataclasses.replace(config.paragraphs, partitions=4),
        select=select.Config(cut=select.Cut(partitions=4, domains=2)),
        fetch=fetch.Config(partitions=4),
        pack=pack.Config(partitions=4),
    )


def stage(name: str, module: ModuleType, config: Any, **more: Any) -> Stage:
    """The stage that a module holds: its VERSION, OUTPUTS, process, and CARRIES if it reads earlier generations."""
    return Stage(
        name=name,
        version=module.VERSION,
        process=f"{module.__name__}:process",
        config=config,
        outputs=module.OUTPUTS,
        carries=getattr(module, "CARRIES", ()),
        **more,
    )


def barrier(name: str, module: ModuleType, config: Any, **more: Any) -> Stage:
    """A stage of the chain."""
    return stage(name, module, config, barrier=True, **more)


def interleaved(config: Interleaved | None = None) -> Recipe:
    """Interleaved image-text documents from Common Crawl, as KOSMOS-1 section 3.1 describes them."""
    config = config or Interleaved()
    _alike(config)

    # Each WARC is parsed once: documents, captions, texts, image references, the scores of every rule, and a verdict
    # for every record.
    extracted = stage("extract", extract, config.extract)
    # Thresholds on the stored scores, so that they move without parsing again.
    judged = stage("judge", judge, config.judge, reads=(extracted,))
    # Pages that hold items of evaluation sets go before anything is compared, so that no clean page goes for one.
    read: tuple[Stage, ...] = (extracted, judged)
    leaking: tuple[Stage, ...] = ()
    if config.decontaminate.sets:
        leaking = (stage("decontaminate", decontaminate, decontaminate.resolved(config.decontaminate), reads=read),)
    # What makes two pages the same: address, exact text, the sketch of its 5-grams.
    signing = dataclasses.replace(config.sign, decontaminate=bool(leaking))
    signed = stage("sign", sign, signing, reads=(*read, *leaking))

    # From here on by generation: what is new is compared with itself and with all that was kept before. The same
    # address and the same text first, then what shares a band of the sketch and is as alike as it seems.
    spreaded = barrier("spread", spread, config.dedupe, reads=(signed,))
    same = barrier("exact", exact, config.dedupe, reads=(spreaded,))
    banded = barrier("bands", bands, config.dedupe, reads=(signed, same))
    grouped = barrier("group", group, config.dedupe, reads=(banded,))
    verified = barrier("verify", verify, config.dedupe, reads=(signed, grouped))
    decided = barrier("decide", decide, config.dedupe, reads=(spreaded, same, verified))
    indexed = barrier("index", index, config.dedupe, reads=(spreaded, banded, decided))

    # What three pages of a site say alike is the site's, and no text of any one of them.
    cut_out = barrier(
        "paragraphs", collect, _taken(collect.Config, config.paragraphs), reads=(extracted, signed, decided)
    )
    recurs = barrier("recurring", recurring, _taken(recurring.Config, config.paragraphs), reads=(cut_out,))

    # Which images are worth a request: address rules, then how many documents show each address; at most eight
    # candidates a document, and half of the documents with one go, before anything is asked for.
    cut, choice = config.select.cut, config.select.choice
    rules = refer.Config(cut=cut, rules=config.select.rules)
    referred = barrier("refer", refer, rules, reads=(extracted, signed, decided))
    counted = barrier("frequency", frequency, frequency.Config(cut=cut), reads=(referred,))
    wanted = choose.Config(cut=cut, choice=choice)
    selected = barrier("select", choose, wanted, reads=(extracted, referred, counted))

    # Each address is asked for once, whoever wants it: what the servers said is an input of all that follows.
    network: dict[str, Any] = {"recorded": True, "exclusive": True, "binds": fetch.binds(config.fetch)}
    fetched = barrier("fetch", fetch, config.fetch, **network)
    most = config.select.schedule.domain_budget
    known = recall.Config(cut=cut, max_tries=choice.max_tries, domain_budget=most)
    recalled = barrier("recall", recall, known, reads=(selected, fetched))
    units = schedule.Config(cut=cut, schedule=config.select.schedule)
    scheduled = barrier("schedule", schedule, units, reads=(recalled,))
    # A redirect to another operator is an address of his, and waits for his turns: it is asked in a second round, and
    # not while another driver is at the first, since both may ask the same domain.
    followed = barrier("follow", fetch, config.fetch, **network, lease=fetched.key)
    astray = barrier("moved", moved, known, reads=(selected, fetched, followed))
    units = schedule.Config(cut=cut, schedule=config.select.schedule, source="moved")
    rescheduled = barrier("reschedule", schedule, units, reads=(astray,))

    # What more a domain would have been asked for has a reason.
    rationed = barrier("budget", budget, budget.Config(cut=cut, domain_budget=most), reads=(recalled, astray))

    # At most five images a document, in reading order; half of the documents with one image go.
    gate = match.Config(cut=cut, gate=config.images, evaluation=decontaminate.images(config.decontaminate))
    matched = barrier("match", match, gate, reads=(selected, fetched, followed, rationed))
    alike = repeats.Config(cut=cut, max_docs=config.assemble.max_docs)
    repeated = barrier("repeats", repeats, alike, reads=(matched,))
    whole = _taken(shards.Config, config.assemble, coin=choice.coin)
    upstream = (extracted, decided, recurs, selected, fetched, followed, matched, repeated)
    assembled = barrier("assemble", shards, whole, reads=upstream)

    # Training rows: the text of documents in full sentences, each image with its caption, and the documents as they
    # read; all shuffled by the hash of what they are. What is held out has a manifest of its own.
    given, digest = config.pack, pack.digest(config.pack)
    tokenised = barrier("tokenise", tokenise, _taken(tokenise.Config, given, digest=digest), reads=(assembled,))
    laid = barrier("lay", lay, _taken(lay.Config, given), reads=(tokenised, assembled))
    laid_out = (tokenised, laid, assembled)
    packed = barrier("pack", rows, _taken(rows.Config, given, digest=digest, heldout=False), reads=laid_out)
    heldout = barrier(HELDOUT, rows, _taken(rows.Config, given, digest=digest, heldout=True), reads=laid_out)
    return Recipe(
        name="interleaved",
        config=config,
        steps=(
            Step(stage=extracted),
            Step(stage=judged),
            *(Step(stage=one) for one in leaking),
            Step(stage=signed),
            Step(stage=spreaded, parts=spread.parts),
            Step(stage=same, parts=exact.parts),
            Step(stage=banded, parts=bands.parts),
            Step(stage=grouped, parts=group.parts),
            Step(stage=verified, parts=verify.parts),
            Step(stage=decided, parts=decide.parts),
            Step(stage=indexed, parts=index.parts),
            Step(stage=cut_out, parts=collect.parts),
            Step(stage=recurs, parts=recurring.parts),
            Step(stage=referred, parts=refer.parts),
            Step(stage=counted, parts=frequency.parts),
            Step(stage=selected, parts=choose.parts),
            Step(stage=recalled, parts=recall.parts),
            Step(stage=scheduled, parts=schedule.parts),
            Step(stage=fetched, lister="schedule", listed=fetch.listed),
            Step(stage=astray, parts=moved.parts),
            Step(stage=rescheduled, parts=schedule.parts),
            Step(stage=followed, lister="reschedule", listed=fetch.listed),
            Step(stage=rationed, parts=budget.parts),
            Step(stage=matched, parts=match.parts),
            Step(stage=repeated, parts=repeats.parts),
            Step(stage=assembled, parts=shards.parts),
            Step(stage=tokenised, parts=tokenise.parts),
            Step(stage=laid, parts=lay.parts),
            Step(stage=packed, parts=rows.parts),
            Step(stage=heldout, parts=rows.parts),
        ),
        listing=snapshot.units,
        funnel=("extract", "judge", *(one.name for one in leaking), "decide", "select", "assemble"),
        besides=(Reason.NOT_RESPONSE.word,),
        apart=(
            ("Pairs of pages", ("group", "verify")),
            ("Paragraphs", ("paragraphs", "recurring")),
            ("Images", ("refer", "select", "recall", "schedule", "fetch", "follow", "budget", "assemble")),
            ("Training rows", ("tokenise",)),
        ),
        ready=config.fetch.ready,
        pinned=(*decontaminate.pinned(config.decontaminate), *pack.pinned(given)),
        floor=floor.floors,
    )


def _taken(kind: type[T], given: object, **more: object) -> T:
    """A stage's config: the fields that a recipe's has under the same name, and some more; others by default."""
    own = {f.name for f in dataclasses.fields(given)}  # type: ignore[arg-type]
    names = [f.name for f in dataclasses.fields(kind) if f.name not in more and f.name in own]  # type: ignore[arg-type]
    return kind(**{name: getattr(given, name) for name in names}, **more)


def _alike(config: Interleaved) -> None:
    if config.sign.decontaminate:
        raise ConfigError("sign.decontaminate follows decontaminate.sets; leave it out")
    # one number in two stages: the key of fetch must hold it without knowing of select
    pairs = (
        ("select.cut.partitions", config.select.cut.partitions, "fetch.partitions", config.fetch.partitions),
        ("select.schedule.rate", config.select.schedule.rate, "fetch.rate", config.fetch.rate),
        ("sign.bands x sign.rows", config.sign.bands * config.sign.rows, "dedupe.num_slots", config.dedupe.num_slots),
    )
    for one, value, other, found in pairs:
        if value != found:
            raise ConfigError(f"{one} is {value} and {other} is {found}; set both to the same")
