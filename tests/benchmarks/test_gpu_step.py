"""That the benchmark for a GPU runs: its file is what the loader gives, and measuring needs torch alone."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from engine.errors import ConfigError
from engine.vocab import STREAMS
from tests.benchmarks import gpu_step
from tests.trainer.runs import Data, packed

ROOT = Path(__file__).parent.parent.parent
# what the project has beside torch and numpy
ABSENT = ("ray", "pyarrow", "obstore", "numba", "cv2", "PIL", "sentencepiece", "safetensors", "tensorboardX", "xxhash")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    return packed(str(tmp_path_factory.mktemp("training") / "store"))


@pytest.fixture(scope="module")
def file(data: Data, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gpu") / "batches.safetensors"
    gpu_step.write(path, data.store, data.digest, 1 / 256)
    return path


def test_the_file_is_safetensors_and_comes_back_as_it_was(file: Path) -> None:
    batches, vocab_size = gpu_step.read(file)
    assert vocab_size == 100
    assert {stream: sum(len(b.rows) for b in batches if b.stream == stream) for stream in STREAMS} == {
        "text": 4,  # one row, and three of padding
        "caption": 64,
        "interleaved": 4,
    }
    with safe_open(file, "pt") as opened:
        for number, batch in enumerate(batches):
            for part in gpu_step.PARTS:
                value = opened.get_tensor(f"{number:04d}.{batch.stream}.{part}")
                assert torch.equal(value.to(getattr(batch, part).dtype), getattr(batch, part))
    assert sum(len(batch.slots_N2) for batch in batches) == 25
    assert all(int(batch.counted_BT.sum()) for batch in batches)


def test_smaller_micro_batches_hold_the_same_rows(file: Path) -> None:
    batches, _ = gpu_step.read(file)
    rows = {"text": 1, "caption": 5, "interleaved": 1}
    smaller = list(gpu_step.pieces(batches, rows))
    assert [len(batch.rows) for batch in smaller if batch.stream == "caption"] == [5] * 12 + [4]
    for name in ("counted_BT", "slots_N2", "pixels_NCHW"):
        for stream in STREAMS:
            sums = [
                sum(int(getattr(batch, name).long().sum()) for batch in given if batch.stream == stream)
                for given in (batches, smaller)
            ]
            if name != "slots_N2":  # which count rows from the micro-batch's first
                assert sums[0] == sums[1]
    for batch in smaller:
        image = batch.tokens_BT[batch.slots_N2[:, 0], batch.slots_N2[:, 1]]
        assert set(image.tolist()) <= {96}  # <image>


def test_full_rows_are_full(file: Path) -> None:
    batches, _ = gpu_step.read(file)
    text = gpu_step.filled(next(gpu_step.pieces(batches, {"text": 1, "caption": 1, "interleaved": 1})))
    assert text.tokens_BT.shape == (1, 2048)
    assert int((text.tokens_BT != 1).sum()) == 2048 and text.counted == 2047


def test_a_file_that_is_too_large_is_one_sentence(data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_step, "MOST_BYTES", 1 << 20)
    with pytest.raises(ConfigError, match="give a lower --scale"):
        gpu_step.write(tmp_path / "file", data.store, data.digest, 1 / 256)
    assert not (tmp_path / "file").exists()


def test_measuring_needs_torch_alone(file: Path, tmp_path: Path) -> None:
    words = ["--here", "--read", str(file), "--only", "update", "--small", "--json", str(tmp_path / "out")]
    script = (
        "import sys\n"
        f"sys.modules.update(dict.fromkeys({ABSENT!r}))\n"  # None there: an import of it fails
        "from tests.benchmarks.gpu_step import main\n"
        f"main({words!r})\n"
    )
    environment = {"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=150
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("update: ")
    found = json.loads((tmp_path / "out").read_text())
    assert found["images_per_s"] > 0 and found["mfu"] is None and found["compiled"] == 0
    assert found["losses"][-1] < found["losses"][0] * 1.1


def test_the_decoder_alone_sees_no_images_and_no_padding(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = argparse.Namespace(read=file, small=True, repeat=4, micro_batch="4,16,4", trace=True)
    found = gpu_step.measured("decoder-eager", given)
    assert found["images_per_s"] == 0 and found["padding"] == 0 and found["positions"] == 128
    assert "aten::" in capsys.readouterr().out  # what the time went to
    assert "decoder-eager: " in gpu_step.told(found)


def test_the_same_device_computes_the_same(file: Path) -> None:
    found = gpu_step.parity(file, True)
    assert found["worst"] == 0
    assert gpu_step.told(found).endswith("2 updates: losses at most 0.0e+00 apart (relative), the first 0.0e+00")
