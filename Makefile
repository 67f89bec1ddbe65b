# Two commands: `make` runs the small study that ships with the project, `make test` runs the tests.
# Both install .venv first if needed. `make help` lists all targets.

CORES ?= 2
CONFIG ?= config/default.yaml
ARGS ?=

PYTHON := .venv/bin/python
# Rules of the workflow and tests start programs by name, which must be those of this environment.
IN_ENV := PATH="$(CURDIR)/.venv/bin:$$PATH"
# Tests of one file share what its fixtures build, so each file goes to one worker.
PYTEST = $(IN_ENV) $(PYTHON) -m pytest -n $(CORES) --dist loadfile --no-loadscope-reorder
# nmnc checks the study first, because Snakemake reads it before our code could refuse it.
STUDY = $(PYTHON) -m nmnc check --settings --config $(1) && $(IN_ENV) snakemake --cores $(CORES) --configfile $(1)
# $(1): the study, $(2): the tier. A run that diverges is a result: the verdicts count it as a missing seed.
define CLAIMS
$(PYTHON) workflow/plan.py --config config/$(1).yaml --cores $(CORES) && \
{ $(IN_ENV) snakemake claims --cores $(CORES) --resources gpu=1 --configfile config/$(1).yaml --keep-going || { \
    echo "some runs stopped (above); the verdicts count them as missing seeds" >&2; \
    $(PYTHON) -m workflow.analysis claims --results results/$(1) --predictions docs/predictions.yaml --tier $(2); }; } && \
echo "verdicts: results/$(1)/tables/claims.csv, figures: results/$(1)/figures/claims/"
endef
# A trial that diverges is a result too. $(1): studies, one after the other.
define SEARCH
for name in $(1); do \
    $(PYTHON) -m nmnc check --settings --config config/$$name.yaml || exit 2; \
    $(IN_ENV) snakemake search --cores $(CORES) --configfile config/$$name.yaml --keep-going || { \
        echo "some trials diverged (above); they count as trials and are never chosen" >&2; \
        $(PYTHON) -m nmnc search --config config/$$name.yaml --out results/$$name/tables/search.csv --unfinished \
            || exit 1; \
    }; \
    echo "table: results/$$name/tables/search.csv"; \
done
endef
IS_311 := -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))'

.DEFAULT_GOAL := default
.PHONY: default env test test-all test-oldest test-anywhere lint cifar10 search long-search claims records claims-gpu brain bench plan lock clean help

default: .venv/.installed ## The default study: digits, a simulated ventral stream; 2 minutes, needs no data
	@$(call STUDY,config/default.yaml)
	@echo "report: results/default/report.html"
	@echo "tables: results/default/tables/"

env: .venv/.installed ## Create .venv (Python 3.11) and install requirements.lock and this project into it
	@echo "environment ready: .venv ($$($(PYTHON) --version))"

test: .venv/.installed ## Run the tests that are not marked slow; ARGS="-k alpha" for a part of them
	@$(PYTEST) -m "not slow" $(ARGS)

test-all: .venv/.installed ## Run every test: also simulations, whole studies and kills; ARGS as for test
	@$(PYTEST) $(ARGS)

test-oldest: .venv/.installed ## Run nmnc's tests with torch 2.11 and numpy 2 in a separate environment (6 GB); ARGS as for test
	@test -e .venv/oldest/.installed || { $(PYTHON) -m venv --clear .venv/oldest && \
	    .venv/oldest/bin/python -m pip install --quiet --disable-pip-version-check -r tests/nmnc/oldest.txt && \
	    touch .venv/oldest/.installed; }
	@PYTHONPATH="$(CURDIR)" .venv/oldest/bin/python -m pytest tests/nmnc $(ARGS)

test-anywhere: .venv/.installed ## Run the tests as on other machines (kernels, locale, user, load); ARGS=other-kernel for one of them
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

search: .venv/.installed ## Search step sizes for the claims: nine trials per rule, then the best three again; 3 hours on two cores
	@$(call SEARCH,search search_more search_again search_rare search_rare_again)

long-search: .venv/.installed ## Search step sizes at full length, nine trials per rule; 4 hours on two cores
	@$(call SEARCH,long_search)

claims: .venv/.installed ## The paper's claims, CPU tier: 719 runs, 5.6 hours on two cores; run it again to resume
	@$(call CLAIMS,claims,CPU)

records: .venv/.installed ## Restore the published runs of the claims, so that make claims trains only what is missing
	@$(PYTHON) -m workflow.records --config config/claims.yaml

claims-gpu: .venv/.installed ## The paper's claims at full size; needs a GPU
	@$(call CLAIMS,claims_gpu,GPU)

brain: .venv/.installed ## Six rules, untrained and reference models on four benchmarks; 80 minutes on two cores
	@$(call STUDY,config/brain.yaml)
	@echo "report: results/brain/report.html"

bench: .venv/.installed ## Measure speed against other libraries, one CSV per bench in results/bench; use an idle machine
	@mkdir -p results/bench
	@for name in step_time rdms encoding bootstrap pca activations memory; do \
	    $(PYTHON) bench/$$name.py --out results/bench/$$name.csv || exit 1; \
	done

plan: .venv/.installed ## Estimate the cost of a study: runs, hours, disk; CONFIG=config/cifar10.yaml
	@$(PYTHON) workflow/plan.py --config $(CONFIG) --cores $(CORES)

lock: ## Update requirements.lock from pyproject.toml (needs uv; ARGS=--upgrade for newer versions)
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

# An interrupted install leaves .venv/.installing with its process id. Packages may be incomplete, so the
# next call creates .venv from scratch (the installer's cache keeps the downloads).
# build-constraints.txt: packages without a wheel are built with the locked setuptools.
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
	        echo "make env: Python 3.11 was not found; install it (python3.11 and its venv module) or uv, then run this again" >&2; \
	        exit 2; \
	    fi; \
	    echo "creating .venv with $${python:-Python 3.11 from uv}"; \
	    mkdir .venv; echo $$$$ > .venv/.installing; \
	    if [ -n "$$uv" ]; then \
	        uv venv --quiet --allow-existing --python "$${python:-3.11}" .venv; \
	    else \
	        "$$python" -m venv .venv || { \
	            echo "make env: $$python cannot create environments; install its venv module (python3.11-venv) or uv" >&2; \
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
