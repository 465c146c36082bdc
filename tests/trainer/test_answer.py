"""`kosmos generate`: a run's own words for images and texts, and one sentence for what it cannot answer."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from engine.cli import main
from engine.errors import ConfigError, KosmosError, StoreError
from engine.vocab import EOS, Vocab
from tests.trainer import shards
from tests.trainer.test_loop import CONFIG
from tests.trainer.weights.test_start import trained
from trainer.answer import answer
from trainer.checkpoints.run import Described, Run
from trainer.checkpoints.saver import Saver
from trainer.config import Quotas
from trainer.loop import adamw
from trainer.model import Kosmos
from trainer.words import Words
from trainer.world import World

MODEL = (Path(__file__).parents[2] / "pipelines/pack/bundled.model").read_bytes()
WORDS = Words(MODEL)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A run with a checkpoint of random weights that never says </s>."""
    config = replace(CONFIG, model=replace(CONFIG.model, vocab_size=WORDS.vocab.size))
    folder = Run(str(tmp_path_factory.mktemp("answer") / "run"))
    described = Described(config=config, digests=("d",), order={}, vocabulary=hashlib.sha256(MODEL).hexdigest())
    torch.manual_seed(0)
    model = Kosmos(config.model)
    with torch.no_grad():
        model.decoder.embed_tokens.weight[EOS] = 0
        for name, parameter in model.named_parameters():
            if "v_proj" in name or "out_proj" in name:
                parameter.mul_(10)  # what is attended to decides, not the last token
    with Saver(folder, World(), keep=1) as saver:
        saver.save(7, 1.0, model, adamw(model, config.optim), record=lambda: folder.create(described, MODEL))
    yield folder.place


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("images") / "a.jpg"
    path.write_bytes(shards.jpeg(1))
    return str(path)


def test_the_same_prompt_has_the_same_answer_and_another_image_another(run: str, image: str, tmp_path: Path) -> None:
    other = tmp_path / "b.jpg"
    other.write_bytes(shards.jpeg(2))
    said = answer(run, [image], "", 12)
    assert said and said == answer(run, [image], "", 12)
    assert answer(run, [str(other)], "", 12) != said
    assert answer(run, [image], "The colour is", 12)
    assert answer(run, [], "The colour is", 12)


def test_a_wide_image_can_be_shown_whole(run: str, tmp_path: Path) -> None:
    middle, ends = np.full((32, 96, 3), 255, np.uint8), np.full((32, 96, 3), 255, np.uint8)
    ends[:, :32] = ends[:, 64:] = (0, 0, 200)
    files = [str(tmp_path / name) for name in ("middle.png", "ends.png")]
    assert cv2.imwrite(files[0], middle) and cv2.imwrite(files[1], ends)
    cropped = [answer(run, [file], "", 12) for file in files]
    assert cropped[0] == cropped[1]  # the crop shows the white third alone
    whole = [answer(run, [file], "", 12, square=True) for file in files]
    assert whole[0] == cropped[0] and whole[1] != whole[0]


def test_a_model_of_text_alone_takes_no_image(image: str, tmp_path: Path) -> None:
    model = replace(CONFIG.model, vocab_size=WORDS.vocab.size, images=False)
    quotas = replace(CONFIG.data, quotas=Quotas(text=1, caption=0, interleaved=0))
    trained(tmp_path / "text", replace(CONFIG, model=model, data=quotas), tokenizer=MODEL)
    with pytest.raises(ConfigError, match=r"holds a model of text alone .*leave --image out"):
        answer(str(tmp_path / "text"), [image], "", 5)
    assert answer(str(tmp_path / "text"), [], "The colour is", 5)


def test_the_answer_is_no_longer_than_asked(run: str, image: str) -> None:
    one, four = answer(run, [image], "", 1), answer(run, [image], "", 4)
    assert four.startswith(one) and len(WORDS.encode(four)) <= 5


def test_the_command_prints_it(run: str, image: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "--run", run, "--image", image, "--max-tokens", "5"]) == 0
    said = capsys.readouterr().out.strip()
    assert main(["generate", "--run", run, "--image", image, "--max-tokens", "5", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"images": [image], "prompt": "", "text": said}


def test_what_cannot_be_answered_is_one_sentence(run: str, image: str, tmp_path: Path) -> None:
    text, empty = tmp_path / "text.jpg", tmp_path / "empty"
    text.write_text("no image")
    empty.mkdir()
    for given, sentence in (
        ((run, [], "  ", 5), "nothing to go on from"),
        ((run, [str(text)], "", 5), "cannot be decoded"),
        ((run, [str(tmp_path / "none.jpg")], "", 5), "is not a file"),
        ((run, [image, image], "", 5), "give fewer images"),
        ((run, [image], "", 100), "do not fit"),
        ((run, ["a" * 5000], "", 5), "a{200}... cannot be read .*--image"),
        ((run, [str(text) + "/b.jpg"], "", 5), "is not a file"),
        ((run, [], "caf\udce9", 5), "is not UTF-8; give --prompt"),
        ((run, [image], "", 0), "--max-tokens is 0"),
        ((str(empty), [image], "", 5), "holds no checkpoint; run `kosmos train"),
        ((str(tmp_path / "nowhere"), [image], "", 5), "holds no checkpoint"),
        ((str(tmp_path), [image], "", 5), "holds other things .* give --run the folder of another run"),
    ):
        with pytest.raises(ConfigError, match=sentence):
            answer(*given)


@pytest.mark.parametrize(
    ("body", "sentence"), [(b"{", "run.json"), (b'{"format": 1}', "has format 1"), (b'{"format": 2}', "run.json")]
)
def test_a_damaged_run_is_told_with_the_option_of_this_command(tmp_path: Path, body: bytes, sentence: str) -> None:
    (tmp_path / "run.json").write_bytes(body)
    with pytest.raises(KosmosError, match=rf"{sentence}.*give --run the folder of another run") as error:
        answer(str(tmp_path), [], "The colour is", 5)
    assert "--out" not in str(error.value)


def test_a_run_without_its_tokenizer_says_how_it_comes_back(run: str, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    (copy / "tokenizer.model").unlink()
    with pytest.raises(StoreError, match="`kosmos train` with the same words writes it again"):
        answer(str(copy), [], "The colour is", 5)


def test_words_come_back_as_they_went() -> None:
    text = "A round red barn on a green hill.\nIt is old."
    tokens = WORDS.encode(text)
    assert WORDS.vocab == Vocab(pieces=4000) and tokens.count(WORDS.vocab.line) == 1
    assert WORDS.decode([1, *tokens, WORDS.vocab.image, EOS]) == text
    assert WORDS.encode("\n \n") == []
    with pytest.raises(ConfigError, match="no SentencePiece model"):
        Words(b"nothing")
