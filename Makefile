# Every target works in a fresh clone: it first makes the environment that it needs.
PYTHON ?= python3
export PYTHON
BIN := .venv/bin
# What does not need mmcv's operators.
CORE_TESTS := tests/smoothing tests/engine tests/models tests/test_environment.py

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-slow test-faults lint format test-floor test-frameworks test-libraries test-onedl docs lock clean

help:  ## Show this help.
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

demo: .venv/built  ## Train FixMatch and BYOL with few labels in minutes, and compare the teachers.
	$(BIN)/python tools/demo.py

test: lint  ## Check style and types, and run the tests, on up to four cores.
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile -m "not slow" --ignore tests/faults

test-slow: .venv/built  ## Start the tools and launchers as a user does; build and try the wheel.
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile -m slow tests

test-faults: .venv/built  ## Kill runs, damage checkpoints, mutate configs: all of tests/faults.
	SE_MM_FAULTS=full $(BIN)/python -m pytest -n 2 --dist worksteal tests/faults

lint: .venv/built  ## Check format, style and types.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: .venv/built  ## Format the code and apply automatic fixes.
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

test-floor: .venv-floor/installed  ## Test the core and the hooks with torch 2.1 and mmcv-lite.
	.venv-floor/bin/python -m pytest $(CORE_TESTS)

test-frameworks: .venv-frameworks/installed  ## Test the PyTorch class with Lightning, timm and lightly.
	.venv-frameworks/bin/python -m pytest tests/frameworks tests/smoothing

test-onedl: .venv-onedl/installed  ## Test the core and the hooks with the OneDL forks.
	.venv-onedl/bin/python -m pytest $(CORE_TESTS)

test-libraries: .venv-libraries/installed  ## Train configs of other OpenMMLab libraries, and compare with the stock hook.
	.venv-libraries/bin/python -m pytest --disable-warnings tests/libraries

docs: .venv-docs/installed  ## Build the documentation into build/docs; a broken reference is an error.
	@NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --strict

.venv/installed: requirements/openmmlab.txt requirements/install.sh
	@bash requirements/install.sh openmmlab .venv
	@touch $@

# The update of teachers on the CPU is in C.
.venv/built: .venv/installed se_mm/smoothing/kernels/cpu_kernel.c setup.py
	@$(BIN)/python -m pip --disable-pip-version-check -qq install --no-deps --no-build-isolation -e .
	@touch $@

# Without torch and without se_mm, whose docstrings are read as text.
.venv-docs/installed: requirements/docs.txt
	@rm -rf .venv-docs && $(PYTHON) -m venv .venv-docs
	@.venv-docs/bin/pip --disable-pip-version-check -qq install --no-deps -r $<
	@touch $@

.venv-%/installed: requirements/%.txt requirements/install.sh
	@bash requirements/install.sh $* .venv-$*
	@touch $@

lock:  ## Pin the newest versions that requirements/*.in allow (needs uv).
	@cd requirements && for name in openmmlab floor onedl frameworks docs; do \
	  uv --config-file uv.toml pip compile -q --upgrade --universal --python-version 3.10 \
	    --no-python-downloads --override override.txt --no-annotate --no-header $$name.in \
	    | grep -v "'never'" > $$name.txt || exit 1; \
	done
	@cd requirements && uv --config-file uv.toml pip compile -q --upgrade --universal \
	  --python-version 3.10 --no-python-downloads --no-deps --no-annotate --no-header \
	  libraries.in > libraries.txt

clean:  ## Remove the environments and the output of runs.
	rm -rf .venv .venv-floor .venv-onedl .venv-frameworks .venv-libraries .venv-docs work_dirs build dist *.egg-info se_mm/smoothing/kernels/*.so
