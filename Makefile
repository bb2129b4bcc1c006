# Every command of the project. `make` alone lists them.
SHELL := /bin/bash
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do command -v $$p && break; done)
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint unit broker bench proof clean

help: ## list the commands
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

setup: .venv/.ready ## make the environment: Python packages, Java and Maven (installs what is missing, or says what to install)

.venv/.ready: requirements/dev.txt pyproject.toml .ci/needs
	@bash .ci/needs
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements/dev.txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	$(BIN)/python -c "from pipeline.broker.jars import runtime; runtime()"
	@touch $@

demo: setup ## the main job from nothing: where each of the sample messages went, and one decision explained
	$(BIN)/lockgate demo

lint: setup ## ruff, mypy strict, import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Two processes, whole files each: most tests on a broker wait for it more than they work.
test: lint ## all that CI runs: lint, unit and property tests, the tests on a real Apache Kafka (at most 25 minutes)
	$(BIN)/python -m pytest -q -n 2 --dist loadfile -m "not proof"

unit: setup ## the tests that need no broker
	$(BIN)/python -m pytest -q -m "not broker and not proof"

broker: setup ## the tests on a real Apache Kafka
	$(BIN)/python -m pytest -q -m "broker and not proof"

bench: setup ## speed, side by side with peers, into build/bench.json
	$(BIN)/python -m tests.bench

proof: setup ## the long forms of the proofs: many kills, long steps (resumable: what passed is not run again)
	$(BIN)/python -m pytest -q -m proof --proofs build/proof.json

clean: ## remove what was built (not the broker's data)
	rm -rf build dist .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis
