"""The tokenizer: ids of engine.vocab, files that are none, and the bundled model that trains to the same bytes."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sentencepiece

from engine.config import override
from engine.errors import ConfigError
from engine.store import Store
from engine.vocab import BOS, CONTROLS, EOS, PAD, UNK
from pipelines import pack
from pipelines.kosmos import interleaved, small
from pipelines.pack.tokenizer import MAX_BYTES, Tokenizer, body, bundled, fetched, load
from pipelines.smallweb.tokenizer import PIECES, corpus, main, train

TRAINED_WITH = "0.2.3"  # another release may write its settings otherwise
RELEASED = Path(__file__).parents[3] / "shared/data/tokenizer/kosmos-2/sentencepiece.bpe.model"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return load(bundled())


def test_the_bundled_model(tokenizer: Tokenizer) -> None:
    assert tokenizer.vocab.pieces == PIECES == 4000 and tokenizer.vocab.size == 4007
    words = "A red round melon on a green table"
    (ids,) = tokenizer.encode([words])
    assert len(ids) == len(words.split()), "a caption of the bundled web is whole words"
    assert tokenizer.decode(ids) == words
    assert UNK not in tokenizer.encode(["All of ASCII: 'q' {z} \\ ~ | 09 @ # `^_<>"])[0]


def test_ids_are_pieces_moved_by_one(tokenizer: Tokenizer) -> None:
    lines = ["one line", "", "   ", "and a second one", "\N{SNOWMAN}"]
    pieces = tokenizer.model.encode(lines)
    found = tokenizer.encode(lines)
    assert found == [[tokenizer.vocab.from_piece(piece) for piece in line] for line in pieces]
    assert found[1] == found[2] == [] and UNK in found[4]
    assert all(token > CONTROLS for line in found[:4] for token in line)
    assert tokenizer.encode([]) == []


def test_words_of_control_pieces_are_text(tokenizer: Tokenizer) -> None:
    (ids,) = tokenizer.encode(["a <s> </s> <unk> b"])
    assert not {BOS, EOS, PAD, UNK} & set(ids)


def test_decoding_a_row(tokenizer: Tokenizer) -> None:
    vocab = tokenizer.vocab
    one, two = tokenizer.encode(["the first line", "the second"])
    image = [vocab.image] * 65 + [vocab.image_end]
    assert tokenizer.decode([BOS, *image, *one, vocab.line, *two, EOS, PAD]) == "the first line\nthe second"
    assert tokenizer.decode([vocab.line, vocab.line]) == "\n\n"
    assert tokenizer.decode([]) == ""


def test_training_is_deterministic(tmp_path: Path) -> None:
    lines = corpus()
    assert lines == sorted(set(lines))
    assert main([str(tmp_path / "m")]) == 0
    assert (tmp_path / "m").read_bytes() == train(lines)
    if sentencepiece.__version__ == TRAINED_WITH:
        assert (tmp_path / "m").read_bytes() == bundled().read_bytes()
    assert load(tmp_path / "m").vocab.pieces == PIECES


def test_training_says_how_it_is_used(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "OUT" in capsys.readouterr().err


def other_controls(path: Path) -> None:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a b c d", "b c d e"]), model_writer=model, vocab_size=14, pad_id=0, unk_id=1, bos_id=2,
        eos_id=3, hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    path.write_bytes(model.getvalue())


BAD: list[tuple[str, Any, str]] = [
    ("empty", lambda path: path.write_bytes(b""), "no SentencePiece model"),
    ("words", lambda path: path.write_text("the\nof\nand\n"), "no SentencePiece model"),
    ("cut", lambda path: path.write_bytes(bundled().read_bytes()[:-1000]), "no SentencePiece model"),
    ("controls", other_controls, "<unk> <s> </s>"),
    ("large", lambda path: path.write_bytes(bytes(MAX_BYTES + 1)), "no tokenizer"),
    ("folder", lambda path: path.mkdir(), "is no file"),
    ("absent", lambda path: None, "cannot be read"),
]


@pytest.mark.parametrize(("name", "make", "sentence"), BAD, ids=[name for name, _, _ in BAD])
def test_files_that_are_no_tokenizer(tmp_path: Path, name: str, make: Any, sentence: str) -> None:
    path = tmp_path / name
    make(path)
    with pytest.raises(ConfigError, match=sentence):
        load(path)


def test_digests(tmp_path: Path) -> None:
    own = hashlib.sha256(bundled().read_bytes()).hexdigest()
    assert pack.digest(pack.Config()) == own
    (tmp_path / "a b.model").write_bytes(bundled().read_bytes())
    assert pack.digest(pack.Config(tokenizer=str(tmp_path / "a b.model"))) == own
    assert pack.digest(pack.Config(tokenizer=f"file://{tmp_path}/a%20b.model")) == own
    Store("memory:///models").put("t.model", b"abc")
    assert body("memory:///models/t.model") == b"abc"
    with pytest.raises(ConfigError, match="is not there"):
        body("memory:///models/u.model")
    with pytest.raises(ConfigError, match="cannot be read"):
        pack.digest(pack.Config(tokenizer=str(tmp_path / "none")))


def test_another_file_than_the_run_began_with_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m"
    path.write_bytes(bundled().read_bytes())
    digest = pack.digest(pack.Config(tokenizer=str(path)))
    work: Any = SimpleNamespace(local=Path)
    assert fetched(work, str(path), digest) == path
    assert fetched(work, "", digest) == bundled()
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(ConfigError, match="has changed"):
        fetched(work, str(path), digest)


@pytest.mark.skipif(not RELEASED.is_file(), reason="the released tokenizer is not here")
def test_the_released_tokenizer() -> None:
    tokenizer = load(RELEASED)
    assert tokenizer.vocab.pieces == 64_000 and tokenizer.vocab.size == 64_007
    assert tokenizer.vocab.from_piece(tokenizer.model.piece_to_id(".")) == 4
    assert tokenizer.encode(["the"]) == [[5]] and tokenizer.vocab.line == 64_006
    words = "KOSMOS-1 reads 12 pages, one after another."
    assert tokenizer.decode(tokenizer.encode([words])[0]) == words


def test_who_looks_later_needs_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own.model").write_bytes(bundled().read_bytes())
    monkeypatch.chdir(tmp_path)
    given = override(small(), ["pack.tokenizer=own.model"])
    recipe = interleaved(given)
    assert recipe.pinned == (f"pack.tokenizer=file://{tmp_path}/own.model", f"pack.digest={pack.digest(given.pack)}")
    (tmp_path / "own.model").unlink()
    with pytest.raises(ConfigError, match=r"own\.model cannot be read"):
        interleaved(given)
    later = interleaved(override(small(), ["pack.tokenizer=own.model", *recipe.pinned]))
    assert [step.stage.key for step in later.steps] == [step.stage.key for step in recipe.steps]
    assert interleaved(small()).pinned == ()
    with pytest.raises(ConfigError, match="no sha256 in hex"):
        override(small(), ["pack.digest=12"])


def test_what_is_no_tokenizer_is_refused_before_anything_runs(tmp_path: Path) -> None:
    text = tmp_path / "words #1.txt"
    text.write_text("no model")
    for given, sentence in (
        (str(text), "is no SentencePiece model"),
        (f"file://{tmp_path}/words%20%231.txt", "is no SentencePiece model"),
        (str(tmp_path), "is no file"),
        ("/dev/zero", "is no file"),
        (str(tmp_path / "none"), "cannot be read"),
    ):
        with pytest.raises(ConfigError, match=sentence):
            interleaved(override(small(), [f"pack.tokenizer={given}"]))
