# `make demo` and `make test` do everything from a fresh clone; a second call reuses the environment.
SHELL  := /bin/bash
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/ready

.PHONY: demo test test-cluster lint check clean

demo: $(READY)
	$(BIN)/mixture demo

test: $(READY) lint
	time OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

# The tests of the store and what stands on it, with stores on PostgreSQL and S3.
test-cluster: $(READY)
	MIXTURE_TEST_STORE=postgres OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile \
	  tests/store tests/registry tests/jobs tests/test_docs_sql.py

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache demo-run

# torch first and alone: the pin keeps later requirements from choosing another build of it.
$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet torch==2.13.0
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@
