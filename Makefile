# Two commands do everything on a fresh machine with Python 3.11+ and make:
#   make demo    prune the embedded model and print what it cost
#   make test    pass the tests
# `make check` holds lint, types and the import order; `make bench` measures against the baseline on the shared model.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help demo test test-all check format bench clean

help:
	@sed -n 's/^#  *\(make .*\)/\1/p' Makefile

# A half-made environment is made again: the stamp is written last.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $(READY)

demo: $(READY)
	rm -rf runs/demo
	$(BIN)/secateur prune demo --out runs/demo --set search.measurements=80 --set search.reconstructed_tokens=8192

# A file's tests share what its fixtures have made, so a file stays with one worker; the long files come before the many short ones.
test: $(READY)
	$(BIN)/pytest -q -n 2 --dist loadfile --no-loadscope-reorder -m 'not slow and not shared and not gpu and not browser'

test-all: $(READY)
	$(BIN)/pytest -q

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY)
	$(BIN)/python benchmarks/against_uniform.py

clean:
	rm -rf $(VENV) runs build dist
