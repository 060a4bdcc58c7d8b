# Needs python3 (3.11 or newer) and make. Everything is installed into $(VENV), and nothing outside it is touched.
PYTHON ?= python3
VENV ?= .venv
SOAK ?= 60
BIN := $(VENV)/bin
BOUND := .*"\([a-z.-]*\(\[binary\]\)\?\)>=\([0-9.]*\).*/\1==\3

.PHONY: demo test soak fuzz lint lowest bench clean

demo: $(VENV)/cli  ## install, load real data into demo.db, and show what a store does
	$(BIN)/kv demo sqlite:///demo.db

test: $(VENV)/dev  ## install and run all tests; ARGS for pytest's own
	$(BIN)/python -m pytest -n auto $(ARGS)

soak: $(VENV)/dev  ## histories, a model, pairs of calls, crashes and a bad network, SOAK seconds each, and their figures; ARGS for pytest's own
	KV_SOAK=$(SOAK) $(BIN)/python -m pytest -o faulthandler_timeout=0 tests/test_histories*.py tests/test_model.py tests/test_crashes*.py tests/test_sqlite_damage.py tests/test_network*.py $(ARGS)

lint: $(VENV)/dev  ## ruff, mypy --strict and pyright
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/pyright --pythonpath $(BIN)/python

lowest: $(VENV)/dev  ## the tests on the lowest versions that pyproject.toml allows of what the package itself needs
	$(BIN)/python -m pip install --quiet $$(sed -n '/^\(cli\|postgres\|redis\|lmdb\|typed\|encryption\|compression\|telemetry\) = /,/^]/s/$(BOUND)/p;/"opentelemetry-sdk/s/$(BOUND)/p' pyproject.toml)
	$(BIN)/python -m pytest -n auto $(ARGS)

bench: $(VENV)/dev  ## the benchmarks, beside the raw drivers and the peers that are installed
	$(BIN)/python -m benchmarks

fuzz: $(VENV)/dev $(VENV)/fuzz  ## each target of tests/fuzzing.py for FUZZ_SECONDS seconds (60), with atheris
	$(BIN)/python tests/fuzz.py

clean:
	rm -rf $(VENV) demo.db demo.db-wal demo.db-shm

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "anykv needs Python 3.11 or newer, and this is " + sys.version.split()[0] + "; try: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/cli $(VENV)/dev $(VENV)/fuzz: $(VENV)/%: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$*]'
	@touch $@
