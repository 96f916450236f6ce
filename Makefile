# Everything sets itself up: `make demo` and `make test` need Python ≥ 3.11, make and a network with Python packages.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
HOME_DIR ?= demo-home
# Where a CPU wheel of torch comes from another index: make demo PIP_TORCH="--index-url …"
PIP_TORCH ?=
# Tests run in two processes; one thread each keeps them from fighting for two cores.
TEST_ENV := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false

.PHONY: demo test test-all test-peers check bench docs clean setup browser

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Agent Forge needs Python 3.11 or newer")'
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt $(PIP_TORCH) torch
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]'
	touch $@

demo: $(READY)
	$(BIN)/agent-forge run --preset demo --home $(HOME_DIR) --session demo
	$(BIN)/agent-forge cascade demo --home $(HOME_DIR)
	$(BIN)/agent-forge report demo --home $(HOME_DIR) --out $(HOME_DIR)/demo.html
	@echo
	@echo "Talk to it:  $(BIN)/agent-forge chat demo --home $(HOME_DIR)"

test: $(READY)
	$(TEST_ENV) $(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow and not peers and not gpu"

test-all: $(READY) .peers-venv/.ready browser
	$(TEST_ENV) AGENT_FORGE_PEERS_PYTHON=$(CURDIR)/.peers-venv/bin/python $(BIN)/python -m pytest -m "not gpu"

test-peers: $(READY) .peers-venv/.ready
	$(TEST_ENV) AGENT_FORGE_PEERS_PYTHON=$(CURDIR)/.peers-venv/bin/python $(BIN)/python -m pytest -m peers

# What the test of the page needs: headless Chromium with its driver, and Node.js. Without them that test is skipped.
browser: $(READY)
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[browser]'
	@set -e; wanted=""; \
	command -v chromium >/dev/null || command -v google-chrome >/dev/null || wanted="chromium"; \
	command -v chromedriver >/dev/null || wanted="$$wanted chromium-driver"; \
	command -v node >/dev/null || wanted="$$wanted nodejs"; \
	command -v npm >/dev/null || wanted="$$wanted npm"; \
	test -n "$$wanted" || exit 0; \
	command -v apt-get >/dev/null || { echo "Please install by hand:$$wanted"; exit 1; }; \
	as_root=""; test "$$(id -u)" = 0 || as_root="sudo"; \
	$$as_root apt-get update -qq; \
	DEBIAN_FRONTEND=noninteractive $$as_root apt-get install -y -qq --no-install-recommends $$wanted fonts-dejavu-core

# The neighbours live in an environment of their own: their pins conflict with ours, and nothing of theirs is a dependency.
.peers-venv/.ready: constraints.txt
	test -d .peers-venv || $(PYTHON) -m venv .peers-venv
	.peers-venv/bin/python -m pip install -q -c constraints.txt $(PIP_TORCH) torch
	.peers-venv/bin/python -m pip install -q mergekit==0.1.5
	touch $@

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell src tests docs benchmarks README.md CONTRIBUTING.md CHANGELOG.md
	$(TEST_ENV) $(BIN)/python -m pytest tests/house
	$(TEST_ENV) $(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow and not peers and not gpu" --cov --cov-report=term:skip-covered

bench: $(READY)
	for file in benchmarks/*.py; do $(BIN)/python $$file || exit 1; done

docs: $(READY)
	$(BIN)/python -m agent_forge.cli.write_docs

clean:
	rm -rf $(VENV) .peers-venv demo-home build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage*
