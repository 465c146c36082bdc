"""Keys hash what decides bytes, and nothing else."""

from __future__ import annotations

import dataclasses

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import ConfigError
from engine.recipe import Recipe, Step
from engine.schema import field, schema
from engine.stage import Output, Stage, Unit, canonical, digest
from tests import stages

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=3), VALUES, max_size=5))
def test_canonical_text_does_not_know_the_order_of_keys(value: dict[str, object]) -> None:
    backwards = dict(reversed(value.items()))
    assert canonical(value) == canonical(backwards) and canonical(value).isascii()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}, object(), b"bytes"])
def test_what_has_no_canonical_form_is_refused(value: object) -> None:
    with pytest.raises(ConfigError):
        canonical({"x": [value]})


def test_digest_is_of_canonical_json() -> None:
    assert digest() == "4f53cda18c2baa0c0354bb5f9a3ecbe5ed12ab4d8e11ba873c2f11161202b945"


@pytest.mark.parametrize(
    "change",
    [
        {"name": "other"},
        {"version": 2},
        {"config": stages.Numbers(factor=9)},
        {"outputs": (stages.NUMBERS,)},
        {"outputs": (dataclasses.replace(stages.NUMBERS, batch_rows=8), stages.KEYS)},
        {"outputs": (dataclasses.replace(stages.NUMBERS, compression=None), stages.KEYS)},
        {"outputs": (dataclasses.replace(stages.NUMBERS, schema=schema(field("n", pa.uint32(), ""))), stages.KEYS)},
        {"reads": (stages.unsteady_stage(),)},
        {"carries": (("index", (stages.INDEX,)),)},
    ],
)
def test_what_decides_bytes_is_in_the_key(change: dict[str, object]) -> None:
    stage = stages.numbers_stage()
    assert dataclasses.replace(stage, **change).key != stage.key  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "change", [{"num_cpus": 4.0}, {"memory_bytes": 9}, {"recorded": True}, {"exclusive": True}, {"lease": "x"}]
)
def test_what_decides_no_byte_is_not(change: dict[str, object]) -> None:
    stage = stages.numbers_stage()
    assert dataclasses.replace(stage, **change).key == stage.key  # type: ignore[arg-type]


def test_a_new_key_above_is_a_new_key_below() -> None:
    one, two = stages.recipe(), stages.recipe(partitions=4)
    assert [s.stage.key for s in one.steps] == [s.stage.key for s in stages.recipe().steps]
    assert all(a.stage.key != b.stage.key for a, b in zip(one.steps, two.steps, strict=True))
    three = stages.recipe(mark=1)
    assert [a.stage.key == b.stage.key for a, b in zip(one.steps, three.steps, strict=True)] == [
        True,
        True,
        False,
        False,
    ]


@pytest.mark.parametrize("name", ["", "A", "a_b", "a/b", "a.b", "-a", "x" * 97, "ü"])
def test_a_unit_id_is_a_plain_name(name: str) -> None:
    with pytest.raises(ConfigError):
        Unit(id=name)
    assert Unit(id="x" * 96).id and Unit(id="0-a").id


def test_names_that_are_not_there_are_config_errors() -> None:
    recipe = stages.recipe()
    stage = recipe.stage("index")
    assert stage.upstream("numbers") is recipe.stage("numbers"), "over all levels"
    assert stage.resolve() is stages.index
    for wrong in (lambda: stage.upstream("x"), lambda: stage.output("x"), lambda: recipe.stage("x")):
        with pytest.raises(ConfigError, match="x"):
            wrong()


def test_a_recipe_is_maps_then_barriers() -> None:
    barrier = Stage(name="b", process="a:b", config=0, outputs=(stages.INDEX,), barrier=True)
    steps = (Step(stage=barrier, parts=stages.index_parts), Step(stage=stages.numbers_stage()))
    with pytest.raises(ConfigError, match="after a barrier"):
        Recipe(name="r", config=None, steps=steps, listing=stages.no_listing)
    with pytest.raises(ConfigError, match="parts"):
        Recipe(name="r", config=None, steps=(Step(stage=barrier),), listing=stages.no_listing)


def test_outputs_have_names() -> None:
    assert Output(name="o", schema=stages.INDEX.schema).description()["name"] == "o"


def test_sums_are_keyed_only_where_they_are_wanted() -> None:
    plain = Output(name="o", schema=stages.INDEX.schema)
    assert "sums" not in plain.description()
    assert dataclasses.replace(plain, sums=True).description() == {**plain.description(), "sums": True}
