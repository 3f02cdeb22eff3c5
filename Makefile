# Needs make and a Python >= 3.11 with venv, and nothing else; `make help` lists what there is.
# PYTHON=/path/to/python chooses the interpreter, ARGS="..." goes to pytest or to the demo.

SHELL = /bin/sh
RUN = .venv/bin/python -m

.PHONY: help demo test fuzz chaos bench check dist wheel-test matrix clean
.NOTPARALLEL:  # all of them share .venv

help:  ## list these targets
	@awk -F ':  ## ' '/^[a-z-]+:  ## / { printf "make %-10s %s\n", $$1, $$2 }' Makefile

demo:  ## take the census of the Python standard library (sets everything up first)
	@sh .ci/venv
	@$(RUN) examples.census $(ARGS)

test:  ## run the tests, on a private Redis of their own
	@sh .ci/venv test
	@$(RUN) pytest $(or $(ARGS),-n 3 --dist loadfile)

fuzz:  ## look for counterexamples at random for MINUTES (5); the first one ends it, and is kept
	@sh .ci/venv test
	@.ci/fuzz $(or $(MINUTES),5)

chaos:  ## kill workers for MINUTES (5) by SEED (drawn), and count what was lost or doubled
	@sh .ci/venv test
	@$(RUN) tests.chaos --minutes $(or $(MINUTES),5) $(if $(SEED),--seed $(SEED))

matrix:  ## the quick tests on every Python found here, with the newest and the oldest dependencies
	@sh .ci/venv matrix
	@.ci/matrix

bench:  ## beside bare Celery, Dramatiq and DBOS, in an environment of its own (some ten minutes)
	@VENV=.venv-bench REQUIREMENTS=benchmarks/requirements.txt sh .ci/venv
	@.venv-bench/bin/python -m benchmarks.suite $(ARGS)

check:  ## ruff, mypy --strict, and whether every import is of a declared dependency
	@sh .ci/venv lint
	@$(RUN) ruff check .
	@$(RUN) ruff format --check .
	@$(RUN) mypy --strict
	@$(RUN) deptry . --no-ansi
	@$(RUN) deptry tests --exclude NONE --ignore DEP002,DEP004 --no-ansi

dist:  ## build the sdist and the wheel into dist/
	@sh .ci/venv test
	@sh .ci/dist

wheel-test:  ## use the built wheel as a user would, and a fresh clone, where nothing else is installed
	@sh .ci/venv test
	@.ci/wheel
	@.ci/first_command

clean:  ## remove the virtual environment, caches and build leftovers
	@rm -rf .venv .venv-bench .venv-matrix build dist *.egg-info .hypothesis .pytest_cache .mypy_cache .ruff_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
