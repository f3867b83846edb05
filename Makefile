# Set-up happens once, and again when pyproject.toml changes. PYTHON=... names the interpreter for .venv,
# PIP_ARGS="..." adds options to pip (such as an index of CPU-only wheels), ARGS="..." to the command run,
# WORKERS=... sets how many processes run the tests.
VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= 2
# A module's tests stay in one process, with its fixtures; tests/conftest.py sets the order of the modules.
PYTEST := $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder
# After `make test` in the same call, what that has not run.
REST := $(if $(filter test,$(MAKECMDGOALS)),-m slow)
EXAMPLES ?= 2000
AUDIT := build/audit
SAM2 := build/sam2
BENCH ?= zero_shot masks gem pooling jpeg store annotate end_to_end memory startup train
PIP := $(BIN)/python -m pip --disable-pip-version-check install $(PIP_ARGS)

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo tune test test-all fuzz audit lint bench docs clean

help: ## show this list
	@sed -nE 's/^([a-z-]+):.*## (.*)/make \1	\2/p' $(MAKEFILE_LIST) | expand -t 15

demo: $(VENV)/.core ## draw a picture book, label it with the built-in models, train on it, report both
	$(BIN)/segray demo $(ARGS)

tune: $(VENV)/.dev ## search tau and epsilon for 4 and for 16 masks of a picture book; the same command resumes
	test -e runs/tune/book/class_names.txt || $(BIN)/segray picture-book out=runs/tune/book n=120
	test -e runs/tune/labels/run.json || \
		$(BIN)/segray annotate configs/picture_book.yaml images=runs/tune/book/images out=runs/tune/labels
	$(BIN)/segray tune configs/tune/picture_book.yaml $(ARGS)

test: $(VENV)/.dev ## run unit tests and one real run of each command, in ten minutes on two cores
	$(PYTEST) -m "not slow" $(ARGS)

# These tests kill processes and wait for others. What failed beside other tests runs once more, alone: that result counts.
test-all: $(VENV)/.dev ## run all tests, such as those that kill processes and machines
	$(PYTEST) $(REST) $(ARGS) || { test $$? = 1 && echo "Once more, alone: what failed." && \
		$(BIN)/python -m pytest -n 0 --last-failed --last-failed-no-failures none $(REST) $(ARGS); }

lint: $(VENV)/.dev ## check style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -p segray -p tests -p tools -p benchmarks

bench: $(VENV)/.dev ## run every benchmark, one program per claim
	@set -e; for name in $(BENCH); do \
		echo "== $$name"; $(BIN)/python -m benchmarks.$$name $(ARGS); \
	done

fuzz: $(VENV)/.dev ## give hostile inputs to every reader; EXAMPLES=2000 of each kind
	HYPOTHESIS_PROFILE=long FUZZ_EXAMPLES=$(EXAMPLES) $(PYTEST) --timeout 0 tests/fuzz $(ARGS)

# Meta's SAM 2, whose masks tests and a benchmark compare with, in a folder of its own: without its
# requirements, which would bring another torch, and without its CUDA extension.
$(SAM2): $(VENV)/.dev
	SAM2_BUILD_CUDA=0 $(PIP) -q --no-deps --no-build-isolation --target $(SAM2) 'sam2>=1.1,<2' \
		'hydra-core>=1.3,<1.4' 'omegaconf>=2.3,<2.4' 'antlr4-python3-runtime==4.9.3' iopath portalocker
	touch $(SAM2)

audit: $(VENV)/.dev $(AUDIT)/bin/pip-audit ## look up the installed packages in the known advisories
	$(AUDIT)/bin/pip-audit --format json --skip-editable \
		--path "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" > build/audit.json || true
	$(BIN)/python tools/advisories.py build/audit.json

docs: $(BIN)/python ## build the documentation site into build/site
	$(PIP) -q 'mkdocs-material>=9.6,<10'
	$(BIN)/mkdocs build --strict

clean: ## remove caches and build products; .venv and all outputs stay
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

$(BIN)/python:
	@for python in $(PYTHON) python3.12 python3.13 python3.11 python3.14 python3 python; do \
		if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
			echo "$$python -m venv $(VENV)"; \
			"$$python" -m venv $(VENV) && exit 0; \
			rm -rf $(VENV); exit 1; \
		fi; \
	done; \
	echo "Python 3.11 or newer is needed; name one with PYTHON=..." >&2; exit 1

# In an environment of its own: what it needs is not what segray ships.
$(AUDIT)/bin/pip-audit: | $(BIN)/python
	$(BIN)/python -m venv $(AUDIT)
	$(AUDIT)/bin/python -m pip --disable-pip-version-check install -q 'pip-audit>=2.9,<3'

$(VENV)/.core: pyproject.toml | $(BIN)/python
	$(PIP) -e .
	@touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	$(PIP) -e '.[dev]'
	@touch $@ $(VENV)/.core
