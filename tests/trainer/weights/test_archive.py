"""PyTorch's archives as data: the same tensors as torch loads, and nothing that an archive says is ever run."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from engine.errors import ConfigError
from trainer.weights.tensors import opened

# torch.jit is on its way out, CLIP's file is not
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


class Leaf(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 2, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(4))
        self.numbers = [1, 2]
        self.named = {"a": torch.ones(1)}
        self.register_buffer("table", torch.arange(6).view(2, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv1(x) + self.class_embedding.view(-1, 1, 1)


class Tree(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.visual = Leaf()
        self.again = self.visual.conv1
        self.logit_scale = nn.Parameter(torch.ones([]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.visual(x) * self.logit_scale


def loaded(path: Path) -> dict[str, torch.Tensor]:
    with opened(path) as file:
        return {name: file.load(name) for name in file.shapes}


def same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    return set(ours) == set(theirs) and all(
        ours[name].dtype == value.dtype and torch.equal(ours[name], value) for name, value in theirs.items()
    )


@pytest.mark.parametrize("half", [False, True])
def test_a_torchscript_archive_has_the_tensors_that_torch_finds(tmp_path: Path, half: bool) -> None:
    tree = Tree().half() if half else Tree()
    path = tmp_path / "tree.pt"
    torch.jit.save(torch.jit.script(tree), path)
    theirs = dict(torch.jit.load(path).state_dict())
    ours = loaded(path)
    assert ours.pop("visual.named.a").tolist() == [1]
    assert same(ours, theirs)


def test_a_state_dict_has_the_tensors_that_torch_loads(tmp_path: Path) -> None:
    whole = torch.arange(24.0)
    state = {
        "a": whole.view(4, 6),
        "b": whole[8:].view(4, 4).t(),
        "c": nn.Parameter(torch.randn(3).bfloat16()),
        "d": torch.zeros(0, 5),
        "e": torch.tensor(7),
    }
    torch.save(state, tmp_path / "state.pt")
    assert same(loaded(tmp_path / "state.pt"), state)
    module = nn.Linear(3, 2)
    torch.save(module.state_dict(), tmp_path / "module.pt")
    assert same(loaded(tmp_path / "module.pt"), module.state_dict())
    optimizer = torch.optim.AdamW(module.parameters())
    module(torch.ones(3)).sum().backward()
    optimizer.step()
    whole_run = {"epoch": 3, "state_dict": {f"module.{n}": v for n, v in module.state_dict().items()}}
    torch.save(whole_run | {"optimizer": optimizer.state_dict()}, tmp_path / "run.pt")
    assert same(loaded(tmp_path / "run.pt"), dict(module.state_dict()))


class Evil:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self.target}",)


def archive(path: Path, body: bytes, files: dict[str, bytes] | None = None, how: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", how) as sink:
        sink.writestr("a/data.pkl", body)
        for name, inner in (files or {}).items():
            sink.writestr(f"a/{name}", inner)
    return path


def test_what_an_archive_would_run_is_not_run(tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    for number, evil in enumerate((Evil(touched), {"visual.conv1.weight": Evil(touched)}, [Evil(touched)])):
        for protocol in (2, 4):
            path = archive(tmp_path / f"{number}.{protocol}.pt", pickle.dumps(evil, protocol))
            with pytest.raises(ConfigError, match=r"damaged \(.*(would run|instruction)"), opened(path):
                pass
    torch.save({"a": torch.ones(2), "b": Evil(touched)}, tmp_path / "saved.pt")
    torch.save({"a": Evil(touched)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    for name, words in (("saved", "would run"), ("old", "neither a safetensors file nor a zipped")):
        with pytest.raises(ConfigError, match=words), opened(tmp_path / f"{name}.pt"):
            pass
    assert not touched.exists()


def test_what_is_no_archive_of_weights_is_one_sentence(tmp_path: Path) -> None:
    good = io.BytesIO()
    torch.save({"a": torch.ones(4)}, good)
    with zipfile.ZipFile(good) as source:
        members = {name.partition("/")[2]: source.read(name) for name in source.namelist()}
    body = members.pop("data.pkl")
    deep: dict[str, Any] = {}
    laughs: dict[str, Any] = {}
    for _ in range(100):
        deep = {"a": deep}
    for _ in range(30):
        laughs = {"a": laughs, "b": laughs}  # 31 dicts in the file, 2 ** 31 for who follows them
    for number, (parts, words) in enumerate(
        [
            ((b"\x80\x02.", members), "makes no sense|no end"),
            ((b"\x80\x02N", members), "damaged"),
            ((b"\x80\x02u.", members), "ends what it did not begin"),
            ((b"", members), "damaged"),
            ((pickle.dumps(deep, 2), members), "more than weights would"),
            ((pickle.dumps(laughs, 2), members), "more than weights would"),
            ((body, members | {"byteorder": b"big"}), "big-endian"),
            ((body, members, zipfile.ZIP_DEFLATED), "compressed"),
        ]
    ):
        with pytest.raises(ConfigError, match=words), opened(archive(tmp_path / f"{number}.pt", *parts)):
            pass
    empty = tmp_path / "empty.pt"
    with zipfile.ZipFile(empty, "w") as sink:
        sink.writestr("a/else", b"")
    with pytest.raises(ConfigError, match="it is a zip file"), opened(empty):
        pass
    for name, files, words in (
        ("short", members | {"data/0": b"123"}, "has 3 bytes of 16"),
        ("gone", {n: v for n, v in members.items() if n != "data/0"}, "data/0 is not in it"),
    ):
        with opened(archive(tmp_path / f"{name}.pt", body, files)) as file, pytest.raises(ConfigError, match=words):
            file.read("a")


NESTED = b")" + b"\x85" * 100_000  # ((((..),),),)
LAUGHS = b"()q\x00" + b"h\x00h\x00\x86q\x00" * 30 + b"t"  # t = (t, t), thirty times
LETTER = b"X\x01\x00\x00\x00a"
STORAGE = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x04tQ"
TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n(" + STORAGE
# a module's attributes, the same thousand for each of three thousand modules
SHARED = b"}(" + b"".join(b"M" + n.to_bytes(2, "little") + b"N" for n in range(1000)) + b"uq\x00"
SHARED += b"c__torch__\nM\nq\x01" + b"h\x01)\x81h\x00b" * 3000


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"}" + NESTED + b"K\x01s", "has a tuple as a key"),
        (b"}(" + LAUGHS + b"K\x01u", "has a tuple as a key"),
        (b"ccollections\nOrderedDict\n(((" + LAUGHS + b"K\x01tttR", "has a tuple as a key"),
        (b"c__torch__\nM\n)\x81(" + LAUGHS + b"K\x01tb", "makes no sense"),
        (b"}NK\x01s", "has a NoneType as a key"),
        (b"}X" + (1000).to_bytes(4, "little") + b"a" * 1000 + b"K\x01s", "has a key of 1000 letters"),
        (b"(" + NESTED + LETTER * 3 + b"K\x01tQ", "a storage by tuple, str, str, int"),
        (b"(" + LAUGHS + LETTER * 3 + b"K\x01tQ", "a storage by tuple, str, str, int"),
        (TENSOR + LAUGHS + b"K\x04\x85K\x01\x85tR", "a shape, strides or an offset that none can have"),
        (TENSOR + b"K\x00" + LAUGHS + b"K\x01\x85tR", "of 31 dimensions with 1 strides"),
        (TENSOR + b"K\x00K\x00\x8a\x09" + bytes(8) + b"\x01\x86K\x01K\x01\x86tR", "a shape, strides or an offset that"),
        (TENSOR.replace(STORAGE, b"(" + LETTER + b"K\x05K\x04t") + b"K\x00))tR", "something else than a storage"),
        (NESTED, "more than weights would"),
        (LAUGHS, "more than weights would"),
        (b"](" + b"N" * 300_000 + b"e", "more than weights would"),
        (SHARED, "more instructions than weights would"),
    ],
)
def test_what_nests_or_repeats_is_one_sentence_and_no_crash(tmp_path: Path, body: bytes, words: str) -> None:
    path = archive(tmp_path / "a.pt", b"\x80\x02" + body + b".")
    with pytest.raises(ConfigError, match=words) as error, opened(path):
        pass
    assert len(str(error.value)) < 500


def test_a_tensor_past_its_storage_is_refused(tmp_path: Path) -> None:
    whole = torch.ones(4)
    stream = io.BytesIO()
    torch.save({"a": whole}, stream)
    with zipfile.ZipFile(stream) as source:
        body = source.read("archive/data.pkl")
    # the size, a tuple of one small int, stands before the stride
    assert body.count(b"K\x04\x85") == 1
    path = archive(tmp_path / "past.pt", body.replace(b"K\x04\x85", b"K\x05\x85"), {"data/0": bytes(16)})
    with pytest.raises(ConfigError, match="lies past the 4 values"), opened(path):
        pass


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, 10**6), value=st.integers(0, 255), cut=st.integers(0, 30))
def test_no_damage_does_more_than_a_sentence(tmp_path: Path, at: int, value: int, cut: int) -> None:
    stream = io.BytesIO()
    torch.save({"a": torch.arange(4.0), "b": {"c": torch.ones(2, 3).half()}}, stream)
    body = bytearray(stream.getvalue())
    body[at % len(body)] = value
    path = tmp_path / "damaged.pt"
    path.write_bytes(bytes(body[: len(body) - cut * 9]))
    try:
        with opened(path) as file:
            for name in file.shapes:
                file.read(name)
    except ConfigError as error:
        assert str(path) in str(error)
