PYTHON ?= python3
BIN = .venv/bin

.PHONY: setup quickstart test test-browser test-cuda slow check format docs clean

setup: .venv/ready

.venv/ready: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[demo,dev]'
	touch $@

.venv/docs-ready: .venv/ready
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[docs]'
	touch $@

quickstart: setup
	$(BIN)/erasure quickstart

# a process per core with one thread each: faster than the threads of one process
test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 8

test-browser: setup
	@command -v chromium >/dev/null || { echo "make test-browser needs chromium: apt-get install chromium"; exit 2; }
	$(BIN)/python -m pytest -m browser tests/browser

test-cuda: setup
	CUDA_VISIBLE_DEVICES=$${CUDA_VISIBLE_DEVICES-0} $(BIN)/python -m pytest -m cuda tests/cuda

slow: setup
	$(BIN)/python -m pytest -m slow

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/python -m pytest -q tests/test_layers.py

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# the documentation, into site/ (ignored by git); to search it, serve it: python -m http.server -d site
docs: setup .venv/docs-ready
	PYTHONPATH=datasets HF_HUB_OFFLINE=1 $(BIN)/mkdocs build --strict

clean:
	rm -rf runs dist site .pytest_cache .ruff_cache
