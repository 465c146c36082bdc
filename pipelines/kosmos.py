"""The recipes: they read top to bottom like a method section.

`interleaved`: pages are parsed once, judged on stored scores, signed, and compared with all that earlier crawls
published; then the images that are worth it are fetched, judged, compared, and laid into shards beside their text.
Everything that needs only text or addresses comes before the first image request: OmniCorpus cut 30 billion requests
to 9.65 billion by deduplicating first.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from engine.errors import ConfigError
from engine.recipe import Recipe, Step
from engine.stage import Stage
from pipelines import assemble, dedupe, extract, fetch, images, judge, select, sign, snapshot
from pipelines.assemble import match, repeats, shards
from pipelines.dedupe import decide, group, index, spread
from pipelines.reasons import Reason
from pipelines.select import choose, frequency, recall, refer, schedule


@dataclass(frozen=True, kw_only=True, slots=True)
class Interleaved:
    """Every setting of the recipe, by stage; `--set stage.field=value` changes one."""

    extract: extract.Config = field(default_factory=extract.Config)
    judge: judge.Config = field(default_factory=judge.Config)
    sign: sign.Config = field(default_factory=sign.Config)
    dedupe: dedupe.Config = field(default_factory=dedupe.Config)
    select: select.Config = field(default_factory=select.Config)
    fetch: fetch.Config = field(default_factory=fetch.Config)
    images: images.Gate = field(default_factory=images.kosmos1)
    assemble: assemble.Config = field(default_factory=assemble.Config)


def small() -> Interleaved:
    """For some thousands of pages on a laptop: the same rules, fewer partitions of the key space."""
    return Interleaved(
        dedupe=dedupe.Config(partitions=4),
        select=select.Config(cut=select.Cut(partitions=4, domains=2)),
        fetch=fetch.Config(partitions=4),
    )


def interleaved(config: Interleaved | None = None) -> Recipe:
    """Interleaved image-text documents from Common Crawl, as KOSMOS-1 section 3.1 describes them."""
    config = config or Interleaved()
    _alike(config)

    # Each WARC is parsed once: documents, captions, texts, image references, the scores of every rule, and a verdict
    # for every record.
    extracted = Stage(
        name="extract",
        version=extract.VERSION,
        process="pipelines.extract:process",
        config=config.extract,
        outputs=extract.OUTPUTS,
    )
    # Thresholds on the stored scores, so that they move without parsing again.
    judged = Stage(
        name="judge",
        version=judge.VERSION,
        process="pipelines.judge:process",
        config=config.judge,
        outputs=judge.OUTPUTS,
        reads=(extracted,),
    )
    # What makes two pages the same: address, exact text, MinHash bands.
    signed = Stage(
        name="sign",
        version=sign.VERSION,
        process="pipelines.sign:process",
        config=config.sign,
        outputs=sign.OUTPUTS,
        reads=(extracted, judged),
    )
    # From here on by generation: what is new is compared with itself and with all that was kept before.
    spreaded = Stage(
        name="spread",
        version=spread.VERSION,
        process="pipelines.dedupe.spread:process",
        config=config.dedupe,
        outputs=spread.OUTPUTS,
        reads=(signed,),
        barrier=True,
    )
    grouped = Stage(
        name="group",
        version=group.VERSION,
        process="pipelines.dedupe.group:process",
        config=config.dedupe,
        outputs=group.OUTPUTS,
        reads=(spreaded,),
        carries=group.CARRIES,
        barrier=True,
    )
    decided = Stage(
        name="decide",
        version=decide.VERSION,
        process="pipelines.dedupe.decide:process",
        config=config.dedupe,
        outputs=decide.OUTPUTS,
        reads=(spreaded, grouped),
        carries=decide.CARRIES,
        barrier=True,
    )
    indexed = Stage(
        name="index",
        version=index.VERSION,
        process="pipelines.dedupe.index:process",
        config=config.dedupe,
        outputs=index.OUTPUTS,
        reads=(spreaded, decided),
        barrier=True,
    )
    # Which images are worth a request: address rules, then how many documents show each address.
    cut, chosen = config.select.cut, config.select.choice
    fetched = Stage(
        name="fetch",
        version=fetch.VERSION,
        process="pipelines.fetch:process",
        config=config.fetch,
        outputs=fetch.OUTPUTS,
        barrier=True,
        recorded=True,
        exclusive=True,
        binds=fetch.binds(config.fetch),
    )
    referred = Stage(
        name="refer",
        version=refer.VERSION,
        process="pipelines.select.refer:process",
        config=refer.Config(cut=cut, rules=config.select.rules),
        outputs=refer.OUTPUTS,
        reads=(extracted, signed, decided),
        barrier=True,
    )
    counted = Stage(
        name="frequency",
        version=frequency.VERSION,
        process="pipelines.select.frequency:process",
        config=frequency.Config(cut=cut),
        outputs=frequency.OUTPUTS,
        reads=(referred,),
        carries=frequency.CARRIES,
        barrier=True,
    )
    # At most eight candidates a document, and half of the documents with one go, before anything is asked for.
    selected = Stage(
        name="select",
        version=choose.VERSION,
        process="pipelines.select.choose:process",
        config=choose.Config(cut=cut, choice=chosen),
        outputs=choose.OUTPUTS,
        reads=(extracted, referred, counted),
        barrier=True,
    )
    # Each address is asked for once, whoever wants it: what the servers said is an input of all that follows.
    recalled = Stage(
        name="recall",
        version=recall.VERSION,
        process="pipelines.select.recall:process",
        config=recall.Config(cut=cut, max_tries=chosen.max_tries),
        outputs=recall.OUTPUTS,
        reads=(selected, fetched),
        barrier=True,
    )
    scheduled = Stage(
        name="schedule",
        version=schedule.VERSION,
        process="pipelines.select.schedule:process",
        config=schedule.Config(cut=cut, schedule=config.select.schedule),
        outputs=schedule.OUTPUTS,
        reads=(recalled,),
        barrier=True,
    )
    matched = Stage(
        name="match",
        version=match.VERSION,
        process="pipelines.assemble.match:process",
        config=match.Config(cut=cut, gate=config.images),
        outputs=match.OUTPUTS,
        reads=(selected, fetched),
        barrier=True,
    )
    repeated = Stage(
        name="repeats",
        version=repeats.VERSION,
        process="pipelines.assemble.repeats:process",
        config=repeats.Config(cut=cut, max_docs=config.assemble.max_docs),
        outputs=repeats.OUTPUTS,
        reads=(matched,),
        carries=repeats.CARRIES,
        barrier=True,
    )
    # At most five images a document, in reading order; half of the documents with one image go.
    assembled = Stage(
        name="assemble",
        version=shards.VERSION,
        process="pipelines.assemble.shards:process",
        config=shards.Config(max_images=config.assemble.max_images, coin=chosen.coin),
        outputs=shards.OUTPUTS,
        reads=(extracted, decided, selected, fetched, matched, repeated),
        barrier=True,
    )
    return Recipe(
        name="interleaved",
        config=config,
        steps=(
            Step(stage=extracted),
            Step(stage=judged),
            Step(stage=signed),
            Step(stage=spreaded, parts=spread.parts),
            Step(stage=grouped, parts=group.parts),
            Step(stage=decided, parts=decide.parts),
            Step(stage=indexed, parts=index.parts),
            Step(stage=referred, parts=refer.parts),
            Step(stage=counted, parts=frequency.parts),
            Step(stage=selected, parts=choose.parts),
            Step(stage=recalled, parts=recall.parts),
            Step(stage=scheduled, parts=schedule.parts),
            Step(stage=fetched, lister="schedule", listed=fetch.listed),
            Step(stage=matched, parts=match.parts),
            Step(stage=repeated, parts=repeats.parts),
            Step(stage=assembled, parts=shards.parts),
        ),
        listing=snapshot.units,
        funnel=("extract", "judge", "decide", "select", "assemble"),
        besides=(Reason.NOT_RESPONSE.word,),
        apart=(("Images", ("refer", "select", "recall", "fetch", "assemble")),),
        ready=config.fetch.ready,
    )


def _alike(config: Interleaved) -> None:
    # one number in two stages: the key of fetch must hold it without knowing of select
    pairs = (
        ("select.cut.partitions", config.select.cut.partitions, "fetch.partitions", config.fetch.partitions),
        ("select.schedule.rate", config.select.schedule.rate, "fetch.rate", config.fetch.rate),
    )
    for one, value, other, found in pairs:
        if value != found:
            raise ConfigError(f"{one} is {value} and {other} is {found}; set both to the same")
