"""The public face: flat, lazy, and the same however it was imported first."""

from __future__ import annotations

import subprocess
import sys

import pytest

import engine


def python(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_face_loads_nothing_heavy() -> None:
    program = (
        "import sys, engine, engine.cli; print([m for m in ('ray', 'torch', 'pyarrow', 'obstore') if m in sys.modules])"
    )
    assert python(program) == "[]\n"


def test_every_name_is_there() -> None:
    for name in engine.__all__:
        assert getattr(engine, name) is not None
    with pytest.raises(AttributeError, match="nothing"):
        _ = engine.nothing


@pytest.mark.parametrize("first", ["pass", "import engine.window", "from engine.forecast import Plan"])
def test_a_verb_is_a_function_whatever_was_imported_before(first: str) -> None:
    # a submodule named as a verb would take its place on the face when it is imported: none is
    program = (
        f"{first}\nfrom engine import run, plan\nfrom engine import run as again\n"
        "from engine.window import Options; import engine\n"
        "print(callable(run), callable(plan), again is run is engine.run)"
    )
    assert python(program) == "True True True\n"
