"""Who may import whom, where `except Exception` may stand, and that starting the CLI loads nothing heavy."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = sorted(path for name in ("engine", "pipelines", "trainer") for path in (ROOT / name).rglob("*.py"))
RAY = {"engine/cluster.py", "trainer/launch.py"}
ENGINE = {"engine", "pyarrow", "obstore", "rich", "numpy", "xxhash"}
# a unit's fault, a record's, and an image's: each place turns any exception into a reason
GUARDS = {
    "engine/attempt.py": 1,
    "pipelines/extract.py": 1,
    "pipelines/fetch/asking.py": 1,
    "trainer/data/images.py": 1,
}


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name(path)}: relative import"
            yield node.module or ""


@pytest.mark.parametrize("path", FILES, ids=name)
def test_imports_keep_to_the_table(path: Path) -> None:
    package = name(path).split("/")[0]
    tops = {module.split(".")[0] for module in imports(path)} - set(sys.stdlib_module_names)
    if package == "engine":
        allowed = ENGINE | ({"ray"} if name(path) in RAY else set())
        assert tops <= allowed, f"engine may import {sorted(ENGINE)}"
    elif package == "pipelines":
        assert not tops & {"ray", "torch", "trainer"}
    else:
        names = {module.removeprefix("engine.") for module in imports(path) if module.split(".")[0] == "engine"}
        allowed_engine = {"schema", "arrow", "store", "ledger", "vocab", "errors"}
        assert names <= allowed_engine | ({"cluster"} if name(path) in RAY else set())
        assert not tops & ({"pipelines"} if name(path) in RAY else {"pipelines", "ray"})


def test_any_exception_is_caught_in_the_named_places_only() -> None:
    found: dict[str, int] = {}
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ExceptHandler):
                kinds = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
                if any(kind is None or (isinstance(kind, ast.Name) and kind.id == "Exception") for kind in kinds):
                    found[name(path)] = found.get(name(path), 0) + 1
    assert found == GUARDS


@pytest.mark.parametrize("words", [[], ["--help"], ["run", "--help"]])
def test_starting_the_cli_loads_nothing_heavy(words: list[str]) -> None:
    script = (
        "import sys\nfrom engine.cli import main\n"
        f"try: main({words!r})\nexcept SystemExit: pass\n"
        "heavy = {'ray', 'torch', 'pyarrow', 'numpy', 'obstore', 'numba', 'rich'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_the_public_face_is_flat() -> None:
    import engine

    for word in engine.__all__:
        assert getattr(engine, word).__name__ == word
    with pytest.raises(AttributeError):
        _ = engine.nothing


def test_no_file_holds_more_than_one_noun() -> None:
    long = {name(path): len(path.read_text().splitlines()) for path in FILES}
    assert {file: lines for file, lines in long.items() if lines > 450} == {}


def test_every_file_says_what_it_is() -> None:
    silent = [
        name(path) for path in FILES if path.read_text().strip() and not ast.get_docstring(ast.parse(path.read_text()))
    ]
    assert silent == []
