# Two commands: `make demo` and `make test`. Both install into .venv first; `make check` is lint and types.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: install demo test check learn golden fuzz clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "kosmos-engine needs Python 3.11 or newer; make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: install
	$(BIN)/kosmos demo

test: install
	$(BIN)/pytest

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# That a model learns what pictures show: minutes of training; see tests/trainer/test_learns.py.
learn: install
	$(BIN)/pytest -m learn tests/trainer/test_learns.py

# How faithful the extraction is, page by page; see tests/golden/README.md.
golden: install
	$(BIN)/python -m tests.golden --worst 20

# Ten minutes of damaged pages, headers and files; see tests/fuzz.
fuzz: install
	$(BIN)/python -m tests.fuzz --seconds 600

clean:
	rm -rf $(VENV) kosmos-demo build *.egg-info .mypy_cache .ruff_cache .pytest_cache
