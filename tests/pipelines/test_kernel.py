"""Compiled kernels are kept for exactly the sources that they were made of."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def python(code: str, root: Path, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(root), **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_any_change_of_the_sources_starts_an_empty_cache(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "pipelines", tmp_path / "pipelines", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "engine", tmp_path / "engine", ignore=shutil.ignore_patterns("__pycache__"))
    code = "from pipelines.kernel import cache_folder; print(cache_folder())"
    before = python(code, tmp_path, NUMBA_CACHE_DIR="/cache")
    assert before.startswith("/cache/kernels-") and python(code, tmp_path, NUMBA_CACHE_DIR="/cache") == before
    with open(tmp_path / "pipelines" / "tags.py", "a") as source:
        source.write("# a number changed\n")
    assert python(code, tmp_path, NUMBA_CACHE_DIR="/cache") != before


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    code = (
        "import pyarrow as pa; from pipelines.normalise import normalise\n"
        "print(bytes(normalise(pa.array(['A b'], pa.large_string())).data).decode())"
    )
    assert python(code, ROOT, NUMBA_CACHE_DIR=str(tmp_path / "file" / "below")) == "a b\n"
