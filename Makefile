# Two commands do everything on a fresh machine with Python 3.11+ and make:
#   make demo    prune the embedded model and print what it cost
#   make test    pass the tests
# `make check` holds lint, types and the import order; `make bench` measures against the baseline on the shared model;
# `make families` writes the README's table of families, `make test-oldest` tests with the oldest transformers,
# `make test-browser` opens the report in Chromium, `make screenshots` photographs it; `make test-ray` runs on Ray,
# `make test-gpu` runs on a GPU,
# `make fuzz` gives every reader five thousand inputs, `make faults` kills runs at random moments;
# `make test-llama-cpp` builds llama.cpp (minutes to half an hour, once) and has it run exported files; `make docs` builds
# the documentation's site, `make serve-docs` shows it while pages are written, `make pictures` draws its pictures.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
BASE := $(VENV)/.installed-base
READY := $(VENV)/.installed
OLDEST := .venv-oldest
LLAMA_CPP := .venv-llama-cpp
# Its theme advertises on the terminal.
MKDOCS := NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs
# Less of everything than a run of your own has, for a result within a few minutes.
DEMO := data.calibration_tokens=32768 search.measurements=60 search.rounds=5 search.reconstructed_tokens=4096 search.finalists=2

.DEFAULT_GOAL := help
.PHONY: help demo test families test-oldest test-llama-cpp test-browser test-gpu test-ray screenshots test-all fuzz faults notebook check format bench docs serve-docs pictures clean

help:
	@sed -n 's/^#  *\(make .*\)/\1/p' Makefile

# A half-made environment is made again: the stamp is written last. The product alone runs the demo; what develops,
# tests and documents it is three times as many packages.
$(BASE): pyproject.toml constraints.txt
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $(BASE)

$(READY): $(BASE)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $(READY)

demo: $(BASE)
	rm -rf runs/demo
	$(BIN)/secateur prune demo --out runs/demo $(foreach setting,$(DEMO),--set $(setting))

# A file's tests share what its fixtures have made, so a file stays with one worker; the long files come before the many short ones.
test: $(READY)
	$(BIN)/pytest -q -n 2 --dist loadfile --no-loadscope-reorder -m 'not slow and not shared and not gpu and not browser'

# The README's table of families, from what their contract shows.
families: $(READY)
	$(BIN)/pytest -q -n 2 tests/contracts/test_family_contract.py tests/contracts/test_gguf.py --write-families

# The oldest transformers that exported models must load in.
test-oldest: $(READY)
	$(PYTHON) -m venv --clear $(OLDEST)
	grep -v -e '^transformers==' -e '^tokenizers==' constraints.txt > $(OLDEST)/constraints.txt
	$(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check -c $(OLDEST)/constraints.txt -e '.[dev]' transformers==5.14.0
	$(OLDEST)/bin/pytest -q -n 2 tests/contracts/test_family_contract.py tests/equivalence

# The test builds what is not in the folder yet.
test-llama-cpp: $(READY)
	LLAMA_CPP_VENV=$(LLAMA_CPP) $(BIN)/pytest -q tests/crosscheck/test_llama_cpp.py

# The report in a headless Chromium, the system's own; CHROMIUM names another.
test-browser: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[browser]'
	$(BIN)/pytest -q -m browser

# The README's pictures of the report; RUN is a run folder.
RUN ?= runs/demo
screenshots: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[browser]'
	$(BIN)/python docs/make_screenshots.py $(RUN)

# Runs on Ray: actors that are killed, and two nodes on this machine of which one is lost.
test-ray: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[ray]'
	$(BIN)/pytest -q tests/unit/execution/test_ray_pool.py tests/pipeline/test_ray_nodes.py

# Whole runs on a GPU, beside the same on the CPU; skips where torch sees none.
test-gpu: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[qlora]'
	$(BIN)/pytest -q -m gpu tests/pipeline/test_on_gpu.py

# Every reader of files and settings, with thousands of inputs each; more than a hundred thousand together.
FUZZ_EXAMPLES ?= 5000
fuzz: $(READY)
	FUZZ_EXAMPLES=$(FUZZ_EXAMPLES) $(BIN)/pytest -q -n 2 --dist load tests/fuzz

# Fifty kills at random moments; every run is resumed, and ends as one that nothing disturbed.
faults: $(READY)
	$(BIN)/python benchmarks/faults.py

# Runs examples/ from top to bottom and holds it to what it says.
notebook: $(READY)
	$(BIN)/pytest -q tests/pipeline/test_notebook.py

test-all: $(READY)
	$(BIN)/pytest -q

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(MKDOCS) build --quiet --strict --site-dir build/site

# Open site/index.html; nothing is fetched. Only the search needs a server: make serve-docs.
docs: $(READY)
	$(MKDOCS) build --strict

serve-docs: $(READY)
	$(MKDOCS) serve

# After `make demo`, whose records they are drawn from.
pictures: $(READY)
	$(BIN)/python docs/make_pictures.py

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY)
	$(BIN)/python benchmarks/against_uniform.py

clean:
	rm -rf $(VENV) $(OLDEST) $(LLAMA_CPP) runs build dist site
