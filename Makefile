# make reproduce [QUICK=1]   environment, data, training of all seven models, attacks, figures, report; and the site
# make test                  environment and test suite; of models this small two processes are faster than two threads
# make lint                  what ruff finds, whether the code is formatted, and whether imports keep to the layers
# make results               tables, cards and figures of the pages, from docs/results
# make docs                  the site, in docs/_build; every warning is an error
# make benchmark             speed and memory against a plain reference, in about half an hour
# make gpu                   tests and speed on a CUDA device, in under four minutes; PYTHON's own environment, into gpu.json

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: reproduce test lint results docs benchmark gpu clean

reproduce: $(VENV)/installed
	$(BIN)/pyrobayes reproduce $(if $(QUICK),--quick)
	$(MAKE) docs

test: $(VENV)/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

lint: $(VENV)/installed
	$(BIN)/ruff check --quiet .
	$(BIN)/ruff format --check --quiet .
	$(BIN)/lint-imports

results: $(VENV)/installed
	$(BIN)/python docs/write_results.py
	$(BIN)/python docs/draw_figures.py

docs: $(VENV)/installed
	$(BIN)/python -m sphinx -W --keep-going -n -q -b html docs docs/_build

benchmark: $(VENV)/installed
	$(BIN)/python tests/benchmarks/benchmark.py

gpu:
	$(PYTHON) tests/benchmarks/gpu.py --out gpu.json

# Installs afresh whenever the dependencies change; an interrupted installation starts again.
$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) docs/_build build dist *.egg-info
