# make run: sample the shipped model and score it; make test: lint, types and tests; make setup: the environment alone.
# make docs: API reference and notebooks as pages in site/; make notebooks: execute them and keep what they show.
# make quick: lint, types and the fast tests; make coverage: untested lines; make lowest: the lowest supported versions.
PYTHON ?= python3
BIN := .venv/bin
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile
EXTRAS := qm9,report,plot,parquet,xtb,posebusters,sbi,zoo,ase,docs,dev

.PHONY: setup run lint types fast quick test coverage lowest docs notebooks clean

setup: .venv/.ready

.venv/.ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "molflow needs Python 3.11 or later; name one with PYTHON=")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[$(EXTRAS)]'
	$(BIN)/python -m pip install --quiet --no-deps "$$(grep '^sbibm==' constraints.txt)"  # as data, without the packages it pins
	touch $@

run: setup
	$(BIN)/molflow sample --model qm9 -n 1000 --seed 0 --force --out out/molecules.sdf --json out/report.json

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

quick: setup
	$(MAKE) --no-print-directory --jobs 2 --output-sync lint types fast

fast: setup
	$(PYTEST) -m 'not slow' --durations 5

test: lint types
	$(PYTEST)

coverage: setup
	$(BIN)/python -m pytest --cov --cov-report term-missing

docs: setup
	$(BIN)/python .ci/docs.py

notebooks: setup
	$(BIN)/python experiments/notebooks/execute.py

# Each lower bound in pyproject.toml becomes the version that is installed, with Python 3.11.
lowest:
	test -x .venv-lowest/bin/python || $(PYTHON) -m venv .venv-lowest
	sed -n '/^dependencies/,/^\[project.scripts/{s/>=/==/g;s/"/\n"/g;p}' pyproject.toml | sed -n 's/^"\([a-z0-9-]*==.*\)/\1/p' > .venv-lowest/constraints.txt
	.venv-lowest/bin/python -m pip install --quiet --constraint .venv-lowest/constraints.txt --editable '.[$(EXTRAS)]'
	.venv-lowest/bin/python -m pip install --quiet --no-deps "$$(grep '^sbibm==' constraints.txt)"
	.venv-lowest/bin/python -m pytest -m 'not slow'

clean:
	rm -rf .venv .venv-lowest out site build *.egg-info
