# Each target sets up .venv by itself when it is missing or older than what it is made from.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-slow test-live test-stack test-browser test-chaos lint docs ui deploy worker backup restore bench
.DEFAULT_GOAL := demo

demo: .venv/ready  ## runs the whole pipeline on handwritten digits
	$(BIN)/aemodels pipeline --preset digits

test: .venv/ready  ## runs the default suite in two processes
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

test-slow: .venv/ready  ## tests servers, kill -9 and longer trainings
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m 'slow and not live' -n 2 --dist worksteal

test-live: .venv/ready  ## tests real servers on PostgreSQL, a worker and a schedule
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m live -rs -n 2 --dist loadfile

test-stack: .venv/ready  ## tests the image and the compose file, with Docker
	$(BIN)/python -m pytest -m stack

test-browser: .venv/ready  ## tests the pages in Chromium
	$(BIN)/python -m pytest -m browser

test-chaos: .venv/ready  ## inflicts faults for an hour (kill -9, servers away, a full disk), and goes on where it was
	$(BIN)/python -m pytest -m chaos -rs

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest --collect-only -q >/dev/null  # tests import names that mypy does not look at

docs: .venv/ready-docs  ## builds the pages as a site in build/site, without network; with --quiet no warning would fail
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --clean

ui: .venv/ready  ## serves MLflow's pages on this machine
	$(BIN)/aemodels ui

deploy: .venv/ready  ## brings the Prefect server at PREFECT_API_URL to the state of prefect.yaml
	$(BIN)/python -m flows.deployment.deploy

# Prefect's smallest interval; threads that spin would starve those of another run on this machine.
worker: export PREFECT_FLOWS_HEARTBEAT_FREQUENCY ?= 30
worker: export OMP_WAIT_POLICY ?= passive
worker: export DO_NOT_TRACK ?= 1
worker: .venv/ready  ## runs what is due on this machine, until Ctrl-C
	$(BIN)/prefect worker start --pool aemodels --type aemodels

backup:  ## saves databases and artifacts of the stack below backups/
	@ops/backup.sh

restore:  ## restores what `make backup` has saved: make restore FROM=backups/...
	@ops/restore.sh "$(FROM)"

bench: .venv/ready-bench  ## measures speed, side by side with others; OPTIONS="--quick" is the short form
	$(BIN)/python -m benchmarks $(OPTIONS)
	$(if $(filter-out --quick,$(OPTIONS)),,$(BIN)/python -m benchmarks.images $(OPTIONS))  # as a whole, or with --quick

.venv/ready-docs: .venv/ready
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	touch $@

.venv/ready-bench: .venv/ready
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[bench]'
	$(BIN)/python -m pip uninstall --quiet --yes dataclasses  # pythae asks for a copy of Python 3.6's, which breaks Prefect
	touch $@

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed: make PYTHON=python3.11") if sys.version_info < (3, 11) else None'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	touch $@
