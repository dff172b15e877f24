# `make demo` and `make test` each install what they need; nothing has to run before them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
TORCH := 2.13.0

# Nothing here needs a hub or the network once installed, and nothing is sent anywhere.
export AXOLOTL_DO_NOT_TRACK := 1
export HF_HUB_OFFLINE := 1
export TRANSFORMERS_OFFLINE := 1
export HF_DATASETS_OFFLINE := 1
export TOKENIZERS_PARALLELISM := false

.PHONY: install test demo lint format clean

install: $(STAMP)

# Without a GPU the CPU build of torch is tried first: the default build brings gigabytes of CUDA.
$(STAMP): setup.cfg constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -c "import torch" 2>/dev/null \
	  || { command -v nvidia-smi >/dev/null && $(BIN)/pip install -q torch==$(TORCH); } \
	  || $(BIN)/pip install -q torch==$(TORCH)+cpu 2>/dev/null \
	  || $(BIN)/pip install -q torch==$(TORCH)
	$(BIN)/pip install -q uv
	$(BIN)/uv pip install -q --python $(BIN)/python -c constraints.txt -e ".[dev]" \
	  || $(BIN)/pip install -q -c constraints.txt -e ".[dev]"
	touch $@

test: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest

demo: install
	$(BIN)/python examples/lab/demo.py

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf outputs safety last_run_prepared build dist *.egg-info
