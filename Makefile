# make run: everything from nothing, needs only Python 3.11 or newer.   make quick, make test: some tests, every test.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# What only tests need: the libraries that the engine is held against.
PEERS := $(VENV)/.peers
# Test processes: two more than cores, as the one with the SLURM tests and those that start programs wait much of the time; five at most.
CORES := $(shell getconf _NPROCESSORS_ONLN)
WORKERS := $(shell test $(CORES) -lt 4 && echo $$(($(CORES) + 2)) || echo 5)

# Bytecode is kept, even where the shell says otherwise: without, each test process spends ten seconds compiling what it reads.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help run quick test check lock bench profile clean

help:
	@echo "make run    set up $(VENV) and run the workflow: results/report.html"
	@echo "make quick  tests of plain code and of tiny models, a minute or two: while you work"
	@echo "make test   set up $(VENV) and run every test"
	@echo "make check  linters, formatters, type checker, documentation"
	@echo "make bench  measure against nnsight, pyvene, TransformerLens, scikit-learn in $(VENV)-bench: docs/benchmarks.md"
	@echo "make profile  where the seconds of the default run go"
	@echo "make lock   write requirements.lock, requirements-peers.lock and envs/ anew from pyproject.toml"
	@echo "make clean  remove $(VENV) and results"

run: $(READY)
	$(BIN)/snakemake --cores all --resources gpu=1

quick: $(READY)
	$(BIN)/python -m pytest --numprocesses=auto --maxprocesses=4 --dist=loadfile --quick

test: $(READY) $(PEERS)
	$(BIN)/python -m pytest --numprocesses=$(WORKERS) --dist=loadfile --no-loadscope-reorder --durations=40

check: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/snakefmt --check Snakefile rules
	$(BIN)/mypy
	$(BIN)/snakemake --lint
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

$(READY): requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "make: Python 3.11 or newer is needed; make PYTHON=python3.12 run")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -r requirements.lock
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps -e .
	touch $@

# Not for `make run`. The workflow's packages stay as they are: the constraint refuses anything else.
$(PEERS): requirements-peers.lock $(READY)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint requirements.lock -r requirements-peers.lock
	touch $@

# An environment of its own, as one peer more needs far more packages. BENCH=--quick tries whether everything runs.
bench: $(VENV)-bench/.ready
	$(VENV)-bench/bin/python -m benchmarks.run $(BENCH)

$(VENV)-bench/.ready: requirements.lock requirements-peers.lock benchmarks/requirements.txt pyproject.toml
	test -x $(VENV)-bench/bin/python || $(PYTHON) -m venv $(VENV)-bench
	$(VENV)-bench/bin/python -m pip install --disable-pip-version-check --quiet -r requirements.lock -r benchmarks/requirements.txt
	$(VENV)-bench/bin/python -m pip install --disable-pip-version-check --quiet --no-deps -e .
	touch $@

profile: $(READY)
	$(BIN)/python -m benchmarks.profile_run
	$(BIN)/python -m benchmarks.page

# In a fresh environment, so that nothing but what pyproject.toml asks for gets in. Local version labels (+cpu) are left out:
# which build of torch is installed is the machine's choice.
lock:
	rm -rf $(VENV)-lock
	$(PYTHON) -m venv $(VENV)-lock
	$(VENV)-lock/bin/python -m pip install --disable-pip-version-check --quiet -e '.[test,docs]'
	$(VENV)-lock/bin/python -m pip freeze --exclude-editable | sed 's/+[a-z0-9.]*$$//' > requirements.lock
	$(VENV)-lock/bin/python envs/update.py
	$(VENV)-lock/bin/python -m pip install --disable-pip-version-check --quiet --constraint requirements.lock -e '.[peers]'
	$(VENV)-lock/bin/python -m pip freeze --exclude-editable | sed 's/+[a-z0-9.]*$$//' | grep -vxFf requirements.lock > requirements-peers.lock
	rm -rf $(VENV)-lock

clean:
	rm -rf $(VENV) $(VENV)-lock $(VENV)-bench results .snakemake .cache
