# Two commands: `make` runs the small study that ships with the project, `make test` runs the tests.
# Each installs .venv first where that is needed. `make help` lists the rest.

CORES ?= 2
CONFIG ?= config/default.yaml
ARGS ?=

PYTHON := .venv/bin/python
# Rules of the workflow and tests start programs by name; they must be this environment's.
IN_ENV := PATH="$(CURDIR)/.venv/bin:$$PATH"
# Tests of a file share what its fixtures build, so that a file goes to one worker.
PYTEST = $(IN_ENV) $(PYTHON) -m pytest -n $(CORES) --dist loadfile --no-loadscope-reorder
# Snakemake reads a study before our code can refuse it: it is read by nmnc first.
STUDY = $(PYTHON) -m nmnc check --settings --config $(1) && $(IN_ENV) snakemake --cores $(CORES) --configfile $(1)
# A run that diverges is a result: the verdicts then count it as a missing seed. $(1): the study, $(2): the tier.
define CLAIMS
$(PYTHON) workflow/plan.py --config config/$(1).yaml --cores $(CORES) && \
{ $(IN_ENV) snakemake claims --cores $(CORES) --resources gpu=1 --configfile config/$(1).yaml --keep-going || { \
    echo "some runs stopped (above); the verdicts count them as missing seeds" >&2; \
    $(PYTHON) -m workflow.analysis claims --results results/$(1) --predictions docs/predictions.yaml --tier $(2); }; } && \
echo "verdicts: results/$(1)/tables/claims.csv, figures: results/$(1)/figures/claims/"
endef
IS_311 := -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))'

.DEFAULT_GOAL := default
.PHONY: default env test test-all test-oldest test-anywhere lint cifar10 search claims records claims-gpu brain bench plan lock clean help

default: .venv/.installed ## The default study: digits, a simulated ventral stream; 2 minutes, no data needed
	@$(call STUDY,config/default.yaml)
	@echo "report: results/default/report.html"
	@echo "tables: results/default/tables/"

env: .venv/.installed ## Create .venv (Python 3.11) and install requirements.lock and this project into it
	@echo "environment ready: .venv ($$($(PYTHON) --version))"

test: .venv/.installed ## Run the tests that are not marked slow; ARGS="-k alpha" for a part of them
	@$(PYTEST) -m "not slow" $(ARGS)

test-all: .venv/.installed ## Run every test: also simulations, whole studies and kills; ARGS as for test
	@$(PYTEST) $(ARGS)

test-oldest: .venv/.installed ## nmnc's tests with torch 2.11 and numpy 2, in an environment of its own (6 GB); ARGS as for test
	@test -e .venv/oldest/.installed || { $(PYTHON) -m venv --clear .venv/oldest && \
	    .venv/oldest/bin/python -m pip install --quiet --disable-pip-version-check -r tests/nmnc/oldest.txt && \
	    touch .venv/oldest/.installed; }
	@PYTHONPATH="$(CURDIR)" .venv/oldest/bin/python -m pytest tests/nmnc $(ARGS)

test-anywhere: .venv/.installed ## The tests as on other machines (kernels, locale, user, load); ARGS=other-kernel for one
	@$(IN_ENV) $(PYTHON) tests/anywhere.py $(ARGS)

lint: .venv/.installed ## Check style, format, types and the workflow (ruff, mypy, snakefmt, snakemake)
	@$(IN_ENV) ruff check .
	@$(IN_ENV) ruff format --check .
	@$(IN_ENV) mypy
	@$(IN_ENV) lint-imports --no-cache
	@$(IN_ENV) snakefmt --check Snakefile workflow
	@$(IN_ENV) snakemake --lint

cifar10: .venv/.installed ## The CIFAR-10 study on real recordings; 12 minutes, 7 GB, data below NMNC_DATA
	@$(call STUDY,config/cifar10.yaml)
	@echo "report: results/cifar10/report.html"
	@echo "tables: results/cifar10/tables/"

search: .venv/.installed ## Step sizes for the claims: nine trials for every rule, the best three again; 3 hours on two cores
	@for name in search search_more search_again search_rare search_rare_again; do \
	    $(PYTHON) -m nmnc check --settings --config config/$$name.yaml || exit 2; \
	    $(IN_ENV) snakemake search --cores $(CORES) --configfile config/$$name.yaml --keep-going || { \
	        echo "some trials stopped (above): they count, and are never chosen" >&2; \
	        $(PYTHON) -m nmnc search --config config/$$name.yaml --out results/$$name/tables/search.csv --unfinished \
	            || exit 1; \
	    }; \
	    echo "table: results/$$name/tables/search.csv"; \
	done

claims: .venv/.installed ## The paper's claims, CPU tier: 719 runs, 5.6 hours on two cores; goes on where it was cut
	@$(call CLAIMS,claims,CPU)

records: .venv/.installed ## Bring back the published runs of the claims; make claims then does only what is missing
	@$(PYTHON) -m workflow.records --config config/claims.yaml

claims-gpu: .venv/.installed ## The same at full size; needs a GPU
	@$(call CLAIMS,claims_gpu,GPU)

brain: .venv/.installed ## Six rules, untrained and reference models on four benchmarks; 80 minutes on two cores
	@$(call STUDY,config/brain.yaml)
	@echo "report: results/brain/report.html"

bench: .venv/.installed ## Speed beside other libraries, one CSV per bench in results/bench; run it on a quiet machine
	@mkdir -p results/bench
	@for name in step_time rdms encoding bootstrap pca activations memory; do \
	    $(PYTHON) bench/$$name.py --out results/bench/$$name.csv || exit 1; \
	done

plan: .venv/.installed ## What a study would cost: runs, hours, disk; CONFIG=config/cifar10.yaml
	@$(PYTHON) workflow/plan.py --config $(CONFIG) --cores $(CORES)

lock: ## Write requirements.lock anew from pyproject.toml (needs uv; ARGS=--upgrade for newer versions)
	@command -v uv >/dev/null || { echo "make lock: uv is not on PATH; install it with 'pip install uv'" >&2; exit 2; }
	uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes \
	    --no-emit-index-url --no-header --quiet -o requirements.lock $(ARGS)

clean: ## Delete results of studies (never results/reference), .snakemake and caches; .venv and data stay
	@if [ -d results ]; then find results -mindepth 1 -maxdepth 1 ! -name reference -exec rm -rf {} +; fi
	rm -rf .snakemake .pytest_cache .mypy_cache .ruff_cache .hypothesis build
	@find . -name .venv -prune -o -name .git -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

help: ## Show this list
	@echo "make [TARGET] [CORES=$(CORES)]   without TARGET: default"
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  %-13s %s\n", $$1, $$2}' Makefile

# An install that was cut off leaves .venv/.installing behind, with its process id: packages may be
# half-copied, so the next call starts .venv afresh (downloads are kept in the installer's cache).
# build-constraints.txt: the few packages without a wheel are built with the locked setuptools.
.venv/.installed: requirements.lock pyproject.toml
	@set -eu; \
	installer=$$(cat .venv/.installing 2>/dev/null || echo none); \
	case $$(ps -o stat= -p "$$installer" 2>/dev/null || cut -d ' ' -f 3 "/proc/$$installer/stat" 2>/dev/null) in \
	    ''|Z*) ;; \
	    *) echo "make env: process $$installer is installing into .venv; wait for it, then run this again" >&2; \
	        exit 2;; \
	esac; \
	if [ -f .venv/.installing ] || ! $(PYTHON) $(IS_311) 2>/dev/null; then \
	    rm -rf .venv; \
	    python=; uv=$$(command -v uv || true); \
	    for name in python3.11 python3; do \
	        if $$name $(IS_311) 2>/dev/null; then python=$$(command -v $$name); break; fi; \
	    done; \
	    if [ -z "$$python$$uv" ]; then \
	        echo "make env: no Python 3.11 here; install it (python3.11 and its venv module) or uv, then run this again" >&2; \
	        exit 2; \
	    fi; \
	    echo "creating .venv with $${python:-Python 3.11 from uv}"; \
	    mkdir .venv; echo $$$$ > .venv/.installing; \
	    if [ -n "$$uv" ]; then \
	        uv venv --quiet --allow-existing --python "$${python:-3.11}" .venv; \
	    else \
	        "$$python" -m venv .venv || { \
	            echo "make env: $$python cannot make environments; install its venv module (python3.11-venv) or uv" >&2; \
	            exit 2; \
	        }; \
	    fi; \
	fi; \
	echo $$$$ > .venv/.installing; \
	sed -n 's/^\([A-Za-z0-9][^\\]*==[^\\]*[^\\ ]\).*/\1/p' requirements.lock > .venv/build-constraints.txt; \
	if command -v uv >/dev/null; then \
	    echo "installing requirements.lock with uv (Linux: 3.4 GB to download, 7 GB on disk)"; \
	    uv pip install --python $(PYTHON) --require-hashes --no-deps --compile-bytecode \
	        --build-constraints .venv/build-constraints.txt -r requirements.lock; \
	    uv pip install --quiet --python $(PYTHON) --no-deps --no-build-isolation -e .; \
	else \
	    echo "installing requirements.lock with pip (Linux: 3.4 GB to download, 7 GB on disk; some minutes)"; \
	    $(PYTHON) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m ensurepip >/dev/null; \
	    PIP_CONSTRAINT=.venv/build-constraints.txt PIP_BUILD_CONSTRAINT=.venv/build-constraints.txt \
	    $(PYTHON) -m pip install --no-input --disable-pip-version-check \
	        --use-pep517 --require-hashes --no-deps -r requirements.lock; \
	    $(PYTHON) -m pip install --quiet --no-input --disable-pip-version-check \
	        --no-deps --no-build-isolation -e .; \
	fi; \
	rm .venv/.installing; touch $@
