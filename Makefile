# make demo and make test need Python 3.11 or newer and nothing else: both create the environment in .venv first.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/installed
DOCS := .venv/docs-installed
# Tests start many processes: each would compile all modules anew, were compiled files not kept.
export PYTHONDONTWRITEBYTECODE :=

# Unit tests enforce shapes and whole runs do not, so that they are two processes, each on half of the cores.
CORES := $(shell getconf _NPROCESSORS_ONLN)
HALF := $(if $(filter 1 2 3,$(CORES)),-n 0,-n $(shell expr $(CORES) / 2) --dist worksteal)
SLOW = tests/runs tests/slow $$(grep -rlE --include='*.py' 'mark\.(slow|fast)' tests/unit)
MORE := -n $(shell expr $(CORES) + 1) --dist worksteal
STATIC := tests/unit/test_house.py tests/unit/test_seams.py
UNIT := tests/unit fedkd $(STATIC:%=--ignore=%)

.PHONY: help install demo test unit runs slow together alone nightly lint docs bench clean

help:
	@echo "make demo     run the default scenario on embedded data (under a minute once installed)"
	@echo "make test     run the fast tests"
	@echo "make slow     run the slow tests"
	@echo "make nightly  run what repeats at length"
	@echo "make lint     format check, linter, types, import contracts, the plan of the code"
	@echo "make docs     build the site of the documents, in build/site"
	@echo "make bench    measure against the plain PyTorch loop"
	@echo "make clean    remove the environment and caches of this folder"

# Of 21 000 modules a run imports 2 000: Python compiles those when they are first imported, in a tenth of the time.
install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt fedkd/__init__.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "fedkd needs Python 3.11 or newer; $(PYTHON) is older. Use: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --no-compile --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $(STAMP)

demo: $(STAMP)
	$(BIN)/python -m fedkd.simulate

test: $(STAMP)
	@$(MAKE) --no-print-directory --keep-going --jobs=2 unit runs

unit: $(STAMP)
	$(BIN)/python -m pytest $(HALF) -m "not slow" $(UNIT)

runs: $(STAMP)
	$(BIN)/python -m pytest $(HALF) -m "not slow" tests/runs

slow: together
	@$(MAKE) --no-print-directory alone

# Whole runs wait for files and processes: one more worker than cores.
together: $(STAMP)
	$(BIN)/python -m pytest $(MORE) -m "slow and not alone and not nightly" --hypothesis-profile=slow $(SLOW)

# They measure time, so that no other test may run beside them.
alone: $(STAMP)
	$(BIN)/python -m pytest -m "slow and alone" $$(grep -rl --include='*.py' mark.alone tests/runs tests/slow)

nightly: $(STAMP)
	$(BIN)/python -m pytest $(MORE) -m "nightly or hypothesis" --hypothesis-profile=slow

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -n 0 $(STATIC)

# Not -e '.[docs]': that would install fedkd anew, perhaps while a run imports it.
$(DOCS): pyproject.toml constraints.txt $(STAMP)
	$(BIN)/python -c "import tomllib; project = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
	  print(*project['optional-dependencies']['docs'])" | \
	  xargs $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
	@touch $(DOCS)

docs: $(DOCS)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

bench: $(STAMP)
	$(BIN)/python scripts/bench.py

clean:
	rm -rf .venv .mypy_cache .ruff_cache .hypothesis .import_linter_cache build dist
