PYTHON ?= python3
BIN = .venv/bin

.PHONY: setup quickstart test test-browser test-cuda test-oldest test-wheel slow check format docs dist clean

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

# the suite in the oldest versions that pyproject.toml allows, in an environment of its own, under the oldest
# Python. pip takes several GB for it. TESTS=tests/erasure is a part.
OLDEST_PYTHON ?= python3.11

test-oldest: .venv-oldest/ready
	OMP_NUM_THREADS=1 .venv-oldest/bin/python -m pytest -n auto --maxprocesses 8 $(TESTS)

.venv-oldest/ready: pyproject.toml scripts/oldest.py
	test -x .venv-oldest/bin/python || $(OLDEST_PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python scripts/oldest.py > .venv-oldest/pins.txt
	.venv-oldest/bin/python -m pip install -q --disable-pip-version-check -c .venv-oldest/pins.txt -e '.[demo,dev]'
	touch $@

# what pip gives a user today: the wheel and the newest of all it needs, in an empty environment and folder
test-wheel: dist
	set -e; folder=$$(mktemp -d); trap 'rm -rf "$$folder"' EXIT; unset PYTHONPATH; \
	$(PYTHON) -m venv "$$folder/venv"; \
	"$$folder/venv/bin/python" -m pip install -q --disable-pip-version-check dist/*.whl; \
	mkdir "$$folder/empty"; cd "$$folder/empty"; PATH="$$folder/venv/bin:$$PATH"; \
	erasure --version; erasure env; erasure quickstart

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

# the source archive, and the wheel made from it
dist: setup
	$(BIN)/python -m pip install -q --disable-pip-version-check build
	rm -rf dist
	$(BIN)/python -m build

clean:
	rm -rf runs dist site .pytest_cache .ruff_cache
