"""A run without a face: to the end, cut off and resumed, killed, refused, with more data."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from engine.config import override
from engine.errors import ConfigError, StoreError
from tests.trainer import shards
from tests.trainer.runs import TOY, Data, go, losses, packed, weights
from trainer import loop
from trainer.checkpoints.run import Run
from trainer.fit import fit
from trainer.weights import start

ROOT = Path(__file__).parent.parent.parent
pytestmark = pytest.mark.usefixtures("one_thread", "plain_environment")


# to the end ---------------------------------------------------------------------------------------------------------
def test_a_run_cut_in_three_is_the_whole_one_bit_for_bit(data: Data, tmp_path: Path) -> None:
    whole = go(data, tmp_path / "whole", 7)
    assert (whole.update, whole.interrupted) == (7, False)
    for updates in (3, 4, 7):
        seen: list[int] = []
        go(data, tmp_path / "cut", updates, report=lambda metrics, seen=seen: seen.append(metrics.update))
        assert seen[-1] == updates
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    assert [update for update, _ in losses(tmp_path / "whole")] == [1, 2, 3, 4, 5, 6, 7]
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")


def test_a_run_says_what_it_was_made_of(data: Data, tmp_path: Path) -> None:
    go(data, tmp_path / "run", 1)
    described = Run(str(tmp_path / "run")).describe()
    assert described is not None
    model = replace(TOY.model, vocab_size=shards.VOCAB.size, freeze_tower="no")
    assert described.config == replace(TOY, model=model)
    assert described.digests == (data.digest,)
    assert described.vocabulary == hashlib.sha256(shards.MODEL).hexdigest()
    assert Run(str(tmp_path / "run")).tokenizer(described) == shards.MODEL


@pytest.mark.s3
def test_a_run_and_its_data_in_a_bucket(s3: str, data: Data, tmp_path: Path) -> None:
    remote = packed(s3)
    go(remote, f"{s3}-run", 2)
    go(remote, f"{s3}-run", 4)
    go(data, tmp_path / "run", 4)
    assert losses(f"{s3}-run") == losses(tmp_path / "run")
    assert weights(f"{s3}-run") == weights(tmp_path / "run")


def test_a_checkpoint_that_is_damaged_stops_the_run(data: Data, tmp_path: Path) -> None:
    go(data, tmp_path / "run", 3)
    (file,) = (tmp_path / "run" / "checkpoints" / "00000003").glob("*.safetensors")
    body = bytearray(file.read_bytes())
    body[len(body) // 2] ^= 1
    file.write_bytes(body)
    with pytest.raises(StoreError, match=r"delete .*00000003/complete.json to"):
        go(data, tmp_path / "run", 5)
    (tmp_path / "run" / "checkpoints" / "00000003" / "complete.json").unlink()
    go(data, tmp_path / "run", 5)
    go(data, tmp_path / "whole", 5)
    assert weights(tmp_path / "run") == weights(tmp_path / "whole")
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")


def test_a_refusal_before_the_first_checkpoint_leaves_no_run(data: Data, tmp_path: Path) -> None:
    text = override(TOY, ["data.quotas.caption=0", "data.quotas.interleaved=0", "checkpoint_every=100"])
    short = override(text, ["model.max_length=14"])  # three of the thirty rows have 15: some updates run before one
    seen: list[loop.Metrics] = []
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"has 15 tokens and model\.max_length is 14; raise it"):
            go(data, tmp_path / "run", 40, config=short, report=seen.append)
        assert seen and Run(str(tmp_path / "run")).describe() is None
    go(data, tmp_path / "run", 2, config=text)
    go(data, tmp_path / "whole", 2, config=text)
    assert weights(tmp_path / "run") == weights(tmp_path / "whole")


def test_a_run_whose_checkpoints_are_gone_says_that_it_begins_again(data: Data, tmp_path: Path) -> None:
    go(data, tmp_path / "run", 2)
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    notes: list[str] = []
    go(data, tmp_path / "run", 2, note=notes.append)
    assert notes == [f"{tmp_path / 'run'} holds no complete checkpoint: it begins again at update 1"]


def test_another_config_and_a_foreign_folder_are_refused(data: Data, tmp_path: Path) -> None:
    go(data, tmp_path / "run", 1)
    with pytest.raises(ConfigError, match=r"optim.lr is 0.5 here and 0.01 in the run .*--out"):
        go(data, tmp_path / "run", 2, config=replace(TOY, optim=replace(TOY.optim, lr=0.5)))
    with pytest.raises(ConfigError, match="was begun on"):
        fit(TOY, [data.more], data.store, str(tmp_path / "run"), 2)
    with pytest.raises(ConfigError, match="holds other things"):
        go(data, data.store, 1)


# on other words -----------------------------------------------------------------------------------------------------
def test_a_change_that_is_accepted_holds_from_there_on(data: Data, tmp_path: Path) -> None:
    out, slower = tmp_path / "run", override(TOY, ["optim.lr=0.001"])
    go(data, out, 2)
    with pytest.raises(ConfigError, match=r"optim.lr is 0.001 here and 0.01 in the run .* --accept-change"):
        go(data, out, 4, config=slower)
    notes: list[str] = []
    go(data, out, 4, config=slower, accept_change=True, note=notes.append)
    assert "optim.lr was 0.01 and is 0.001 from here on" in notes
    go(data, out, 5, config=slower)  # it is the run's now
    rates = [line["lr"] for line in Run(str(out)).metrics()]
    assert rates == [config.optim.lr_at(n) for n, config in enumerate([TOY, TOY, slower, slower, slower], start=1)]
    with pytest.raises(ConfigError, match=r"optim.lr is 0.01 here and 0.001 in the run"):
        go(data, out, 6)
    with pytest.raises(ConfigError, match=r"model\.dim is 8 here and 16 in the run [^;]*; give --out a new folder, or"):
        go(data, out, 6, config=override(slower, ["model.dim=8", "model.heads=2"]), accept_change=True)


def test_what_is_held_out_is_looked_at_and_trained_on_by_nobody(data: Data, tmp_path: Path) -> None:
    images = [shards.jpeg(number) for number in range(40, 44)]
    rows = {"text": [shards.rows_of(5, 3)], "caption": [[shards.caption(image, 7, 8) for image in images]]}
    heldout = shards.pack(data.store, [rows], key="heldout-0")
    looked = override(TOY, ["heldout.every=2"])
    seen: list[loop.Metrics] = []
    go(data, tmp_path / "run", 5, config=looked, heldout=[heldout], report=seen.append)
    assert [sorted(metrics.heldout) for metrics in seen] == [
        [],
        ["caption", "caption_permuted", "text"],
        [],
        ["caption", "caption_permuted", "text"],
        ["caption", "caption_permuted", "text"],
    ]
    go(data, tmp_path / "plain", 5)
    assert weights(tmp_path / "run") == weights(tmp_path / "plain")
    with pytest.raises(ConfigError, match="held out"):
        fit(TOY, [heldout], data.store, str(tmp_path / "other"), 1)
    other = shards.pack(f"{tmp_path}/store", [rows], key="heldout-0", model=b"another")
    with pytest.raises(ConfigError, match=r"holds nothing|no manifest"):
        go(data, tmp_path / "run", 6, config=looked, heldout=[other])


def test_a_run_without_images_has_no_tower(data: Data, tmp_path: Path) -> None:
    words = override(TOY, ["model.images=false", "data.quotas.caption=0", "data.quotas.interleaved=0"])
    go(data, tmp_path / "run", 2, config=words)
    assert all(name.startswith("decoder.") for name in weights(tmp_path / "run"))
    with pytest.raises(ConfigError, match=r"model\.images is false.*data\.quotas"):
        go(data, tmp_path / "other", 2, config=override(TOY, ["model.images=false"]))


def test_a_run_from_another_ones_weights_needs_it_no_more(data: Data, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    go(data, first, 3)
    notes: list[str] = []
    go(data, second, 1, init_from=str(first), config=override(TOY, ["optim.lr=1e-9"]), note=notes.append)
    before, after = (Run(str(out)).tensors(Run(str(out)).latest(), "model.") for out in (first, second))
    assert all((before[name] - after[name]).abs().max() < 1e-6 for name in before)
    go(data, second, 2, init_from=str(first), config=override(TOY, ["optim.lr=1e-9"]))  # the same command resumes
    first.rename(tmp_path / "gone")
    go(data, second, 3, config=override(TOY, ["optim.lr=1e-9"]))
    assert "the weights begin with those of --init-from" in notes
    with pytest.raises(ConfigError, match="began without --init-from"):
        go(data, tmp_path / "gone", 4, init_from=str(second))


def test_a_run_whose_start_another_one_replaced_is_not_written_down(data: Data, tmp_path: Path) -> None:
    go(data, tmp_path / "first", 1)
    out = tmp_path / "second"

    def replace_it(_: loop.Metrics) -> None:
        (out / start.CLAIM).write_text(f"{'0' * 64}  {start.FILE}\n")

    with pytest.raises(ConfigError, match=r"keeps another start\.safetensors by now than this run began with"):
        go(data, out, 2, init_from=str(tmp_path / "first"), report=replace_it)
    assert Run(str(out)).describe() is None


# more data ----------------------------------------------------------------------------------------------------------
def test_added_data_counts_from_the_next_update_and_stays(data: Data, tmp_path: Path) -> None:
    notes: list[str] = []
    out = tmp_path / "run"
    go(data, out, 2)
    go(data, out, 4, extend=[data.more], note=notes.append)
    assert any("data added from update 3 on" in text for text in notes)
    go(data, out, 5, extend=[data.more])  # the same command resumes
    go(data, out, 6)  # and so does the one without
    (piece,) = Run(str(out)).orders().values()
    assert [entry["first_update"] for entry in piece["pieces"]] == [1, 3]

    plain = tmp_path / "plain"
    go(data, plain, 6)
    assert losses(out)[:2] == losses(plain)[:2]
    assert losses(out)[2:] != losses(plain)[2:]

    mixed = tmp_path / "mixed"
    go(data, mixed, 2)
    go(data, mixed, 6, extend=[data.more], union=True)
    assert losses(mixed)[2:] != losses(out)[2:]


def test_data_is_added_once_an_update_draws_from_it(data: Data, tmp_path: Path) -> None:
    out = tmp_path / "run"
    go(data, out, 2)
    notes: list[str] = []
    go(data, out, 2, extend=[data.more], note=notes.append)
    assert Run(str(out)).orders() == {} and notes == [f"no data is added: {out} is at update 2 already"]
    with pytest.raises(ConfigError, match="micro_batch"):  # refused before its first update: nothing is added either
        go(data, out, 4, extend=[data.more], config=override(TOY, [f"data.micro_batch.text={2**40}"]))
    assert Run(str(out)).orders() == {}
    go(data, out, 3)
    go(data, out, 4, extend=[data.more], union=True)
    assert list(Run(str(out)).orders()) == [4]


@pytest.mark.parametrize("union", [False, True])
def test_data_that_was_added_one_way_is_not_added_the_other_way(data: Data, tmp_path: Path, union: bool) -> None:
    out = tmp_path / "run"
    go(data, out, 1)
    go(data, out, 2, extend=[data.more], union=union)
    with pytest.raises(ConfigError, match=r"took in these manifests (with|without) --union, from update 2 on"):
        go(data, out, 3, extend=[data.more], union=not union)
    go(data, out, 3, extend=[data.more], union=union)
    go(data, out, 4, extend=[data.digest])  # had from the beginning: nothing is added, nothing differs
    go(data, out, 5)


def test_a_run_that_another_process_began_meanwhile_with_other_data_is_not_overwritten(
    data: Data, tmp_path: Path
) -> None:
    out, other = tmp_path / "run", override(TOY, ["data.seed=5", "checkpoint_every=1"])

    def begin(metrics: loop.Metrics) -> None:
        if metrics.update == 1:
            go(data, out, 1, config=other)

    with pytest.raises(ConfigError, match=r"data\.seed is 0 here and 5 in the run"):
        go(data, out, 4, report=begin)
    assert [update for update, _ in losses(out)] == [1]


def test_a_finished_run_goes_on_with_other_data_and_a_longer_schedule(data: Data, tmp_path: Path) -> None:
    out = tmp_path / "run"
    short = override(TOY, ["optim.total_updates=3"])
    go(data, out, 0, config=short)
    with pytest.raises(ConfigError, match=r"--set optim.total_updates=N"):
        go(data, out, 5, config=short)
    notes: list[str] = []
    captions = override(TOY, ["optim.total_updates=5", "data.quotas.text=0", "data.quotas.interleaved=0"])
    go(data, out, 4, config=captions, extend=[data.more], note=notes.append)
    assert any("optim.total_updates was 3 and is 5" in text for text in notes)
    described = Run(str(out)).describe()
    assert described is not None and described.config.optim.total_updates == 5, "it is written down"
    go(data, out, 5, config=override(captions, ["checkpoint_every=1", "data.micro_batch.caption=3"]))
    lines = list(Run(str(out)).metrics())
    assert [sorted(line["losses"]) for line in lines[2:]] == [
        ["caption", "interleaved", "text"],
        ["caption"],
        ["caption"],
    ]
    with pytest.raises(ConfigError, match=r"data.quotas.text is 2 here and 0 in the run"):
        go(data, out, 5, config=override(TOY, ["optim.total_updates=5"]))
    with pytest.raises(ConfigError, match="--union says how new rows are mixed in"):
        go(data, out, 5, config=captions, union=True)


# cut off ------------------------------------------------------------------------------------------------------------
SCRIPT = """
import sys
from tests.trainer.runs import TOY
from trainer.fit import fit

digest, store, out, updates = sys.argv[1:]
fit(TOY, [digest], store, out, int(updates), lambda metrics: print(metrics.update, flush=True))
"""


def test_a_run_that_is_killed_resumes_to_the_same_weights(data: Data, tmp_path: Path) -> None:
    last = 30
    at = random.randrange(3, last - 5)
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, data.digest, data.store, str(tmp_path / "killed"), str(last)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
    ) as victim:
        assert victim.stdout is not None
        for line in victim.stdout:
            if int(line) == at:
                victim.kill()
        assert victim.wait(60) == -signal.SIGKILL
    latest = Run(str(tmp_path / "killed")).latest()
    assert latest is not None and latest.update < last
    go(data, tmp_path / "killed", last)
    go(data, tmp_path / "whole", last)
    assert weights(tmp_path / "killed") == weights(tmp_path / "whole"), f"killed at update {at}"
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole"), f"killed at update {at}"
