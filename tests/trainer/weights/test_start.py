"""What a run starts from: gathered, kept, frozen, laid over what chance gives, and told when it is wrong."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.errors import ConfigError, StoreError
from engine.store import Store
from tests.trainer.test_loop import CONFIG
from tests.trainer.weights import test_clip, test_kosmos2
from trainer import loop
from trainer.checkpoints.run import Described, Run
from trainer.checkpoints.saver import Saver
from trainer.config import Config, ModelConfig, Quotas, TowerConfig
from trainer.model import Kosmos
from trainer.weights import kosmos2, start
from trainer.world import World

TOKENIZER = b"a tokenizer's model"
ORDER = {"pieces": [{"first_update": 1, "digests": ["d"], "streams": [], "seed": 0, "order": "blocks"}]}
TOWER = TowerConfig(image_size=28, patch=14, width=16, layers=2, heads=2, ffn_dim=32)
TOY = replace(CONFIG, model=replace(CONFIG.model, tower=TOWER))

TEXT = replace(
    TOY,
    model=replace(TOY.model, images=False),
    data=replace(TOY.data, quotas=Quotas(text=2, caption=0, interleaved=0)),
)


def with_model(**changes: Any) -> Config:
    return replace(TOY, model=replace(TOY.model, **changes))


def trained(
    place: Path | str, config: Config, began: start.Start | None = None, updates: int = 3, tokenizer: bytes = TOKENIZER
) -> Kosmos:
    """A run with a checkpoint of a model that is not the one that it began with."""
    run = Run(str(place))
    config = start.freeze(config, began)
    sha256 = start.put(run.store, began) if began else ""
    model = start.built(config, began.tensors if began else None)
    with torch.no_grad(), loop.seeded(torch.device("cpu"), "trained"):
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.05)
    described = Described(
        config=config,
        digests=("d",),
        order=ORDER,
        vocabulary=hashlib.sha256(tokenizer).hexdigest(),
        start=sha256,
    )
    lines = [
        {"update": number, "loss": 4.0 - number, "losses": {"text": 5.0 - number}, "counted": 10, "positions": 12}
        | {"images": 2, "heldout": {"text": 3.25} if number == 2 else {}}
        for number in range(1, updates + 1)
    ]
    with Saver(run, World(), keep=3) as saver:
        optimizer = loop.adamw(model, config.optim)
        saver.save(updates, 1.0, model, optimizer, lines, lambda: run.create(described, tokenizer))
    return model


def equal(found: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> bool:
    return set(found) == set(expected) and all(torch.equal(value, expected[name]) for name, value in found.items())


@pytest.fixture
def clip(tmp_path: Path) -> str:
    path = tmp_path / "clip.safetensors"
    save_file(test_clip.visual(test_clip.tower(TOWER, seed=9)), path)
    return str(path)


def weights(model: Kosmos) -> dict[str, torch.Tensor]:
    return {name: value.detach() for name, value in model.named_parameters()}


def test_without_words_there_is_nothing_and_the_weights_are_chance_s() -> None:
    assert start.gather(TOY) is None
    with loop.seeded(torch.device("cpu"), "weights", TOY.seed):
        expected = Kosmos(TOY.model)
    assert equal(weights(start.built(TOY)), weights(expected))
    assert start.freeze(TOY, None).model.freeze_tower == "no"


def test_clip_s_tower_is_laid_over_and_frozen(clip: str) -> None:
    began = start.gather(TOY, clip)
    assert began is not None and began.frozen
    assert began.what == {"clip": hashlib.sha256(Path(clip).read_bytes()).hexdigest()}
    config = start.freeze(TOY, began)
    assert config.model.freeze_tower == "yes"
    model = start.built(config, began.tensors)
    chance, clips = weights(start.built(TOY)), weights(test_clip.tower(TOWER, seed=9))
    for name, value in weights(model).items():
        theirs = clips.get(name.removeprefix("tower."))
        assert torch.equal(value, theirs if name.startswith("tower.") and theirs is not None else chance[name]), name
    assert model.frozen
    still = {name for name, value in model.named_parameters() if not value.requires_grad}
    assert "tower.conv1.weight" in still and "tower.resblocks.0.ln_1.bias" in still
    assert not any(name.startswith(("tower.resblocks.1.", "tower.ln_post")) for name in still)
    assert start.freeze(with_model(freeze_tower="no"), began).model.freeze_tower == "no"
    assert not start.built(start.freeze(with_model(freeze_tower="no"), began), began.tensors).frozen


def test_a_random_tower_is_never_frozen(clip: str) -> None:
    for began in (None, start.Start(tensors={"decoder.layer_norm.bias": torch.ones(16)}, what={}, frozen=True)):
        with pytest.raises(ConfigError, match=r"would never learn to see; give --clip FILE"):
            start.freeze(with_model(freeze_tower="yes"), began)
        assert start.freeze(TOY, began).model.freeze_tower == "no"
    with pytest.raises(ConfigError, match="leave --clip out"):
        start.gather(TEXT, clip)


def test_of_two_that_begin_in_one_folder_with_other_weights_one_is_refused(
    clip: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    began = start.gather(TOY, clip)
    assert began is not None
    mine, theirs = Store(str(tmp_path / "run")), Store(str(tmp_path / "run"))
    put_file = Store.put_file

    def meanwhile(store: Store, path: str, source: Path) -> None:
        with pytest.raises(
            StoreError, match=r"keeps another start.safetensors, .* delete it and start.safetensors.sha"
        ):
            start.put(theirs, replace(began, what={"clip": "0"}))
        put_file(store, path, source)

    monkeypatch.setattr(Store, "put_file", meanwhile)
    sha256 = start.put(mine, began)
    assert equal(start.get(mine, sha256), began.tensors)
    start.check_claim(mine, sha256)
    start.check_claim(mine, "")
    with pytest.raises(ConfigError, match=r"keeps another start\.safetensors by now"):
        start.check_claim(mine, "0" * 64)
    mine.delete([start.CLAIM])
    with pytest.raises(ConfigError, match=r"keeps another start\.safetensors by now"):
        start.check_claim(mine, sha256)


def test_a_run_keeps_what_it_began_with(clip: str, tmp_path: Path) -> None:
    began = start.gather(TOY, clip)
    assert began is not None
    store = Store(str(tmp_path / "run"))
    sha256 = start.put(store, began)
    assert sha256 == start.put(store, began) == hashlib.sha256((tmp_path / "run" / start.FILE).read_bytes()).hexdigest()
    assert equal(start.get(store, sha256), began.tensors)
    assert equal(load_file(tmp_path / "run" / start.FILE), began.tensors)
    some = start.get(store, sha256, only=("tower.ln_pre", "tower.conv1"))
    assert set(some) == {"tower.ln_pre.weight", "tower.ln_pre.bias", "tower.conv1.weight"}
    assert start.get(store, "") == {} and start.what(store)["clip"] == began.what["clip"]
    other = replace(began, what={"clip": "0"})
    with pytest.raises(StoreError, match=r"keeps another start.safetensors, .* give --out a new folder"):
        start.put(store, other)
    assert (tmp_path / "run" / start.CLAIM).read_text() == f"{sha256}  {start.FILE}\n"
    start.check(store, sha256, clip, "")
    save_file(test_clip.visual(test_clip.tower(TOWER, seed=8)), clip)
    with pytest.raises(ConfigError, match="began with another --clip than"):
        start.check(store, sha256, clip, "")
    with pytest.raises(ConfigError, match="began without --init-from; leave it out"):
        start.check(store, sha256, "", clip)
    with pytest.raises(ConfigError, match="began without --clip"):
        start.check(store, "", clip, "")


def test_what_a_run_keeps_and_is_damaged_is_one_sentence(clip: str, tmp_path: Path) -> None:
    began = start.gather(TOY, clip)
    assert began is not None
    store = Store(str(tmp_path / "run"))
    sha256 = start.put(store, began)
    path = tmp_path / "run" / start.FILE
    body = path.read_bytes()
    for damaged in (body[:-1], body[:50] + b"!" + body[51:], b"", b"\xff" * 64):
        path.write_bytes(damaged)
        with pytest.raises(StoreError, match=r"start.safetensors in .* is damaged .*put back what the run began with"):
            start.get(store, sha256)
    for damaged in (b"", b"\xff" * 64, body[:8] + b"!" * 100):
        path.write_bytes(damaged)
        with pytest.raises(StoreError, match="is damaged"):
            start.what(store)
    path.unlink()
    for ask in (lambda: start.get(store, sha256), lambda: start.what(store)):
        with pytest.raises(StoreError, match="it is gone"):
            ask()


def test_a_run_starts_from_another_s_newest_checkpoint(clip: str, tmp_path: Path) -> None:
    began = start.gather(TOY, clip)
    model = trained(tmp_path / "a", TOY, began)
    assert model.frozen
    # what is frozen is in no checkpoint, and is found all the same
    run = Run(str(tmp_path / "a"))
    latest = run.latest()
    assert latest is not None and "tower.conv1.weight" not in run.tensors(latest)
    again = start.gather(with_model(dropout=0.5), init_from=str(tmp_path / "a"))
    assert again is not None and again.frozen and equal(again.tensors, weights(model))
    assert again.what["update"] == "3" and again.vocabulary == hashlib.sha256(TOKENIZER).hexdigest()
    assert start.gather(TOY, init_from=str(tmp_path / "a"), vocabulary=again.vocabulary) is not None
    with pytest.raises(ConfigError, match="has another tokenizer than these manifests"):
        start.gather(TOY, init_from=str(tmp_path / "a"), vocabulary="0" * 64)
    config = start.freeze(TOY, again)
    assert config.model.freeze_tower == "yes" and equal(weights(start.built(config, again.tensors)), weights(model))
    start.check(run.store, "", "", "")
    kept = start.put(Store(str(tmp_path / "b")), again)
    start.check(Store(str(tmp_path / "b")), kept, "", str(tmp_path / "a"))
    both = start.gather(TOY, clip, str(tmp_path / "a"))
    assert both is not None and set(both.what) == {"clip", "init_from", "update"}
    assert torch.equal(both.tensors["tower.ln_post.bias"], began.tensors["tower.ln_post.bias"])
    assert torch.equal(both.tensors["decoder.layer_norm.bias"], model.decoder.layer_norm.bias)
    (tmp_path / "a" / start.FILE).unlink()
    with pytest.raises(StoreError, match="it is gone"):
        start.gather(TOY, init_from=str(tmp_path / "a"))


def test_text_alone_and_images_start_from_each_other(tmp_path: Path) -> None:
    alone = trained(tmp_path / "text", TEXT)
    began = start.gather(TOY, init_from=str(tmp_path / "text"))
    assert began is not None and equal(began.tensors, weights(alone))
    model = start.built(start.freeze(TOY, began), began.tensors)
    assert torch.equal(model.decoder.layer_norm.bias, alone.decoder.layer_norm.bias) and not model.frozen
    assert torch.equal(model.connector.latent_query, start.built(TOY).connector.latent_query)
    seeing = trained(tmp_path / "images", TOY)
    began = start.gather(TEXT, init_from=str(tmp_path / "images"))
    assert began is not None and all(name.startswith("decoder.") for name in began.tensors)
    assert torch.equal(began.tensors["decoder.layer_norm.bias"], seeing.decoder.layer_norm.bias)
    assert set(weights(start.built(TEXT, began.tensors))) == set(began.tensors)


def test_kosmos_2_is_known_by_its_names(tmp_path: Path) -> None:
    model: ModelConfig = replace(test_kosmos2.TOY, vocab_size=64_007)
    torch.manual_seed(2)
    theirs = weights(Kosmos(test_kosmos2.TOY))
    path = tmp_path / "model.safetensors"
    save_file({name: value.clone() for name, value in kosmos2.renamed(theirs).items()}, path)
    config = replace(TOY, model=model)
    for place in (path, tmp_path):
        began = start.gather(config, init_from=str(place))
        assert began is not None and not began.frozen
        built = start.built(start.freeze(config, began), began.tensors)
        assert torch.equal(built.decoder.embed_tokens.weight, theirs[kosmos2.EMBEDDING][:64_007])
        assert began.what["init_from"] == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"heads": 4, "connector_heads": 4}, "add --set model.heads=2 --set model.connector_heads=2, or give --init"),
        ({"position": "sinusoidal"}, "add --set model.position=xpos"),
        ({"tower": replace(TOWER, layers=1)}, "add --set model.tower.layers=2"),
        ({"vocab_size": 41}, "has 40 words and these manifests 41; pack with its tokenizer.model"),
    ],
)
def test_another_model_names_what_to_set(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    trained(tmp_path / "a", TOY)
    with pytest.raises(ConfigError, match=words):
        start.gather(with_model(**changes), init_from=str(tmp_path / "a"))


def test_what_is_nothing_to_start_from_is_one_sentence(tmp_path: Path, clip: str) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    bare = tmp_path / "bare"
    described = Described(config=TOY, digests=("d",), order=ORDER, vocabulary=hashlib.sha256(TOKENIZER).hexdigest())
    Run(str(bare)).create(described, TOKENIZER)
    (tmp_path / "text.pt").write_text("no weights")
    for place, words in (
        (tmp_path / "text.pt", "neither a safetensors file nor"),
        (empty, "holds neither model.safetensors"),
        (tmp_path / "nowhere", "is not there; give the path"),
        (tmp_path / "nowhere.safetensors", "is not there; give the path"),
        (clip, "is neither an export, nor a run, nor KOSMOS-2; give --init-from"),
        (bare, "is a run without a checkpoint; give --init-from"),
        (f"file://{empty}", "holds neither a run nor an export; give --init-from"),
    ):
        with pytest.raises(ConfigError, match=words):
            start.gather(TOY, init_from=str(place))


def test_tensors_that_are_not_the_model_s_are_refused() -> None:
    for tensors in ({"decoder.layer_norm.bias": torch.ones(3)}, {"decoder.nothing": torch.ones(16)}):
        with pytest.raises(ConfigError, match="in what the run starts from and"):
            start.built(TOY, tensors)
