# Every target sets itself up: only Python 3.10+ and make are needed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
OUT ?= out

.PHONY: demo test test-fast lint types bench figures clean setup
setup: $(STAMP)

# torch comes first and pinned, so that nothing else pulls a build with CUDA packages.
$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev]"
	touch $@

demo: $(STAMP)
	$(BIN)/wherefrom demo --out $(OUT)/demo

# Compiled modules are kept (PYTHONDONTWRITEBYTECODE empty): each worker would compile all of them again.
# A worker that has nothing left takes tests from another one (worksteal).
PYTEST := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal

test: $(STAMP)
	$(PYTEST)

# Without the few tests that take seconds each (marked slow): while one works on something else.
test-fast: $(STAMP)
	$(PYTEST) -m "not slow"

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

# Peers are installed into environments of their own under benchmarks/.envs.
bench: $(STAMP)
	$(BIN)/python benchmarks/run.py --out $(OUT)/bench
	$(BIN)/python benchmarks/kronecker/run.py --out $(OUT)/kronecker
	$(BIN)/python benchmarks/labels/run.py --out $(OUT)/labels

figures: $(STAMP)
	$(BIN)/python examples/koh_liang_2017/all_figures.py --out $(OUT)/figures

clean:
	rm -rf $(VENV) $(OUT) benchmarks/.envs
