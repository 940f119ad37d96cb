# Two commands do everything: `make demo` shows the library at work, `make test` checks it.
# Both create .venv and install what they need when it is missing; after that they need no network.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
OUTPUT ?= out/demo
# Another run in the demo's own folder gives way; one in a folder that you name does not.
REPLACE ?= $(if $(filter out/demo,$(OUTPUT)),--replace)

.PHONY: demo test test-slow lint bench docs clean

demo: $(INSTALLED)
	$(BIN)/vitrim compare --output $(OUTPUT) $(REPLACE)

test: $(INSTALLED) lint
	$(BIN)/python -m pytest -n 2 --dist worksteal --durations=15

test-slow: $(INSTALLED)
	$(BIN)/python -m pytest -m slow

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(INSTALLED)
	$(BIN)/python -m benchmarks suite

docs: $(INSTALLED)
	$(BIN)/python docs/build.py

clean:
	rm -rf $(VENV) out .pytest_cache .ruff_cache .mypy_cache

$(INSTALLED): pyproject.toml constraints.txt
	PYTHON=$(PYTHON) sh scripts/make-venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@
