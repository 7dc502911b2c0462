# ANSAI: `make` or `make help` lists what there is. PYTHON=python3.12 chooses the interpreter of .venv.

python := .venv/bin/python
# Extras stay in the pins: an older pip (23) takes the newest version of what is wanted with an extra and pinned without.
compile := .venv/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --no-strip-extras
extras := --extra server --extra logs --extra containers

.DEFAULT_GOAL := help
.PHONY: help install venv up demo test test-kernel coverage lint format bench schemas lock clean

help: ## List these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' Makefile

install: ## Install ANSAI into .venv, pinned by hashes; does nothing when it is there
	@sh infra/setup/environment.sh run

venv: ## The same with all that tests, lint and benchmarks need
	@sh infra/setup/environment.sh dev

up: install ## Run everything on this machine, in dry-run, with its own bus; Ctrl-C stops it
	@exec .venv/bin/ansai up $(ARGS)

demo: install ## Fill a small real filesystem and watch the real functions heal it
	@exec .venv/bin/ansai simulate run disk-full $(ARGS)

test: venv ## Install what tests need (asks first, apt only as root) and run them; ARGS='-k disk'
	@$(python) -m tests.components install
	@exec $(python) -m pytest $(ARGS)

test-kernel: venv ## Tests that need control groups v2, on an emulated kernel: minutes, and no part of `make test`
	@exec $(python) -m tests.kernel $(ARGS)

coverage: venv ## The tests again, with the lines and branches that none of them ran
	@$(python) -m coverage erase
	@$(python) -m coverage run -m pytest $(ARGS); code=$$?; \
	$(python) -m coverage combine --quiet && $(python) -m coverage report; exit $$code

lint: venv ## Format, lint, types, import contract
	$(python) -m ruff format --check
	$(python) -m ruff check
	$(python) -m mypy
	.venv/bin/lint-imports --no-logo

format: venv ## Format the code and mend what lint can mend
	$(python) -m ruff format
	$(python) -m ruff check --fix

bench: venv ## Measure, as ratios against references in the same run; ARGS='scan compress' for some
	@exec $(python) -m tests.bench $(ARGS)

schemas: install ## Generate the JSON Schemas and the AsyncAPI document again
	@.venv/bin/ansai schemas export

lock: venv ## Resolve the pinned requirements again; UPGRADE=--upgrade for the newest
	$(compile) $(UPGRADE) pyproject.toml $(extras) --group build -o requirements/run.txt
	$(compile) $(UPGRADE) pyproject.toml $(extras) --group build --group dev -c requirements/run.txt -o requirements/dev.txt

clean: ## Remove .venv and all that was generated; what ANSAI stored stays
	rm -rf .venv build dist *.egg-info .coverage .coverage.* htmlcov
	rm -rf .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find bus collectors functions infra schemas tests -name __pycache__ -type d -exec rm -rf {} +
