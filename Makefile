# Every target works alone in a fresh clone; Python 3.11 or newer is all it needs.
# PYTHON=/path/to/python picks another interpreter, ARGS="..." reaches the demo or pytest.

VENV := .venv
PY := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed
PYTHON ?= python3.11 python3 python3.12 python3.13

.PHONY: help setup demo study-fast test test-slow check format clean

help:
	@echo "make demo       train and prune a tiny video model on the CPU"
	@echo "make study-fast dense, STTS and random pruning fine-tuned and compared (20 minutes)"
	@echo "make test       the default tests"
	@echo "make test-slow  the tests marked slow"
	@echo "make check      lint, format, types, import layers"
	@echo "make format     let ruff rewrite the code"
	@echo "make setup      only create $(VENV); the targets above do it when it is missing"
	@echo "make clean      remove $(VENV), caches and demo output"

setup: $(INSTALLED)

# pip installs even where uv made the environment: uv reads neither the find-links nor the extra
# indexes of a pip configuration, and so may take CUDA wheels where pip was told to take CPU ones.
$(INSTALLED): pyproject.toml
	@$(PY) -m pip --version >/dev/null 2>&1 || for python in $(PYTHON); do \
	  "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue; \
	  if command -v uv >/dev/null 2>&1; then \
	    uv venv --quiet --clear --seed --python "$$python" $(VENV) && break; \
	  fi; \
	  "$$python" -m venv --clear $(VENV) && break; \
	done
	@$(PY) -m pip --version >/dev/null 2>&1 || { \
	  echo "error: no usable Python 3.11 or newer (tried: $(PYTHON))." >&2; \
	  echo "Install one with its venv module, or name it: make $(MAKECMDGOALS) PYTHON=..." >&2; \
	  exit 1; }
	@echo "installing into $(VENV) (once, about a minute) ..."
	@$(PY) -m pip install -qq --disable-pip-version-check -e '.[dev]'
	@touch $@

demo: $(INSTALLED)
	$(PY) launch_scripts/demo.py $(ARGS)

test: $(INSTALLED)
	$(PY) -m pytest $(ARGS)

study-fast: $(INSTALLED)
	$(PY) scripts/study.py configs/study/main.yaml --only dense scorer random --seeds 0 \
	  --out runs/study --results runs/study

# pytest ends with 5 when no test is marked slow; that is no failure.
test-slow: $(INSTALLED)
	$(PY) -m pytest -m slow $(ARGS) || [ $$? -eq 5 ]

check: $(INSTALLED)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy olmo
	$(PY) -m pytest -n 0 tests/test_import_layers.py

format: $(INSTALLED)
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis demo_output build dist *.egg-info
	find olmo tests scripts launch_scripts -name __pycache__ -type d -prune -exec rm -rf {} +
