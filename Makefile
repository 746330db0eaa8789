# Two commands matter: `make demo` shows the whole road on generated boards, `make test` checks everything.
# Both make the environment first if it is missing. Python 3.11+ and make are all they need.

# The first Python that runs and fits; 3.11 is the one that constraints.txt was tested with.
PYTHON ?= $(or $(shell for python in python3.11 python3.12 python3.13 python3; do \
	$$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && echo $$python && break; done),python3)
VENV   := .venv
BIN    := $(VENV)/bin
# GPU=1 or GPU=0 decides; unset, an NVIDIA driver in sight does.
GPU    ?= $(if $(shell command -v nvidia-smi 2>/dev/null),1,0)
EXTRAS := $(if $(filter 1,$(GPU)),gpu,cpu),quantize,weights,dev
STAMP  := $(VENV)/.installed-$(GPU)

export RAY_USAGE_STATS_ENABLED := 0

.PHONY: help env demo test test-slow lint format bench clean

help:  ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

env: $(STAMP)  ## Make .venv/ with everything in it

$(STAMP): pyproject.toml constraints.txt
	@echo "== Installing into $(VENV) ($(EXTRAS))"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@# The runtimes for CPU and GPU share one folder and overwrite each other: only one may be there.
	@if ls $(VENV)/.installed-* >/dev/null 2>&1; then \
		$(BIN)/uv pip uninstall --quiet --python $(BIN)/python onnxruntime onnxruntime-gpu; rm -f $(VENV)/.installed-*; fi
	$(BIN)/python -m pip install --quiet --upgrade pip uv
	UV_FIND_LINKS="$${PIP_FIND_LINKS:-}" $(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -e '.[$(EXTRAS)]' -c constraints.txt
	@touch $@
	@echo "== Ready: $(BIN)/changenet --help"

demo: env  ## The whole road on generated boards: sample, check, train, evaluate, inference, export, serve
	$(BIN)/changenet quickstart --out quickstart

lint: env  ## Format check, lint, spelling, types, import contracts
	@echo "== Lint"
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/codespell
	$(BIN)/mypy
	$(BIN)/lint-imports

format: env  ## Format and mend what can be mended automatically
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Both take two files at a time: much of what they do is to wait for clusters, and each has clusters of its own.
test: lint  ## Lint, types, import contracts and the tests (under 25 minutes on 2 cores)
	@echo "== Tests"
	$(BIN)/python -m pytest -m "not slow" -n 2 --dist loadfile

test-slow: env  ## The tests marked slow (with `make test` under an hour on 2 cores)
	@echo "== Slow tests"
	@# In the order of the folders: by the number of its tests the longest file would come last, and one core would idle.
	$(BIN)/python -m pytest -m slow -n 2 --dist loadfile --no-loadscope-reorder --durations 20

bench: env  ## Print the quick figures that the docs quote (real boards: benchmarks/real_boards.py)
	@for script in loading synthetic; do echo "== $$script"; $(BIN)/python benchmarks/$$script.py || exit 1; done

clean:  ## Remove the environment and caches (never your results)
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
