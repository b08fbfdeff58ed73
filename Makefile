# Every target works in a fresh clone: it first makes the environment that it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP_QUIET := -q --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help demo test lint format test-floor test-onedl clean

help:  ## Show this help.
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

demo: $(VENV)/installed  ## Train BYOL on embedded images under TMA, SE and STS, and compare them.
	$(BIN)/python tools/demo.py

test: lint  ## Check style and types, and run the tests.
	$(BIN)/python -m pytest

lint: $(VENV)/installed  ## Check format, style and types.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(VENV)/installed  ## Format the code and mend what can be mended.
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(VENV)/installed: requirements/openmmlab.txt requirements/lock.txt setup.py
	@$(PYTHON) requirements/check_machine.py
	@echo "[1/5] making $(VENV)"
	@rm -rf $(VENV)
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install $(PIP_QUIET) 'setuptools>=77,<81' wheel -c requirements/lock.txt ninja
	@echo "[2/5] installing torch: 1 to 5 minutes"
	@$(BIN)/pip install $(PIP_QUIET) -c requirements/lock.txt torch torchvision numpy
	@echo "[3/5] building mmcv with its operators: 5 to 10 minutes the first time"
	@# In an isolated build torch is missing, and mmcv leaves its operators out without a word.
	@CFLAGS=-g0 MMCV_WITH_OPS=1 $(BIN)/pip install $(PIP_QUIET) --no-build-isolation -c requirements/lock.txt mmcv
	@echo "[4/5] installing mmengine, mmpretrain, mmdet and the rest"
	@$(BIN)/pip install $(PIP_QUIET) -r requirements/openmmlab.txt
	@echo "[5/5] installing se_mm"
	@$(BIN)/pip install $(PIP_QUIET) --no-deps --no-build-isolation -e .
	@$(BIN)/python -c 'import mmcv.ops, se_mm'
	@touch $@

test-floor: .venv-floor/installed  ## Test the core and the hooks with torch 2.1 and mmcv-lite.
	.venv-floor/bin/python -m pytest tests/smoothing tests/engine tests/models tests/test_environment.py

test-onedl: .venv-onedl/installed  ## Test the core and the hooks with the OneDL forks.
	.venv-onedl/bin/python -m pytest tests/smoothing tests/engine tests/models tests/test_environment.py

.venv-%/installed: requirements/%.txt setup.py
	@$(PYTHON) requirements/check_machine.py $*
	@echo "making .venv-$*: a few minutes"
	@rm -rf .venv-$*
	@$(PYTHON) -m venv .venv-$*
	@.venv-$*/bin/pip install $(PIP_QUIET) 'setuptools>=77,<81' wheel
	@.venv-$*/bin/pip install $(PIP_QUIET) -r requirements/$*.txt
	@.venv-$*/bin/pip install $(PIP_QUIET) --no-deps --no-build-isolation -e .
	@.venv-$*/bin/python -c 'import se_mm'
	@touch $@

clean:  ## Remove the environments and what runs have written.
	rm -rf .venv .venv-floor .venv-onedl work_dirs build dist *.egg-info
