# make run: sample the shipped model and score it; make test: lint, types and tests; make setup: the environment alone.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup run lint types test clean

setup: .venv/.ready

.venv/.ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "molflow needs Python 3.11 or later; name one with PYTHON=")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[qm9,report,parquet,xtb,posebusters,dev]'
	touch $@

run: setup
	$(BIN)/molflow sample --model qm9 -n 1000 --seed 0 --out out/molecules.sdf --json out/report.json

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

test: lint types
	$(BIN)/python -m pytest

clean:
	rm -rf .venv out build *.egg-info
