# hilum: `make demo` shows the whole way once; `make test` proves it. `make help` lists the rest.
SHELL := /bin/bash
# Folders of the checkout (docker/) must not stand for Python modules of that name.
export PYTHONSAFEPATH := 1
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Rows at which `make bench` measures judgement; without the last, minutes instead of an hour or two.
GROWTH ?= 1000,20000,223414
# Where the image sets of `make reports` lie, and which of them.
SOURCES ?= ../shared/data
DATASETS ?= nih,covid_chestxray,kermany,oasis

.PHONY: help demo test test-all soak lint bench bench-serving reports lock pipeline clean

help:
	@echo "make demo      dataset revision -> validated, trained, judged, released, served, answered"
	@echo "make test      the test suite (make test-all adds the slow ones)"
	@echo "make soak      the server for ten minutes at four fifths of its load, and 20,000 damaged files"
	@echo "make lint      ruff, mypy --strict, import-linter"
	@echo "make bench     performance as ratios, each in one run (GROWTH=1000,20000: without CheXpert's whole size)"
	@echo "make bench-serving  both fronts beside FastAPI, LitServe, BentoML and KServe, over what the machine can do without a server"
	@echo "make reports   the whole judgement of real image sets (SOURCES=folder, DATASETS=nih,...), and its summary pages"
	@echo "make pipeline  write build/hilum-training.yaml for the Kubeflow UI"
	@echo "make lock      resolve requirements.in into requirements.lock anew"

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c "import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))" \
	  || { echo "hilum needs Python 3.11 or 3.12; name one with make PYTHON=python3.12"; exit 2; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV) >/dev/null 2>&1 \
	  || { $(PYTHON) -m venv --clear --without-pip $(VENV) \
	       && $(PYTHON) -m pip --python $(BIN)/python install --quiet pip 2>/dev/null; } \
	  || { test "$$(id -u)" = 0 && echo "installing python3-venv, which Debian's Python lacks" \
	       && { apt-get update -qq; apt-get install -y -qq python3-venv >/dev/null; } && $(PYTHON) -m venv --clear $(VENV); } \
	  || { echo "this Python has neither venv with pip nor pip; on Debian: apt-get install python3-venv"; exit 2; }
	@echo "installing the pinned dependencies (about 2.5 GB on disk, some minutes the first time)"
	@$(BIN)/pip install --disable-pip-version-check --requirement requirements.lock
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

demo: $(STAMP)
	@$(BIN)/dvc pull --quiet data.dvc
	@$(BIN)/python -m pipelines.demo --out out/demo

test: $(STAMP)
	@$(BIN)/dvc pull --quiet data.dvc
	$(BIN)/pytest

test-all: $(STAMP)
	@$(BIN)/dvc pull --quiet data.dvc
	$(BIN)/pytest -m "slow or not slow"

# HILUM_SOAK_SECONDS=60: a shorter one.
soak: $(STAMP)
	$(BIN)/pytest -m slow -s tests/serving tests/fuzz

lint: $(STAMP)
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports

bench: $(STAMP)
	$(BIN)/python benchmarks/ingest.py
	$(BIN)/python benchmarks/validation.py
	$(BIN)/python benchmarks/loading.py
	$(BIN)/python benchmarks/resampling.py
	$(BIN)/python benchmarks/growth.py --sizes $(GROWTH)
	$(BIN)/python benchmarks/engines.py

# The load generator is Debian's wrk; the other servers are installed into build/bench-serving.
bench-serving: $(STAMP)
	$(BIN)/python benchmarks/serving

reports: $(STAMP)
	$(BIN)/python benchmarks/reports --sources $(SOURCES) --datasets $(DATASETS)

pipeline: $(STAMP)
	$(BIN)/python -m pipelines.compile --out build

# The lock names versions only: no host, no build (torch is the CPU build where one is offered, else the default one).
lock:
	rm -rf build/lock && $(PYTHON) -m venv build/lock && build/lock/bin/pip install -q -r requirements.in
	(echo "# Resolved from requirements.in by 'make lock'."; \
	 build/lock/bin/pip freeze --all --exclude pip | sed -E 's/ @ .*//; s/\+cpu$$//') > requirements.lock

clean:
	rm -rf out build
