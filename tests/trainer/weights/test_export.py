"""An export: the checkpoint's weights bit for bit, in one folder that nothing else is needed for, and only once."""

from __future__ import annotations

import contextlib
import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.errors import ConfigError, KosmosError, StoreError
from engine.store import Store
from tests.trainer import runs
from tests.trainer.weights import test_clip
from tests.trainer.weights.test_start import TEXT, TOWER, equal, trained, weights, with_model
from trainer.answer import answer
from trainer.checkpoints.run import Run
from trainer.model import Kosmos
from trainer.weights import exported, start
from trainer.weights.export import export, load
from trainer.words import Words

MODEL = (Path(__file__).parents[3] / "pipelines/pack/bundled.model").read_bytes()
SIZE = Words(MODEL).vocab.size
CONFIG = with_model(vocab_size=SIZE)
HF = with_model(vocab_size=SIZE, position="sinusoidal")


@pytest.fixture(scope="module")
def frozen(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Kosmos]:
    """A run whose tower was CLIP's and is frozen, and its model."""
    folder = tmp_path_factory.mktemp("export")
    save_file(test_clip.visual(test_clip.tower(TOWER, seed=9)), folder / "clip.safetensors")
    began = start.gather(CONFIG, str(folder / "clip.safetensors"))
    return str(folder / "run"), trained(folder / "run", CONFIG, began, tokenizer=MODEL)


@pytest.fixture(scope="module")
def sinusoidal(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Kosmos]:
    folder = tmp_path_factory.mktemp("sinusoidal")
    return str(folder / "run"), trained(folder / "run", HF, tokenizer=MODEL)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_it_is_whole_and_starts_the_same_model(frozen: tuple[str, Kosmos], tmp_path: Path) -> None:
    run, model = frozen
    place = export(run, str(tmp_path / "out"))
    assert place == str(tmp_path / "out")
    assert set(contents(tmp_path / "out")) == {"README.md", "config.json", "model.safetensors", "tokenizer.model"}
    assert equal(load_file(tmp_path / "out" / "model.safetensors"), weights(model))
    for given in (place, f"{place}/model.safetensors", f"file://{place}"):
        began = start.gather(CONFIG, init_from=given)
        assert began is not None and began.frozen and equal(began.tensors, weights(model))
        assert equal(weights(start.built(start.freeze(CONFIG, began), began.tensors)), weights(model))
    loaded, words = load(place)
    assert equal(weights(loaded), weights(model)) and words.vocab.size == SIZE
    assert equal(weights(load(run)[0]), weights(model))
    (tmp_path / "moved").mkdir()
    (tmp_path / "note").write_text("mine")
    moved = (tmp_path / "out").rename(tmp_path / "moved" / "elsewhere")
    for given in (moved, moved / "model.safetensors"):
        assert answer(str(given), [], "The colour is", 8) == answer(run, [], "The colour is", 8)
    with pytest.raises(ConfigError, match="holds other things and no training run; give --run"):
        load(str(tmp_path / "note"))


def test_the_same_checkpoint_has_the_same_bytes(frozen: tuple[str, Kosmos], tmp_path: Path) -> None:
    for name in ("a", "b"):
        export(frozen[0], str(tmp_path / name))
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_bf16_is_half_the_bytes_and_reads_back(frozen: tuple[str, Kosmos], tmp_path: Path) -> None:
    run, model = frozen
    export(run, str(tmp_path / "out"), dtype="bf16")
    held = load_file(tmp_path / "out" / "model.safetensors")
    assert all(value.dtype == torch.bfloat16 for value in held.values())
    expected = {name: value.bfloat16().float() for name, value in weights(model).items()}
    assert equal(weights(load(str(tmp_path / "out"))[0]), expected)


def test_the_card_tells_what_was_trained_on_what(frozen: tuple[str, Kosmos], tmp_path: Path) -> None:
    run, model = frozen
    export(run, str(tmp_path / "out"))
    card = (tmp_path / "out" / "README.md").read_text()
    total = sum(value.numel() for value in model.parameters())
    clip = hashlib.sha256((Path(run).parent / "clip.safetensors").read_bytes()).hexdigest()
    sha256 = hashlib.sha256((tmp_path / "out" / "model.safetensors").read_bytes()).hexdigest()
    for words in (
        f"| parameters | {total:,} |",
        "| updates | 3 of 100 |",
        "| tokens seen | 36 positions, of them 30 counted in the loss |",
        "| images seen | 6 |",
        "| loss of the last update | all 1.0000, text 2.0000 |",
        "| held out | text 3.2500 (update 2) |",
        f"a CLIP file (sha256 `{clip}`)",
        f"sha256 `{sha256}`",
        "- `d`",
        "kosmos generate --run",
    ):
        assert words in card, words
    assert "{" not in card and run not in card and str(tmp_path) not in card


def test_an_earlier_checkpoint_has_its_own_numbers(tmp_path: Path) -> None:
    trained(tmp_path / "run", CONFIG, updates=1, tokenizer=MODEL)
    later = trained(tmp_path / "run", CONFIG, updates=3, tokenizer=MODEL)
    export(str(tmp_path / "run"), str(tmp_path / "out"), update=1)
    said = exported.find(str(tmp_path / "out"))
    assert said is not None and said.said.run["update"] == 1 and said.said.run["seen"]["positions"] == 12
    assert said.said.run["heldout"] == {} and equal(said.tensors(), weights(later))
    with pytest.raises(ConfigError, match="no checkpoint of update 2; leave --update out for the newest, of update 3"):
        export(str(tmp_path / "run"), str(tmp_path / "more"), update=2)


@torch.no_grad()
@pytest.mark.parametrize("dtype", ["float32", "bf16"])
def test_transformers_loads_the_other_layout(sinusoidal: tuple[str, Kosmos], tmp_path: Path, dtype: str) -> None:
    run, model = sinusoidal
    export(run, str(tmp_path / "out"), layout="kosmos2", dtype=dtype)
    held = load_file(tmp_path / "out" / "model.safetensors")
    assert "text_model.lm_head.weight" in held and "tower.conv1.weight" not in held
    ours = load(str(tmp_path / "out"))[0].eval()
    if dtype == "float32":
        assert equal(weights(ours), weights(model))
        began = start.gather(HF, init_from=str(tmp_path / "out"))
        assert began is not None and equal(began.tensors, weights(model))
    pytest.importorskip("transformers")
    from transformers.models.kosmos2.modeling_kosmos2 import Kosmos2ForConditionalGeneration

    theirs = Kosmos2ForConditionalGeneration.from_pretrained(tmp_path / "out", dtype=torch.float32).eval()
    tokens_BT = torch.randint(4, SIZE, (1, 20))
    no_pixels, no_slots = torch.zeros((0, 3, 28, 28), dtype=torch.uint8), torch.zeros((0, 2), dtype=torch.int64)
    got_BTV = ours.logits(tokens_BT, no_pixels, no_slots)
    torch.testing.assert_close(theirs.text_model(input_ids=tokens_BT).logits, got_BTV, atol=1e-5, rtol=1e-5)
    assert theirs.config.vision_config.hidden_size == 16


def test_a_model_of_text_alone_is_exported_too(tmp_path: Path) -> None:
    config = replace(TEXT, model=replace(TEXT.model, vocab_size=SIZE))
    model = trained(tmp_path / "run", config, tokenizer=MODEL)
    export(str(tmp_path / "run"), str(tmp_path / "out"))
    assert equal(weights(load(str(tmp_path / "out"))[0]), weights(model))
    assert "none: a model of text alone" in (tmp_path / "out" / "README.md").read_text()


def test_what_cannot_be_exported_is_one_sentence(frozen: tuple[str, Kosmos], tmp_path: Path) -> None:
    run, _ = frozen
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "note").write_text("mine")
    for given, words in (
        ((run, str(tmp_path / "full")), "is not empty; give --out a new folder"),
        ((run, str(tmp_path / "a"), 0, "int8"), "--dtype is 'int8'; give it float32 or bf16"),
        ((run, str(tmp_path / "a"), 0, "bf16", "gguf"), "--layout is 'gguf'; give it kosmos or kosmos2"),
        (
            (run, str(tmp_path / "a"), 0, "bf16", "kosmos2"),
            "position sinusoidal and the run has xpos; .*--layout kosmos",
        ),
        ((str(tmp_path / "none"), str(tmp_path / "a")), "holds no checkpoint; run `kosmos train"),
        ((str(tmp_path / "full"), str(tmp_path / "a")), "holds other things and no training run; give --run"),
    ):
        with pytest.raises(ConfigError, match=words):
            export(*given)
    assert contents(tmp_path / "full") == {"note": b"mine"} and not (tmp_path / "a").exists()


def test_a_damaged_export_is_one_sentence(frozen: tuple[str, Kosmos], tmp_path: Path) -> None:
    out = tmp_path / "out"
    export(frozen[0], str(out))
    kept = contents(out)
    document = json.loads(kept["config.json"])
    for name, body, words in (
        ("model.safetensors", kept["model.safetensors"][:-1] + b"!", "model.safetensors in .* is damaged"),
        ("model.safetensors", None, "model.safetensors is not in .*; export the run again"),
        ("tokenizer.model", b"", "is gone or damaged; export"),
        ("tokenizer.model", None, "is gone or damaged; export"),
        ("config.json", json.dumps({"kosmos_engine": {"format": 1}}).encode(), "config.json .* is damaged"),
        ("config.json", json.dumps({"kosmos_engine": 5}).encode(), "config.json .* is damaged"),
        (
            "config.json",
            json.dumps({"kosmos_engine": document["kosmos_engine"] | {"format": 9}}).encode(),
            "of format 9, this version reads 1",
        ),
    ):
        if body is None:
            (out / name).unlink()
        else:
            (out / name).write_bytes(body)
        with pytest.raises(KosmosError, match=words):
            load(str(out))
        (out / name).write_bytes(kept[name])
    assert load(str(out))
    for body in (b"{", b"[" * 100_000):
        (out / "config.json").write_bytes(body)
        with pytest.raises(ConfigError, match="holds other things and no training run"):
            load(str(out))


def test_a_header_that_nests_without_end_is_one_sentence(memory: str) -> None:
    store = Store(memory)
    store.put("start.safetensors", (100_000).to_bytes(8, "little") + b"[" * 100_000)
    with pytest.raises(StoreError, match=r"start\.safetensors in .* is damaged \(RecursionError"):
        start.what(store)


def test_a_run_without_what_it_began_with_cannot_be_exported(tmp_path: Path) -> None:
    save_file(test_clip.visual(test_clip.tower(TOWER, seed=9)), tmp_path / "clip.safetensors")
    trained(tmp_path / "run", CONFIG, start.gather(CONFIG, str(tmp_path / "clip.safetensors")), tokenizer=MODEL)
    (tmp_path / "run" / start.FILE).unlink()
    with pytest.raises(StoreError, match=r"start.safetensors in .* is damaged .it is gone"):
        export(str(tmp_path / "run"), str(tmp_path / "out"))
    run = Run(str(tmp_path / "run"))
    described, latest = run.describe(), run.latest()
    assert described is not None and latest is not None
    with pytest.raises(StoreError, match=r"lacks tower.class_embedding, tower.conv1.weight, .* and \d+ more"):
        start.weights(run, replace(described, start=""), latest)


def test_an_export_that_finds_no_room_says_where_to_make_some(
    frozen: tuple[str, Kosmos], tmp_path: Path, tiny_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open(tiny_disk / "full", "wb", buffering=0) as sink, contextlib.suppress(OSError):
        while sink.write(bytes(1 << 16)):
            pass
    monkeypatch.setattr("tempfile.tempdir", str(tiny_disk))
    with pytest.raises(StoreError, match=r"cannot write weights into .*set TMPDIR to a folder with more room"):
        export(frozen[0], str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_an_object_store_holds_runs_and_exports(tmp_path: Path) -> None:
    root = f"memory:///{tmp_path.name}"
    save_file(test_clip.visual(test_clip.tower(TOWER, seed=9)), tmp_path / "clip.safetensors")
    began = start.gather(CONFIG, str(tmp_path / "clip.safetensors"))
    model = trained(f"{root}/run", CONFIG, began, tokenizer=MODEL)
    assert export(f"{root}/run", f"{root}/out") == f"{root}/out"
    again = start.gather(CONFIG, init_from=f"{root}/out")
    assert again is not None and equal(again.tensors, weights(model))
    assert again.what == (start.gather(CONFIG, init_from=f"{root}/out/model.safetensors") or again).what
    with pytest.raises(ConfigError, match="is not empty; give --out a new folder"):
        export(f"{root}/run", f"{root}/out")
    with pytest.raises(ConfigError, match="holds neither a run nor an export"):
        start.gather(CONFIG, init_from=f"{root}/nothing")


@pytest.mark.usefixtures("one_thread")
def test_a_trained_run_needs_no_other_file(data: runs.Data, tmp_path: Path) -> None:
    clip = tmp_path / "clip.safetensors"
    theirs = test_clip.tower(TOWER, seed=9)
    save_file(test_clip.visual(theirs), clip)
    config = replace(runs.TOY, model=replace(runs.TOY.model, tower=TOWER))
    runs.go(data, tmp_path / "straight", 4, config, clip=str(clip))
    runs.go(data, tmp_path / "run", 2, config, clip=str(clip))
    clip.unlink()
    runs.go(data, tmp_path / "run", 4, config)
    assert runs.losses(tmp_path / "run") == runs.losses(tmp_path / "straight")
    export(str(tmp_path / "run"), str(tmp_path / "out"))
    held = load_file(tmp_path / "out" / "model.safetensors")
    moved = {name for name, value in theirs.named_parameters() if not torch.equal(held[f"tower.{name}"], value)}
    assert moved and all(name.startswith(("resblocks.1.", "ln_post.")) for name in moved)
    runs.go(data, tmp_path / "more", 1, config, init_from=str(tmp_path / "out"))
    straight = runs.losses(tmp_path / "straight")
    assert runs.losses(tmp_path / "more")[0][1] < straight[0][1] - 0.1  # it goes on from what was learnt
