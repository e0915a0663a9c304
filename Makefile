# make reproduce [QUICK=1]   environment, data, training of all seven models, attack, figures, report
# make test                  environment and test suite; of models this small two processes are faster than two threads
# make benchmark             speed and memory against a plain reference, in about a quarter of an hour

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: reproduce test benchmark clean

reproduce: $(VENV)/installed
	$(BIN)/pyrobayes reproduce $(if $(QUICK),--quick)

test: $(VENV)/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

benchmark: $(VENV)/installed
	$(BIN)/python tests/benchmarks/benchmark.py

# Installs afresh whenever the dependencies change; an interrupted installation starts again.
$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info
