# Every target sets up what it needs by itself: Python 3.11 or later is all that a machine must have.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test test-all check test-gpu docs lock clean

demo: $(VENV)/installed  ## train on the example shop on the CPU, then chat
	$(BIN)/hoidap demo

test: check  ## lint, types, imports, docs and tests
	$(BIN)/python -m pytest -n 2 --dist loadfile

# What fails here once has one more chance, alone: a busy machine may be too slow for a browser or a load test.
test-all: test  ## and what takes minutes: runs killed at every moment, a browser, a load test, the wheel in an empty folder
	$(BIN)/python -m pytest -n 2 -m slow || $(BIN)/python -m pytest -m slow --last-failed

check: $(VENV)/installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_imports.py tests/test_docs.py

test-gpu:  ## the tests that need a CUDA device, with the python3 and PyTorch of the machine
	$(PYTHON) -m pytest -m gpu tests/test_gpu.py tests/test_gpu_training.py tests/test_t4.py

# PyTorch comes first and pinned exactly: any other request for it may bring several gigabytes of CUDA.
$(VENV)/torch: constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || (echo 'hoidap needs Python 3.11 or later' && false)
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch==2.13.0
	touch $@

$(VENV)/installed: $(VENV)/torch pyproject.toml
	$(PIP) --editable .
	touch $@

$(VENV)/installed-dev: $(VENV)/torch pyproject.toml
	$(PIP) --editable '.[dev]'
	touch $@ $(VENV)/installed

docs: $(VENV)/installed-dev  ## write docs/cli.md from the commands
	$(BIN)/python tests/test_docs.py

lock:  ## write constraints.txt from what is installed and passed
	$(BIN)/python -m pip freeze --exclude-editable | sed 's/+cpu$$//' > constraints.txt

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
