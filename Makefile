# Two commands matter: `make demo` and `make test`. Both set up everything by themselves.
PY := .venv/bin/python

.PHONY: demo test check fmt setup
.DEFAULT_GOAL := demo

setup:  ## .venv with the pinned packages; nothing when it is there
	@.ci/bootstrap

demo: setup  ## a portrait and a voice in, a video out: runs/demo.mp4; MODEL=mini-1step is the one-step student
	@$(PY) -m omnihuman_jax generate --model $(or $(MODEL),mini) --out runs/demo.mp4

test: setup  ## every test
	@$(PY) -m pytest -n 2 --dist loadfile --no-loadscope-reorder

check: setup  ## the quick loop: format, lint, layers, types, tests not marked slow
	@.venv/bin/ruff format --check .
	@.venv/bin/ruff check .
	@.venv/bin/lint-imports --no-logo
	@.venv/bin/mypy
	@$(PY) -m pytest -n 2 -q -m "not slow"

fmt: setup  ## format and sort
	@.venv/bin/ruff format .
	@.venv/bin/ruff check --fix .
