# `make help` lists the targets. Only Python (3.11 or newer) and make are needed: every
# target installs what it uses into .venv, once for each state of pyproject.toml.

VENV := .venv
BIN := $(VENV)/bin
PYTHONS := python3.11 python3.12 python3.13 python3
CODE := cloudtask tests example benchmarks docs noxfile.py
# A name may be there and not run, as a version manager's stand-in does.
PYTHON = $(shell for python in $(PYTHONS); do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo $$python && break; done)
# The legs of the tests that `make test` leaves out; noxfile.py says what they are.
REST := datastore datastore-exhaustive exhaustive postgres mariadb lowest django60 django61 tutorial
# "no": another target follows, which tells what was tested.
SUMMARY ?= yes

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help install format check test test-rest demo bench bench-quick docs links changelog dist screenshots

define run_legs
status=0; \
for leg in $(1); do $(BIN)/nox --session $$leg || status=1; done; \
test "$(SUMMARY)" = no || $(BIN)/python noxfile.py; \
exit $$status
endef

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 14

install: $(VENV)/.installed ## make .venv and install the package for development

format: $(VENV)/.installed ## rewrite the code as ruff wants it
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)

check: $(VENV)/.installed ## style, lint, types
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/ruff check $(CODE)
	$(BIN)/mypy

test: $(VENV)/.installed ## the tests, on SQLite, in about five minutes
	@rm -rf build/tests
	@$(call run_legs,quick)

test-rest: $(VENV)/.installed ## the same on other databases and Pythons, and whole matrices
	@$(call run_legs,$(REST))

demo: $(VENV)/.installed-demo ## the example: 2,000 tasks; STORE=datastore keeps its state there
	$(BIN)/python example/demo.py $(if $(STORE),--store=$(STORE))

bench: $(VENV)/.installed-bench ## every benchmark, with the budgets
	$(BIN)/python -m benchmarks --json build/benchmarks.json

bench-quick: $(VENV)/.installed-bench ## the same with fewer repeats, in some five minutes
	$(BIN)/python -m benchmarks --quick

docs: $(VENV)/.installed-docs ## the documentation as pages, in build/docs
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going docs build/docs

links: $(VENV)/.installed-docs ## whether links to other sites still lead somewhere; needs the internet
	$(BIN)/sphinx-build --quiet --builder linkcheck docs build/links

changelog: $(VENV)/.installed ## move changes/ into CHANGELOG.md; VERSION=0.2.0 names the version
	$(BIN)/towncrier build --yes --version $(or $(VERSION),$(error VERSION=0.2.0 names the version))
	sed -i.old '/^## $(VERSION) - unreleased$$/,+1d' CHANGELOG.md && rm CHANGELOG.md.old

dist: $(VENV)/.installed ## wheel and sdist in dist/, checked
	rm -rf dist
	$(BIN)/python -m build --quiet
	$(BIN)/twine check --strict dist/*

screenshots: $(VENV)/.installed ## the pictures in docs/images, with Debian's chromium
	$(BIN)/python -m pytest -q -p no:cacheprovider tests/dashboard/screenshots.py

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed, as one of: $(PYTHONS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)

# The demo needs far less than development does.
$(VENV)/.installed-demo: pyproject.toml | $(BIN)/python
	@echo "Installing into $(VENV), once, in about a minute: cloudtask with its local Cloud Tasks,"
	@echo "Django, Google's clients, gunicorn, Pillow and the cities of GeoNames"
	$(BIN)/python -m pip install --quiet --editable '.[demo]'
	@touch $@

$(VENV)/.installed: pyproject.toml | $(BIN)/python
	@echo "Installing into $(VENV), once, in some minutes: cloudtask, Django, Google's clients, and the"
	@echo "tools of development, such as pytest, ruff, mypy and playwright"
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

$(VENV)/.installed-%: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[dev,$*]'
	@touch $(VENV)/.installed $@
