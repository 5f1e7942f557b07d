# Everything runs in .venv, which is made from the lock file the first time it is needed.
#
#   make demo       train, score and separate with one system on the built-in songs; writes runs/demo/report/index.html
#   make test       the test suite
#   make test-full  the longer proofs as well
#   make soak       twenty kills of one process and of two at random times
#   make lint       formatter, linter and type checker, as pre-commit and CI run them

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Most of the time goes into compiling, on one core; a file's tests share what they compiled.
PARALLEL := --numprocesses auto --maxprocesses 4 --dist loadfile
READY := $(VENV)/.ready

.PHONY: demo test test-full soak smoke lint format lock clean

demo: $(READY)
	$(BIN)/python -m jaxsep.demo --workdir runs/demo

test: $(READY)
	@sh scripts/system.sh chromium fluidsynth
	$(BIN)/python -m pytest -m "not full" $(PARALLEL)

test-full: $(READY)
	@sh scripts/system.sh chromium fluidsynth
	$(BIN)/python -m pytest

soak: $(READY)
	$(BIN)/python -m pytest tests/test_train.py tests/test_hosts.py -k soak

# The smallest set that touches every room: for the other end of the range of Python and jax versions.
smoke: $(READY)
	$(BIN)/python -m pytest -m "not full" -k "spleeter or pipeline" $(PARALLEL)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and f"jaxsep needs Python 3.11 or newer; $(PYTHON) is {v[0]}.{v[1]}: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@sh scripts/system.sh ffmpeg
	@touch $(READY)

# Exact versions with environment markers, without index addresses.
lock:
	uv pip compile --universal --python-version 3.11 --no-emit-index-url --no-header --no-annotate \
	    --extra train --extra eval --extra dev --extra parity --extra weights --extra midi --extra gcs pyproject.toml --output-file requirements.lock

clean:
	rm -rf $(VENV) runs
