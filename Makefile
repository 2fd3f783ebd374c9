# `make demo`: everything from Geant4 showers to the report. `make test`: all kinds of checks, `make test-all`: all checks. `make reports`: all pages. Each sets up .venv itself.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export OMP_NUM_THREADS ?= $(shell nproc)
PROCESSES := -n auto --dist loadfile --no-loadscope-reorder

.PHONY: demo test test-all reports benchmark mutate clean

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "caloedge needs Python 3.11 or newer; call make PYTHON=python3.x")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[train,hls4ml,rtl,geant4,jets,belle2,fidelity,fastsim,dev]'
	touch $@

demo: $(VENV)/.ready
	test -f runs/demo/showers.h5 || $(BIN)/caloedge simulate runs/demo/showers.h5 --showers 400 --seed 2026
	$(BIN)/caloedge run seed_finder_demo --output runs/demo --independent runs/demo/showers.h5

test: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/pytest $(PROCESSES) -m 'not exhaustive'

# The same with firmware of every shipped model and more random networks: three quarters of an hour on two cores.
test-all: $(VENV)/.ready
	OMP_NUM_THREADS=1 $(BIN)/pytest $(PROCESSES)

# Every page with all tables and figures, and reports/index.html.
reports: $(VENV)/.ready
	$(BIN)/caloedge report reports --readme README.md

benchmark: $(VENV)/.ready
	$(BIN)/python benchmarks/throughput.py
	$(BIN)/python benchmarks/reconstruction.py
	$(BIN)/python benchmarks/images.py
	$(BIN)/python benchmarks/training_options.py
	$(BIN)/python benchmarks/graphs.py

# By hand, for hours: `make mutate MUTANTS='caloedge.compiler.ranges*'` takes one module, `mutmut show NAME` prints a survivor.
MUTANTS ?=
mutate: $(VENV)/.ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[mutation]'
	OMP_NUM_THREADS=1 $(BIN)/mutmut run --max-children 1 $(MUTANTS)
	$(BIN)/mutmut results

clean:
	rm -rf runs build mutants $(VENV)
