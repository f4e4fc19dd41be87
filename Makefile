# Two commands set everything up on a fresh machine: make demo, make test.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
OUTPUT ?= build/demo
EPOCHS ?= 2
# make demo LOG=events.csv FORMAT=csv PREPARE="--split last_fraction --columns time=timestamp"
LOG ?=
FORMAT ?= taobao
PREPARE ?=

export PYTHONDONTWRITEBYTECODE ?= 1

.PHONY: demo test lint docs bench crossing install clean

demo: install
	$(BIN)/tfdare demo --output $(OUTPUT) --epochs $(EPOCHS) \
		$(if $(LOG),--log $(LOG) --format $(FORMAT)) $(if $(PREPARE),-- $(PREPARE))

# A worker that crashes ends the run: pytest-xdist would wait for its tests forever.
test: lint
	$(BIN)/python -m pytest -q -n 2 --dist loadfile --max-worker-restart 0 tests
	TF_USE_LEGACY_KERAS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile --max-worker-restart 0 -m keras tests

lint: install
	$(BIN)/ruff check --quiet .
	$(BIN)/ruff format --check --quiet .
	$(BIN)/mypy

docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

bench: install
	$(BIN)/python -m tests.benchmarks

crossing: install
	$(BIN)/python -m tests.benchmarks.crossing

install: $(VENV)/.installed

$(VENV)/.installed: setup.py constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
		--editable '.[test]'
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info
