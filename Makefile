# One front door: make serve · setup · test · test-full · lint · bench · lock
PYTHON ?= python3
BIN := .venv/bin
ON := tests/e2e
PIP := $(BIN)/python -m pip --disable-pip-version-check
.DEFAULT_GOAL := help
.PHONY: help setup serve test test-full test-cpu test-vllm fuzz lint format bench lock clean

help:            ## what there is
	@grep -E '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed -E 's/: .*## /\t/' | expand -t 12

setup: .venv/ready  ## .venv with the command tingdao and the embedded model
	@echo "Ready: $(BIN)/tingdao --help"

serve: setup     ## set up and serve on http://127.0.0.1:8000
	$(BIN)/tingdao serve

test: .venv/tools  ## set up and run the fast tests, on all cores
	$(BIN)/python -m pytest -q -n auto --maxprocesses 8

test-full: .venv/torch  ## the tests with a real server, real models, PyTorch, a browser and Node (needs chromium, npm)
	$(BIN)/python -m pytest -q -m "(e2e or qwen) and not vllm"

test-cpu: .venv/torch  ## the tests with a real server once more, with Qwen3-ASR on OpenVINO as its model
	ENGINE=cpu $(BIN)/python -m pytest -q -m "e2e and not vllm" $(ON)

test-vllm: .venv/torch  ## the tests beside a real vLLM on a CPU, which they install (0.8 GB)
	$(BIN)/python -m pytest -q -m vllm

fuzz: .venv/tools  ## ten minutes of made-up requests against the OpenAPI document
	FUZZ_SECONDS=600 $(BIN)/python -m pytest -q -m e2e tests/e2e/test_schema.py

lint: .venv/tools  ## ruff, mypy --strict, import-linter
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/tools  ## let ruff rewrite what it can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: .venv/tools  ## front-end speed and accuracy on this machine
	$(BIN)/python benchmarks/frontend.py
	$(BIN)/python benchmarks/accuracy.py

lock: .venv/tools  ## renew constraints.txt from pyproject.toml
	$(PIP) install -q uv
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --no-header --no-annotate --no-emit-index-url --no-emit-find-links --extra embedded --extra dev --extra qwen --extra japanese --extra cpu --extra text --extra postgres --extra otel --override tools/lock-overrides.txt pyproject.toml -o constraints.txt

clean:           ## remove the environments
	rm -rf .venv .venv-vllm

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Tingdao needs Python 3.11 or newer; try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv .venv

.venv/ready: .venv/bin/python pyproject.toml constraints.txt
	$(PIP) install -q -c constraints.txt -e '.[embedded]'
	@touch $@

.venv/tools: .venv/ready
	$(PIP) install -q -c constraints.txt -e '.[embedded,dev]'
	@touch $@

# PyTorch first and alone, so that its CPU build is taken where one is offered.
.venv/torch: .venv/tools
	$(PIP) install -q torch==2.13.0
	$(PIP) install -q -c constraints.txt -e '.[embedded,dev,qwen,japanese]'
	@touch $@
