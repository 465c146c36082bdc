"""The commands as a person types them: help, answers, exit codes, and one sentence for each mistake."""

from __future__ import annotations

import gzip
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from engine import cli, show
from engine.chain import Chain
from engine.cli import main
from engine.config import override
from engine.ledger import Commit, Ledger
from engine.pool import InlinePool
from engine.progress import Quiet
from engine.recipe import Recipe
from engine.stage import SIDE
from engine.window import Options, run
from engine.work import read_rows
from pipelines import snapshot
from pipelines.kosmos import interleaved, obelics, small
from pipelines.smallweb import CRAWLS, Truth
from tests.conftest import SmallWeb

VERBS = (
    "demo",
    "plan",
    "run",
    "status",
    "crawls",
    "why",
    "leaks",
    "sheet",
    "freeze",
    "verify",
    "gc",
    "abandon",
    "train",
    "plan train",
    "export",
    "generate",
)


@pytest.fixture(scope="module")
def web(small_web: SmallWeb) -> tuple[Path, Truth]:
    return small_web.folder, small_web.truth


@pytest.fixture(scope="module")
def store(small_web: SmallWeb, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A store that holds two files of the first crawl."""
    folder = tmp_path_factory.mktemp("store")
    ledger = Ledger(str(folder))
    ledger.check(create=True)
    units = snapshot.units(snapshot.Inputs(crawl=CRAWLS[0], mirror=str(small_web.folder)), ledger)[:2]
    options = Options(settings=("--small", *small_web.settings))
    run(small_web.recipe(), ledger, units, InlinePool(ledger.store.url), Quiet(), options)
    yield folder


def test_help_names_every_command_and_an_example_of_each(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    for verb in VERBS:
        assert re.search(rf"^    {verb}\s", text, re.MULTILINE)
        with pytest.raises(SystemExit):
            main([*verb.split(), "--help"])
        assert f"example: kosmos {verb}" in capsys.readouterr().out


def test_presets_set_all_rules_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    found = {}
    for words in ([], ["--preset", "kosmos1"], ["--preset", "obelics"], ["--preset", "obelics", "--small"]):
        assert main(["plan", "--show", "--json", *words, "--set", "judge.min_words=33"]) == 0
        found[tuple(words)] = json.loads(capsys.readouterr().out)["config"]
    assert found[()] == found["--preset", "kosmos1"]
    strict = found["--preset", "obelics"]
    assert strict["judge"]["min_stopwords"] == 0.35 and strict["images"]["min_side"] == 150
    assert strict["extract"]["blocks"]["special_characters"] == 0.3 and strict["judge"]["min_words"] == 33
    small = found["--preset", "obelics", "--small"]
    assert small["judge"] == strict["judge"] and small["dedupe"]["partitions"] == 4


@pytest.mark.parametrize("preset", cli.PRESETS)
def test_every_preset_is_a_config(preset: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--show", "--json", "--preset", preset]) == 0
    assert json.loads(capsys.readouterr().out)["stages"]["extract"]


def test_looking_into_a_store_takes_the_preset_of_its_run(
    small_web: SmallWeb, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = Ledger(str(tmp_path))
    ledger.check(create=True)
    units = snapshot.units(snapshot.Inputs(crawl=CRAWLS[0], mirror=str(small_web.folder)), ledger)[:1]
    recipe = interleaved(override(small(obelics()), small_web.settings))
    options = Options(only="extract", settings=("--small", "--preset=obelics", *small_web.settings))
    run(recipe, ledger, units, InlinePool(ledger.store.url), Quiet(), options)
    assert main(["status", "--store", str(tmp_path), "--show", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["stages"]["extract"] == recipe.stage("extract").key


def test_plan_counts_what_is_left(small_web: SmallWeb, store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inputs = ["--crawl", CRAWLS[0], "--mirror", str(small_web.folder)]
    words = [*small_web.words, *inputs, "--store", str(store), "--json"]
    assert main(["plan", "interleaved", *words]) == 0
    plan = json.loads(capsys.readouterr().out)
    extract = plan["stages"][0]
    assert (extract["planned"], extract["committed"]) == (4, 2)
    assert extract["cpu_s"] > 0 and plan["fresh"] == 2 and plan["generations"] == 1 and not plan["missing"]


def test_plan_writes_nothing(web: tuple[Path, Truth], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = tmp_path / "new"
    assert main(["plan", "--crawl", CRAWLS[0], "--mirror", str(web[0]), "--store", str(place)]) == 0
    text = capsys.readouterr().out
    assert "not measured" in text and not place.exists()
    assert "Before it can run: sites must be able to learn who asks" in text


def test_a_store_of_the_small_web_refuses_the_real_one(
    small_web: SmallWeb, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inputs = ["--crawl", CRAWLS[0], "--mirror", str(small_web.folder), "--store", str(store)]
    for verb in ("plan", "run"):
        assert main([verb, "--small", *inputs, "--set", "fetch.contact=https://bot.example/"]) == 2
        told = capsys.readouterr().err
        assert "loopback_only" in told and "give another --store" in told and told.count("\n") == 1
    assert main(["run", "--small", *inputs]) == 2
    assert "--set fetch.contact=" in capsys.readouterr().err


def test_status_and_the_funnel(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--store", str(store), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    extract = found["stages"][0]
    assert extract["units"] == 2
    records = {reason: num for reason, num in extract["counts"].items() if SIDE not in reason}
    assert sum(records.values()) == extract["rows"]["verdicts"], "every record is counted once"
    assert main(["status", "--store", str(store)]) == 0
    text = capsys.readouterr().out
    assert "Images" in text and "http_gone" in text
    assert "Funnel" in text and "opt_out_header" in text and "published" in text


def test_crawls_offered_and_held(small_web: SmallWeb, store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["crawls", "--mirror", str(small_web.folder), "--store", str(store)]
    assert main([*words, "--json"]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(crawl["name"], crawl["offered"], crawl["held"]["committed"]) for crawl in found] == [
        (CRAWLS[1], True, 0),
        (CRAWLS[0], True, 2),
    ]
    assert found[1]["held"]["listed"] == 4 and found[1]["held"]["generations"] == [1]
    assert main(words) == 0
    text = capsys.readouterr().out
    assert "2 of 4" in text and "2 offered, 1 in the store, whole or in part" in text
    assert main(["status", "--store", str(store), "--json"]) == 0
    held = json.loads(capsys.readouterr().out)
    assert held["crawls"] == [found[1]["held"]]
    (generation,) = held["generations"]
    assert generation["crawls"] == [CRAWLS[0]] and generation["known"] == {} and generation["removed"]
    assert generation["pages"] == generation["kept"] + sum(generation["removed"].values())


def test_the_latest_crawl_is_named(small_web: SmallWeb, store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plan", *small_web.words, "--mirror", str(small_web.folder), "--store", str(store), "--crawl"]
    assert main([*words, "latest", "--json"]) == 0
    told, plan = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert told == {"event": "crawl", "crawl": CRAWLS[1]}
    assert main([*words, CRAWLS[1], "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == plan
    assert main([*words, "latest"]) == 0
    assert capsys.readouterr().out.startswith(f"The newest crawl is {CRAWLS[1]}.\n")


@dataclass(frozen=True)
class Leak:
    """A line of a report, as `pipelines.leaks` makes them."""

    set: str
    pages_hit: int
    mean_covered: float


def some_leaks(recipe: Recipe, ledger: Ledger) -> list[Leak]:
    """A report of one set, or of none for an empty store."""
    return [Leak("[bold]piqa", 12345, 0.98765)] if ledger.check(create=False) else []


def test_leaks_are_a_line_a_set(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "LEAKS", f"{__name__}:some_leaks")
    assert main(["leaks", "--small", "--store", str(store)]) == 0
    head, line = capsys.readouterr().out.splitlines()
    assert head.split() == ["set", "pages", "hit", "mean", "covered"]
    assert line.split() == ["[bold]piqa", "12,345", "0.988"]
    assert main(["leaks", "--small", "--store", str(store), "--json"]) == 0
    expected = {"set": "[bold]piqa", "pages_hit": 12345, "mean_covered": 0.98765}
    assert json.loads(capsys.readouterr().out) == expected
    assert main(["leaks", "--small", "--store", str(tmp_path / "none")]) == 0
    assert capsys.readouterr().out == "nothing to report\n"


def test_freeze_prints_a_digest_that_stays(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    digests = []
    for words in (["extract"], ["extract"], ["decide"], ["decide", "--generation", "1"], ["assemble"], ["fetch"]):
        assert main(["freeze", *words, "--store", str(store)]) == 0
        digests.append(capsys.readouterr().out.strip())
    assert digests[0] == digests[1] and digests[2] == digests[3] != digests[0]
    assert len(set(digests)) == 4
    assert main(["freeze", "pack", "--all", "--store", str(store)]) == 0
    every = capsys.readouterr().out.split()
    assert main(["freeze", "pack", "--store", str(store)]) == 0
    assert capsys.readouterr().out.split() == every[-1:]
    ledger = Ledger(str(store))
    assert [commit.unit for commit in ledger.manifest(digests[0])] == sorted(ledger.committed(_key("extract")))


def _key(stage: str) -> str:
    return interleaved(small()).stage(stage).key


def test_why_and_verify_and_gc(web: tuple[Path, Truth], store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = next(r for r in web[1].records if r.reason == "language" and r.file == web[1].files(CRAWLS[0])[0])
    assert main(["why", record.url, "--small", "--store", str(store), "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["outcome"] == "language"
    unit = sorted(Ledger(str(store)).committed(_key("extract")))[0]
    assert main(["why", unit, "--small", "--store", str(store)]) == 0
    assert "committed" in capsys.readouterr().out
    assert main(["verify", "--store", str(store), "--sample", "1"]) == 0
    assert "all sound" in capsys.readouterr().out
    assert main(["gc", "--store", str(store), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["files"] == 0


def test_why_tells_what_the_site_of_a_page_repeats(
    small_web: SmallWeb, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Here headings that two pages of a site have: another setting, for which no image is asked for again.

    The whole crawl, of which a few headings are repeated: whether two files hold both pages of one is chance.
    """
    ledger = Ledger(shutil.copytree(store, tmp_path / "store").as_uri())
    units = snapshot.units(snapshot.Inputs(crawl=CRAWLS[0], mirror=str(small_web.folder)), ledger)
    options = Options(settings=("--small", *small_web.settings))
    run(small_web.recipe(), ledger, units, InlinePool(ledger.store.url), Quiet(), options)
    settings = ("paragraphs.min_pages=2", "paragraphs.keepers=0", "paragraphs.min_words=1")
    recipe = small_web.recipe(*settings)
    asked = small_web.server.requests
    options = Options(settings=("--small", *small_web.settings, *settings))
    run(recipe, ledger, [], InlinePool(ledger.store.url), Quiet(), options)
    assert small_web.server.requests == asked
    found, removed = [], 0
    for commit in ledger.commits(recipe.stage("assemble").key):
        if "paragraph:removed" not in commit.counts:
            continue  # what was published before its like came stays
        urls = read_rows(ledger.store, commit.outputs["curated"], ("url",))["url"].to_pylist()
        removed += commit.counts["paragraph:removed"]
        for url in urls:
            assert main(["why", url, "--store", ledger.store.url]) == 0
            found += re.findall(
                r"assemble kept: row \d+ of \S+; (\d+) paragraphs? that its site", capsys.readouterr().out
            )
    assert found and sum(map(int, found)) == removed


def test_a_run_that_finds_nothing_to_do_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    show.reports([], "interleaved", "a store", as_json=False)
    assert "waits for stages before it; `kosmos status interleaved --store 'a store'`" in capsys.readouterr().out


def test_many_stages_are_told_by_their_ends() -> None:
    assert show._stages(()) == ""
    assert show._stages(("spread", "exact", "bands")) == "spread, exact, bands"
    assert show._stages(("spread", "exact", "bands", "group")) == "spread to group, 4 stages"


def test_commands_that_look_take_the_settings_of_the_last_run(
    small_web: SmallWeb, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = str(tmp_path / "store")
    words = [
        "--crawl",
        CRAWLS[0],
        "--mirror",
        str(small_web.folder),
        *small_web.words,
        "--limit",
        "1",
        "--store",
        store,
    ]
    ledger = Ledger(store)
    ledger.check(create=True)
    units = snapshot.units(snapshot.Inputs(crawl=CRAWLS[0], mirror=str(small_web.folder)), ledger)[:1]
    settings = ("--small", *small_web.settings, "judge.min_words=150")
    run(
        small_web.recipe("judge.min_words=150"),
        ledger,
        units,
        InlinePool(ledger.store.url),
        Quiet(),
        Options(settings=settings),
    )
    assert main(["status", "--store", store, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kept"] > 0
    assert main(["why", units[0].id, "--store", store]) == 0
    assert "judge    committed" in capsys.readouterr().out
    assert main(["status", *small_web.words, "--store", store, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kept"] == 0, "settings that are given are taken as given"
    assert main(["plan", *words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["stages"][1]["committed"] == 0, "and a plan is for what would be run"


def test_show_prints_what_is_hashed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--set", "judge.min_words=50", "--set", "judge.min_stopwords=none", "--show"]) == 0
    text = capsys.readouterr().out
    assert "judge.min_words = 50" in text and f"# extract: {interleaved().stage('extract').key}" in text
    assert f"# judge: {interleaved().stage('judge').key}" not in text


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["run", "nothing"], "no recipe 'nothing'; there is interleaved"),
        (["run"], "no input: give --crawl"),
        (["run", "--input", "{web}/crawl-dat/*.warc.gz"], "did you mean {web}/crawl-data?"),
        (["plan", "--crawl", "SMALL-2026-07", "--mirror", "{web}"], "it has SMALL-2026-"),
        (["run", "--set", "judge.min_wrods=1"], "did you mean min_words?"),
        (["run", "--set", "judge.min_words=many"], "it is a number"),
        (["run", "--set", "dedupe.partitions=3"], "power of two"),
        (["run", "--set", "dedupe.margin=2"], "dedupe.margin is 2.0; set it to 0-1"),
        (["run", "--set", "sign.bands=30"], "sign.bands is 30; set it to 1-18"),
        (["run", "--set", "sign.bands=14"], "sign.bands x sign.rows is 98 and dedupe.num_slots is 126; set both"),
        (["run", "--set", "paragraphs.min_pages=1"], "set it to 2 or more, or to 0 for none"),
        (["run", "--set", "decontaminate.sets={web}/none.jsonl"], "{web}/none.jsonl cannot be read (No such file"),
        (["status", "--set", "decontaminate.sets={web}/a.txt"], "a.txt is neither .jsonl nor .tsv"),
        (["run", "--set", "fetch.partitions=16"], "select.cut.partitions is 256 and fetch.partitions is 16"),
        (["run", "--set", "fetch.egress=everywhere"], "set it to public or loopback_only"),
        (
            ["run", "--crawl", "SMALL-2026-06", "--mirror", "{web}", "--only", "fetsh"],
            "no stage 'fetsh'; its stages are",
        ),
        (["run", "--crawl", "SMALL-2026-06", "--mirror", "{web}", "--limit", "-1"], "--limit"),
        (["run", "--crawl", "SMALL-2026-06", "--mirror", "{web}", "--store", "{web}"], "holds other things"),
        (["status", "--store", "ftp://host/x"], "scheme 'ftp'"),
        (["plan", "--crawl", "latest", "--mirror", "{store}"], "offers no crawl; give --mirror"),
        (["crawls", "--mirror", "{web}/none"], "is not a folder; give --mirror"),
        (["crawls", "--mirror", "{web}", "--store", "{web}"], "holds other things"),
        (["leaks", "--small", "--store", "{store}"], "no evaluation set is configured; give --set decontaminate.sets="),
        (["why", "not a page", "--small", "--store", "{store}"], "no http(s) address"),
        (["why", "https://nowhere.example/", "--small", "--store", "{store}"], "is in no WARC"),
        (["freeze", "decide", "--generation", "9", "--store", "{store}"], "generation 9 of decide is not"),
        (["abandon", "--store", "{store}"], "no open generation"),
        (["verify", "--store", "{web}/none"], "is empty"),
        (["run", "--set", "pack.tokenizer=/none/x.model"], "/none/x.model cannot be read"),
        (["run", "--set", "pack.streams=words"], "name some of text, caption, interleaved"),
        (["train", "--recipe", "huge"], "no training recipe 'huge'; there is tiny, kosmos1, text"),
        (["train", "--set", "model.dims=64"], "did you mean dim?"),
        (["train", "--out", "{web}/none"], "give the digests that `kosmos freeze pack` prints"),
        (["train", "0" * 64, "--store", "{store}", "--out", "{web}/none"], "`kosmos freeze STAGE` prints one"),
        (["train", "0" * 64, "--workers", "4-2"], "--workers is 4-2; give 0 for this process, N workers in Ray"),
        (["train", "0" * 64, "--workers", "0", "--restarts", "2"], "--restarts is of workers in Ray; give --workers N"),
        (["train", "0" * 64, "--scale-batch", "1/0"], "--scale-batch is '1/0'; give a number or a fraction, as"),
        (["train", "0" * 64, "--scale-batch", "-1"], "data.scale_batch is -1.0; set it above 0"),
        (["plan", "train"], "nothing to plan for; give the digests that `kosmos freeze pack --all` prints"),
        (["plan", "train", "0" * 64, "--recipe", "huge"], "no training recipe 'huge'; there is tiny, kosmos1, text"),
        (["plan", "train", "0" * 64, "--workers", "0"], "--workers is 0; give the number of workers to reckon with"),
        (["plan", "train", "0" * 64, "--store", "{store}"], "`kosmos freeze STAGE` prints one"),
        (["export", "--run", "{web}/none", "--out", "{web}/new"], "holds no checkpoint; run `kosmos train"),
        (["generate", "--run", "{web}/none"], "give --image FILE, --prompt TEXT, or both"),
        (["generate", "--run", "{web}/none", "--prompt", "A"], "holds no checkpoint; run `kosmos train"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(
    web: tuple[Path, Truth], store: Path, words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    fill = {"web": str(web[0]), "store": str(store)}
    assert main([word.format(**fill) for word in words]) == 2
    captured = capsys.readouterr()
    assert says.format(**fill) in captured.err and captured.err.count("\n") == 1
    assert "Traceback" not in captured.err


def test_a_training_is_asked_for_by_its_flags(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, scale in ((["--scale-batch", "1/16"], 0.0625), (["--scale-batch", "2"], 2.0), ([], 1.0)):
        assert main(["train", "--recipe", "text", *words, "--show", "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["data"]["scale_batch"] == scale and found["model"]["images"] is False
    asked: dict[str, Any] = {}

    def train(config: Any, *given: Any, **options: Any) -> int:
        asked.update(options, given=given, name=config.name)
        return 0

    monkeypatch.setattr("trainer.command.train", train)
    words = "train d0 d1 --store s --out o --updates 7 --workers 8-64 --gpus-per-worker 0.5 --restarts 5 --heldout h0"
    more = "--heldout h1 --clip c --init-from i --accept-change --wandb w --extend e --union --recipe kosmos1 --json"
    assert main([*words.split(), *more.split()]) == 0
    assert asked == {
        "name": "kosmos1",
        "given": (["d0", "d1"], "s", "o"),
        "updates": 7,
        "workers": "8-64",
        "as_json": True,
        "extend": ["e"],
        "union": True,
        "heldout": ["h0", "h1"],
        "clip": "c",
        "init_from": "i",
        "accept_change": True,
        "wandb": "w",
        "gpus_per_worker": 0.5,
        "restarts": 5,
    }


def test_a_training_is_planned_and_exported_by_their_functions(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Any] = []

    def estimate(config: Any, *given: Any) -> list[str]:
        asked.append((config.name, *given))
        return ["a line", "another"]

    def export(*given: Any, **options: Any) -> str:
        asked.append((*given, options))
        return "/place"

    monkeypatch.setattr("trainer.estimate.estimate", estimate)
    monkeypatch.setattr("trainer.weights.export.export", export)
    words = ["plan", "train", "d0", "d1", "--recipe", "kosmos1", "--workers", "64", "--store", "s"]
    assert main(words) == 0
    assert capsys.readouterr().out == "a line\nanother\n"
    assert main([*words, "--gpus-per-worker", "0.5", "--device", "H200", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"lines": ["a line", "another"]}
    assert main(["export", "--run", "r", "--out", "a b", "--update", "5", "--dtype", "bf16"]) == 0
    assert (
        capsys.readouterr().out
        == "/place holds the model; next: kosmos generate --run 'a b' --prompt TEXT, or --image FILE\n"
    )
    assert asked == [
        ("kosmos1", ["d0", "d1"], "s", 64, "H100"),
        ("kosmos1", ["d0", "d1"], "s", 32, "H200"),
        ("r", "a b", {"update": 5, "dtype": "bf16", "layout": "kosmos"}),
    ]


def test_an_unwritable_store_is_exit_code_3(web: tuple[Path, Truth], capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--set", "fetch.contact=https://bot.example/", "--store", "/proc/none/store"]
    assert main(["run", "--crawl", CRAWLS[0], "--mirror", str(web[0]), *words]) == 3
    assert "a place that you can write" in capsys.readouterr().err


def extracted(web: Path, folder: Path) -> tuple[Ledger, Commit]:
    """A store with the first file extracted, and its commit."""
    ledger = Ledger(str(folder))
    ledger.check(create=True)
    recipe = interleaved(small())
    units = snapshot.units(snapshot.Inputs(crawl=CRAWLS[0], mirror=str(web)), ledger)[:1]
    run(recipe, ledger, units, InlinePool(ledger.store.url), Quiet(), Options(only="extract"))
    (commit,) = ledger.commits(recipe.stage("extract").key)
    return ledger, commit


def test_a_manifest_whose_object_is_gone_is_told(
    web: tuple[Path, Truth], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger, commit = extracted(web[0], tmp_path)
    ledger.store.delete([commit.outputs["scores"][0].path])
    words: list[Any] = ["--small", "--store", str(tmp_path)]
    assert main(["verify", *words]) == 3
    assert "is gone" in capsys.readouterr().out
    assert main(["why", web[1].kept()[0].url, *words]) == 3
    assert "run `kosmos verify`" in capsys.readouterr().err
    assert Chain(interleaved(small()), ledger).standing() == []


def test_a_damaged_file_is_found_by_verify(
    web: tuple[Path, Truth], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, commit = extracted(web[0], tmp_path)
    path = tmp_path / commit.outputs["texts"][0].path
    body = bytearray(path.read_bytes())
    body[len(body) // 2] ^= 1
    path.write_bytes(body)
    assert main(["verify", "--only", "extract", "--small", "--store", str(tmp_path), "--json"]) == 3
    (fault,) = json.loads(capsys.readouterr().out)["faults"]
    assert "other bytes than its commit says" in fault


@pytest.mark.ray
def test_run_from_the_command_line(
    small_web: SmallWeb, ray_session: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A truncated file and one that is no WARC cost their damaged records, not the run."""
    good = small_web.folder / small_web.truth.files(CRAWLS[0])[0]
    cut = tmp_path / "cut.warc.gz"
    cut.write_bytes(good.read_bytes()[: good.stat().st_size * 6 // 10 - 300])
    (tmp_path / "no.warc.gz").write_bytes(gzip.compress(b"<html>not a WARC</html>"))
    inputs = ["--input", f"{tmp_path}/*.warc.gz", "--store", str(tmp_path / "store")]
    words = ["run", *small_web.words, *inputs, "--json"]
    assert main(words) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    report = events[-1]
    assert report["event"] == "report" and all(not stage["failed"] for stage in report["stages"])
    assert main(["status", "--small", "--store", str(tmp_path / "store"), "--json"]) == 0
    counts = json.loads(capsys.readouterr().out)["stages"][0]["counts"]
    assert counts["corrupt"] >= 2 and counts["kept"] > 20
    assert main(words) == 0
    again = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [stage["committed"] for stage in again[-1]["stages"]] == [0, 0, 0]
