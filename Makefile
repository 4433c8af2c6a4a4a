# Everything one does with a checkout. Each target does its own set-up; `make` alone lists them.

BIN := .venv/bin
# More arguments for pytest: make test ARGS="-k sandbox -x"
ARGS :=
# How long make fuzz takes.
SECONDS := 60
# How many engines make soak kills.
N := 200

.DEFAULT_GOAL := help
# One after the other, whatever -j says: the tests have to come last, and they need the machine for themselves.
.NOTPARALLEL:
.PHONY: help setup demo test fuzz faults soak pause bench-dxml catalog-scale check lint types contracts lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## install what is missing: system packages, guest kernel, Python environment
	@.ci/setup

demo: setup ## save and restore guests on a fleet of this machine; it proves itself
	@$(BIN)/fleetsave demo

test: setup ## run all tests that CI runs
	@$(BIN)/python -m pytest $(ARGS)

fuzz: setup ## feed broken images, manifests, records, requests to the parsers: make fuzz SECONDS=600
	@$(BIN)/python tests/fuzz/run.py --seconds $(SECONDS)

faults: setup ## strike real guests with every fault at every step; write docs/fault-matrix.md anew: ten minutes
	@FULL=1 FAULT_MATRIX=write $(BIN)/python -m pytest tests/e2e/faults/test_fault_matrix.py $(ARGS)

soak: setup ## kill engines at random instants on real guests: make soak N=200
	@$(BIN)/python tests/soak/run.py --kills $(N) $(ARGS)

pause: setup ## measure for how long a checkpoint stops a guest with 1 GiB of memory in use
	@$(BIN)/python tests/soak/pause.py $(ARGS)

bench-dxml: setup ## measure the comparison of domain XMLs with 1,000 disks and 1,000 network cards
	@$(BIN)/python -m benchmarks.dxml_compare $(ARGS)

catalog-scale: setup ## measure the catalog with a million jobs on PostgreSQL
	@$(BIN)/python benchmarks/catalog_scale.py $(ARGS)

check: lint types contracts test ## run all that CI runs: lint, types, contracts, tests

lint: setup ## check style, format and spelling
	@$(BIN)/ruff check --quiet
	@$(BIN)/ruff format --quiet --check
	@$(BIN)/codespell

types: setup ## check the types
	@$(BIN)/mypy

contracts: setup ## check that packages import each other only as they may
	@$(BIN)/lint-imports

# The lock holds what the project needs, its dev group, and what builds it and libvirt-python. uv resolves for all
# platforms at once; it runs in an environment of its own that is thrown away.
lock: ## write requirements.lock anew, from pyproject.toml
	@folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && \
	/usr/bin/python3 -m venv "$$folder" && "$$folder/bin/pip" install --quiet uv && \
	printf '%s\n' 'hatchling>=1.27' 'editables>=0.5' 'setuptools>=75' >"$$folder/build.in" && \
	"$$folder/bin/uv" pip compile --quiet --python /usr/bin/python3 --universal --generate-hashes --no-annotate \
		--no-header --group dev pyproject.toml "$$folder/build.in" --output-file "$$folder/lock" && \
	{ echo '# Made by `make lock` from pyproject.toml: do not edit.'; cat "$$folder/lock"; } >requirements.lock

clean: ## delete all that set-up and tools have made in the checkout
	@rm -rf .venv .cache .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache dist
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
