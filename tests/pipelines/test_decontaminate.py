"""Items of evaluation sets in pages: what is found, in which disguise, what is not, and what files may hold."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import schema
from engine.config import override
from engine.errors import ConfigError
from engine.stage import canonical
from engine.store import Store
from pipelines import decontaminate, evalsets, normalise
from pipelines.reasons import Reason
from tests.pipelines.eval_world import Row, config, look, page, words, write

GONE = int(Reason.CONTAMINATED)
EVAL = Path(__file__).parents[3] / "shared/data/eval"


def hit(tmp_path: Path, item: Any, *text: str, **more: Any) -> tuple[int, float, int] | None:
    """(grams, share, reason) of a set's only item in a page."""
    rows, _ = look(config(write(tmp_path, "one.jsonl", [item]), **more), [page(0, *text)])
    assert len(rows) <= 1
    return (rows[0]["grams"], round(rows[0]["covered"], 4), rows[0]["reason"]) if rows else None


# what is found -----------------------------------------------------------------------------------------------------
def test_a_page_goes_from_half_of_an_item_on(tmp_path: Path) -> None:
    items = [{"query": words(n, 52)} for n in range(3)]  # 40 grams each
    first, second, third = (item["query"].split() for item in items)
    pages = [
        page(0, words(90, 300)),
        page(1, words(91, 50), " ".join(first), words(92, 50)),
        page(2, " ".join(second[:32])),  # 20 of 40
        page(3, " ".join(second[:31])),
        page(4, " ".join([*third[:13], "x", *third[13:30]]), " ".join(first[-13:])),
        page(5, " ".join(third)),
        page(6, ""),
    ]
    rows, counts = look(config(write(tmp_path, "a.jsonl", items)), pages, dropped=frozenset({5}))
    told = [(one["row"], one["set"], one["item"], one["grams"], one["covered"], one["reason"]) for one in rows]
    assert told == [
        (1, 0, 0, 40, 1.0, GONE),
        (2, 0, 1, 20, 0.5, GONE),
        (3, 0, 1, 19, np.float32(19 / 40), 0),
        (4, 0, 0, 1, np.float32(1 / 40), 0),
        (4, 0, 2, 1 + 5, np.float32(6 / 40), 0),
    ]
    assert counts == Counter({"kept": 4, "contaminated": 2, "hit:pages": 4})


TEXT = "The café's “first” owner, Œuvre Ltd., sold 13 fine cups of coffee daily; nobody knew why she did not stop."


@pytest.mark.parametrize(
    "said",
    [
        (TEXT,),
        (TEXT.upper(),),
        ("The cafe\u0301's ``first'' owner - Œuvre Ltd - sold 13 \ufb01ne cups of cof\u00adfee daily",
         "nobody knew why she did not stop"),
        ("The café's “first” owner, Œuvre Ltd., sold 13", "!", "fine cups of coffee daily; nobody knew why she did"
         " not stop."),
    ],
    ids=["as it is", "capitals", "another spelling", "an image between"],
)  # fmt: skip
def test_disguises_do_not_help(tmp_path: Path, said: tuple[str, ...]) -> None:
    grams = len(normalise_words(TEXT)) - 12
    assert grams > 5
    assert hit(tmp_path, {"text": TEXT}, words(1, 20), *said, words(2, 20)) == (grams, 1.0, GONE)
    assert hit(tmp_path, {"text": TEXT}, " ".join(reversed(TEXT.split()))) is None


def normalise_words(text: str) -> list[bytes]:
    return normalise.normalise(pa.array([text], schema.TEXT)).data.tobytes().split(b" ")


QUERY, LEFT, RIGHT = words(1, 20), words(2, 6), words(3, 6)
READS: list[tuple[str, Any, str]] = [
    ("the right answer", {"choices": [LEFT, RIGHT], "query": QUERY, "gold": 1}, f"{QUERY} {RIGHT}"),
    ("a letter between", {"choices": [LEFT, RIGHT], "query": QUERY}, f"{QUERY} a) {LEFT} b) {RIGHT}"),
    ("a label", {"query": f"Question: {QUERY}\nAnswer:", "choices": [LEFT, RIGHT]}, QUERY),
    ("labels within", {"query": f"Passage: {QUERY}\nQuestion: {LEFT}?\nAnswer:"}, f"{QUERY} {LEFT}"),
    ("what goes on", {"continuation": RIGHT, "context": QUERY}, f"{QUERY} {RIGHT}"),
    ("alternatives first", {"context_options": [f"{QUERY} he", f"{QUERY} she"], "continuation": LEFT},
     f"{QUERY} she {LEFT}"),
    ("numbered", {"id": "q 1", "goal": QUERY, "sol1": LEFT, "sol2": RIGHT, "label": 1}, f"{QUERY} {RIGHT}"),
    ("nested", {"question": {"stem": QUERY, "choices": [{"text": LEFT, "label": "A"}, {"text": RIGHT, "label": "B"}]}},
     f"{QUERY} {RIGHT}"),
    ("a text", json.dumps(QUERY), QUERY),
    ("half a surrogate pair", {"text": f"{QUERY} \ud800"}, QUERY),
]  # fmt: skip


@pytest.mark.parametrize(("item", "said"), [reads[1:] for reads in READS], ids=[reads[0] for reads in READS])
def test_an_item_is_read_as_people_read_it(tmp_path: Path, item: Any, said: str) -> None:
    found = hit(tmp_path, item, words(8, 30), said, words(9, 30))
    assert found is not None and found[1:] == (1.0, GONE)


def test_fields_choose_and_order(tmp_path: Path) -> None:
    item = {"answer": LEFT, "noise": words(7, 30), "query": QUERY}
    assert hit(tmp_path, item, f"{QUERY} {LEFT}") == (14, round(14 / 44, 4), 0)
    assert hit(tmp_path, item, f"{QUERY} {LEFT}", fields=("query", "answer")) == (14, 1.0, GONE)
    assert hit(tmp_path, item, f"{LEFT} {QUERY}", fields=("answer", "query", "none")) == (14, 1.0, GONE)


def test_short_items_are_found_as_a_whole(tmp_path: Path) -> None:
    eight, seven, twelve = words(1, 8), words(2, 7), words(1, 12)
    sets = write(tmp_path, "short.tsv", [f"{text}\t0" for text in (eight, seven, twelve, words(3, 13))])
    rows, _ = look(config(sets), [page(0, "x", eight, "y"), page(1, seven), page(2, twelve), page(3, words(3, 12))])
    assert [(one["row"], one["item"], one["grams"], one["covered"]) for one in rows] == [
        (0, 0, 1, 1.0), (2, 0, 1, 1.0), (2, 2, 1, 1.0),
    ]  # fmt: skip
    items = decontaminate.known(config(sets))
    assert items.findable.tolist() == [True, False, True, True] and items.words.tolist() == [8, 7, 12, 13]
    assert look(config(sets), [page(0, words(1, 7) + "z")])[0] == []
    assert len(look(config(sets, min_words=7), [page(0, seven)])[0]) == 1
    none = config(write(tmp_path, "none.tsv", [seven, "0"]))
    assert look(none, [page(0, seven)])[0] == [] and not decontaminate.known(none).findable.any()


# what does not count -----------------------------------------------------------------------------------------------
def test_allowed_phrases_never_count(tmp_path: Path) -> None:
    common, own = words(1, 20), words(2, 14)
    sets = write(tmp_path, "a.jsonl", [{"text": f"{common} {own}"}, {"text": common}, {"text": words(3, 9)}])
    allow = (write(tmp_path, "allow.txt", ["", f"So: {common.upper()}!", words(3, 12)]),)
    pages = [page(0, common), page(1, f"{common} {own}"), page(2, words(3, 12))]
    assert [one["row"] for one in look(config(sets), pages)[0]] == [0, 0, 1, 1, 2]
    rows, _ = look(config(sets, allow=allow), pages)
    # of the 22 grams 8 lie within the phrase
    assert [(one["row"], one["item"], one["grams"], one["covered"]) for one in rows] == [(1, 0, 14, 1.0)]
    assert decontaminate.known(config(sets, allow=allow)).findable.tolist() == [True, False, False]


def test_templates_do_not_count(tmp_path: Path) -> None:
    prompt = words(1, 14)
    made = [{"text": f"{prompt} {words(10 + n, 20)}"} for n in range(4)]
    sets = write(tmp_path, "a.jsonl", made)
    other = write(tmp_path, "b.jsonl", made[:3])
    said = [page(0, prompt), page(1, made[0]["text"])]
    rows, _ = look(config(sets, other, max_items=4), said)
    assert [(one["row"], one["set"], one["item"]) for one in rows if one["row"] == 0] == [
        (0, 0, 0), (0, 0, 1), (0, 0, 2), (0, 0, 3), (0, 1, 0), (0, 1, 1), (0, 1, 2),
    ]  # fmt: skip
    rows, _ = look(config(sets, other, max_items=3), said)
    assert {(one["row"], one["set"]) for one in rows} == {(0, 1), (1, 0), (1, 1)}
    assert [one["grams"] for one in rows if one["set"] == 0] == [20] and rows[-1]["covered"] < 1
    assert decontaminate.known(config(sets, other, max_items=3)).templates == 8
    assert decontaminate.known(config(sets, other, max_items=3)).findable.all()


def test_no_more_than_so_many_items_are_told(tmp_path: Path) -> None:
    texts = [words(n, 15) for n in range(5)]
    sets = write(tmp_path, "a.jsonl", [{"text": text} for text in texts])
    said = page(0, texts[3], "x", *(" ".join(text.split()[: 13 + (n == 4)]) for n, text in enumerate(texts) if n != 3))
    rows, counts = look(config(sets, max_told=3), [said])
    assert [(one["item"], one["grams"]) for one in rows] == [(0, 1), (3, 3), (4, 2)]
    assert counts["hit:items_cut"] == 2 and counts["contaminated"] == 1


# files -------------------------------------------------------------------------------------------------------------
def test_kinds_of_files(tmp_path: Path) -> None:
    texts = [words(n, 20) for n in range(3)]
    files = [
        write(tmp_path, "a.jsonl", [{"text": text} for text in texts]),
        write(tmp_path, "b.jsonl.gz", [{"text": text} for text in texts]),
        write(tmp_path, "c.tsv", [f"{n}\t{text}\t-1.5" for n, text in enumerate(texts)]),
        write(tmp_path, "d.tsv.gz", texts),
        write(tmp_path, "e.ndjson", ["", {"text": texts[0]}, "\r", *({"text": text} for text in texts[1:])]),
    ]
    rows, _ = look(config(*files), [page(0, *texts)])
    assert [(one["set"], one["item"], one["covered"]) for one in rows] == [
        *((number, item, 1.0) for number in range(4) for item in range(3)),
        (4, 1, 1.0), (4, 3, 1.0), (4, 4, 1.0),
    ]  # fmt: skip
    headed = write(tmp_path, "f.tsv", ["label\tsentence\tother", f"x\t{texts[0]}\t{words(9, 30)}"])
    rows, _ = look(config(headed, fields=("sentence",)), [page(0, texts[0])])
    assert [(one["item"], one["covered"]) for one in rows] == [(1, 1.0)]
    assert decontaminate.known(config(*files)).names == ("a", "b", "c", "d", "e")


def test_the_spelling_of_treebanks(tmp_path: Path) -> None:
    sets = write(
        tmp_path, "sst.tsv", ["if you 've ever had the notion -lrb- really -rrb- this does n't put you off\t0"]
    )
    rows, _ = look(config(sets), [page(0, "If you've ever had the notion (really), this doesn't put you off!")])
    assert [one["covered"] for one in rows] == [1.0]


def deep(levels: int) -> str:
    return '{"a": ' + "[" * levels + '"b"' + "]" * levels + "}"


BAD: list[tuple[str, str, list[Any], str]] = [
    ("not JSON", "a.jsonl", ['{"a": "b"}', "{"], r"a.jsonl, line 2 is no JSON .*is an object"),
    ("no object", "a.jsonl", ['{"a": "b"}', "", "[1]"], r"a.jsonl, line 3 is no object"),
    ("levels for the parser", "a.jsonl", [deep(100_000)], r"line 1 is no JSON"),
    ("levels for us", "a.jsonl", [deep(100)], r"line 1: it has over 16 levels; mend it"),
    ("strings", "a.jsonl", [{"a": ["b"] * 2000}], r"line 1: it has over 1024 strings; mend it"),
    ("columns", "a.tsv", ["a\tb", "c"], r"a.tsv, line 2 has 1 columns and the first has 2; mend it"),
    ("nothing", "a.jsonl", ["", " "], r"holds no item; take it out"),
    ("another kind", "a.parquet", ["x"], r"neither .jsonl nor .tsv"),
    ("no name", "a b.tsv", ["x"], r"cannot name a set .* name="),
]


@pytest.mark.parametrize(("name", "lines", "sentence"), [bad[1:] for bad in BAD], ids=[bad[0] for bad in BAD])
def test_files_that_are_no_sets(tmp_path: Path, name: str, lines: list[Any], sentence: str) -> None:
    address = write(tmp_path, name, lines)
    with pytest.raises(ConfigError, match=sentence):
        config(address)


LINES = st.one_of(
    st.binary(max_size=20).filter(lambda line: b"\n" not in line),
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    ).map(lambda value: json.dumps(value).encode()),
)


@given(st.lists(LINES, max_size=4), st.sampled_from(["jsonl", "tsv"]), st.sampled_from([(), ("a",)]))
def test_any_bytes_are_items_or_one_sentence(lines: list[bytes], kind: str, fields: tuple[str, ...]) -> None:
    source = evalsets.Source(name="a", uri="a", kind=kind)
    try:
        found = list(evalsets.items(source, b"\n".join(lines), fields))
    except ConfigError as error:
        assert str(error).startswith("a") and "\n" not in str(error)
        return
    assert found and all(text.encode().strip() for item in found for text in item.readings)


def test_bytes_that_are_no_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.tsv").write_bytes(b"abc\n\xff\n")
    with pytest.raises(ConfigError, match=r"a.tsv, line 2 is not UTF-8; convert"):
        config(str(tmp_path / "a.tsv"))
    whole = gzip.compress(b"abc\n" * 100)
    for body in (whole[:-10], b"abc", whole[:12] + b"\xff\xff\xff\xff" + whole[16:]):
        (tmp_path / "a.tsv.gz").write_bytes(body)
        with pytest.raises(ConfigError, match=r"a.tsv.gz is damaged .* fetch it again"):
            config(str(tmp_path / "a.tsv.gz"))
    with pytest.raises(ConfigError, match="cannot be read"):
        config(str(tmp_path / "none.tsv"))
    (tmp_path / "x.tsv").mkdir()
    with pytest.raises(ConfigError, match="is no file"):
        config(str(tmp_path / "x.tsv"))
    with pytest.raises(ConfigError, match=r"none of the fields x but text; set decontaminate.fields"):
        config(write(tmp_path, "a.jsonl", [{"text": "a"}]), fields=("x",))
    with pytest.raises(ConfigError, match=r"line 1 names none of the fields x"):
        config(write(tmp_path, "b.tsv", ["text", "a"]), fields=("x",))
    monkeypatch.setattr(evalsets, "MAX_BYTES", 100)
    for name, lines in (("c.tsv", ["x" * 200]), ("c.tsv.gz", ["x" * 100_000])):
        with pytest.raises(ConfigError, match="MiB; cut it into files"):
            config(write(tmp_path, name, lines))
    monkeypatch.setattr(evalsets, "MAX_ITEMS", 2)
    with pytest.raises(ConfigError, match="over 2 items"):
        config(write(tmp_path, "d.tsv", ["x"] * 3))


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"ngram": 1}, "ngram"),
        ({"min_words": 14}, "min_words"),
        ({"min_covered": 0.0}, "min_covered"),
        ({"max_items": 0}, "max_items"),
        ({"max_told": 0}, "max_told"),
        ({"digest": "12"}, "digest"),
        ({"sketch": "0"}, "leave them out"),
        ({"sets": ("a.tsv", "b/a.tsv")}, "two sets are named a"),
        ({"sets": ("a,b.tsv",)}, "a comma ends"),
        ({"allow": ("a,b.txt",)}, "a comma ends"),
    ],
)
def test_settings_out_of_bounds(more: Row, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        decontaminate.Config(**more)


# the digest --------------------------------------------------------------------------------------------------------
def test_the_digest_stands_for_what_the_files_hold(tmp_path: Path) -> None:
    (tmp_path / "x y").mkdir()
    here, there = (write(folder, "a.tsv", [words(1, 20)]) for folder in (tmp_path, tmp_path / "x y"))
    other = write(tmp_path, "b.tsv", [words(2, 20)])
    one = config(here)
    assert canonical(one) == canonical(config(there)) and one.digest in canonical(one)
    assert (
        len({config(*sets).digest for sets in ((here,), (other,), (f"c={here}",), (here, other), (other, here))}) == 5
    )
    assert config(here, allow=(other,)).digest != config(here, allow=(here,)).digest != one.digest
    assert decontaminate.digest(decontaminate.Config()) == "" and decontaminate.pinned(decontaminate.Config()) == ()

    given = decontaminate.Config(sets=(there,), allow=(other,))
    settings = [setting.removeprefix("decontaminate.") for setting in decontaminate.pinned(given)]
    assert override(decontaminate.Config(), settings) == config(there, allow=(other,))
    assert [row["covered"] for row in look(override(decontaminate.Config(), settings), [page(0, words(1, 20))])[0]] == [
        1
    ]

    Store("memory:///sets").put("s.tsv", Path(here).read_bytes())
    assert config("a=memory:///sets/s.tsv").digest == one.digest
    assert len(look(config("a=memory:///sets/s.tsv"), [page(0, words(1, 20))])[0]) == 1
    with pytest.raises(ConfigError, match="is not there"):
        config("memory:///sets/t.tsv")


def test_other_files_than_the_run_began_with_are_refused(tmp_path: Path) -> None:
    begun = config(write(tmp_path, "a.tsv", [words(1, 20)]))
    write(tmp_path, "a.tsv", [words(1, 21)])
    with pytest.raises(ConfigError, match=r"have changed since the run began .* put the old files back"):
        look(begun, [page(0, "x")])
    with pytest.raises(ConfigError, match=r"needs decontaminate.digest"):
        look(decontaminate.Config(sets=begun.sets), [page(0, "x")])


def test_sets_that_take_too_much_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # the stem is read with each alternative
    chosen = config(write(tmp_path, "a.jsonl", [{"query": words(1, 100), "choices": ["a"] * 9 + ["b"]}]))
    monkeypatch.setattr(decontaminate, "MAX_TEXT", 1200)
    with pytest.raises(ConfigError, match="of text; name fewer"):
        look(chosen, [page(0, "x")])


# the real sets -----------------------------------------------------------------------------------------------------
@pytest.mark.skipif(not EVAL.is_dir(), reason="the evaluation sets are not here")
def test_items_of_the_real_sets_are_found() -> None:
    files = [str(path) for path in sorted(EVAL.glob("*/*"))]
    chosen = config(*files)
    items = decontaminate.known(chosen)
    num = np.bincount(items.item_sets)
    sizes = {"boolq": 3270, "copa": 100, "dev": 872, "piqa": 1838, "lambada_openai": 5153}
    assert {name: num[items.names.index(name)] for name in sizes} == sizes
    # a tenth of SST-2 and of openbook_qa has fewer than 8 words
    assert np.count_nonzero(items.findable) > 0.95 * num.sum()
    said: dict[tuple[int, int], str] = {}
    for number, one in enumerate(evalsets.sources(chosen.sets)):
        for item in list(evalsets.items(one, evalsets.body(one.uri)))[::97]:
            said[number, item.line] = item.readings[-1]
    keys = list(said)
    rows, _ = look(chosen, [page(n, words(n, 30), said[key], words(n, 30)) for n, key in enumerate(keys)])
    found = {(one["row"], one["set"], one["item"]) for one in rows if one["covered"] == 1}
    place = {(int(s), int(line)): n for n, (s, line) in enumerate(zip(items.item_sets, items.item_lines, strict=True))}
    missed = [key for n, key in enumerate(keys) if (n, *key) not in found]
    assert len(missed) < len(keys) / 10
    assert not [key for key in missed if items.words[place[key]] >= chosen.ngram]
