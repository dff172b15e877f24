# `make demo` and `make test` each install what they need; nothing has to run before them.
PYTHON ?= python3
# The newest Axolotl that the interpreter allows; AXOLOTL=0.19 takes another.
OLDEST := 0.19
NEWEST := 0.21
AXOLOTL ?= $(shell $(PYTHON) -c "import sys; print('$(NEWEST)' if sys.version_info >= (3, 12) else '$(OLDEST)')")
PINS := constraints/axolotl-$(AXOLOTL).txt
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed-$(AXOLOTL)
TORCH := $(shell sed -n 's/^torch==//p' $(PINS))
WORKERS := 2
# A folder for a record of what was run with what; docs/runs is what `make docs` reads.
RECORD ?=
export RECORD
# A second environment for the tests with a real vLLM, on a CPU. Its builds are for Linux alone; elsewhere those tests
# are skipped.
VLLM := .venv-vllm
VLLM_STAMP := $(VLLM)/.installed
ifeq ($(shell uname -s),Linux)
WITH_VLLM := $(VLLM_STAMP)
USE_VLLM := AXOLOTL_SAFETY_VLLM_PYTHON=$(CURDIR)/$(VLLM)/bin/python
endif

# Nothing here needs a hub or the network once installed, and nothing is sent anywhere.
export AXOLOTL_DO_NOT_TRACK := 1
export HF_HUB_OFFLINE := 1
export TRANSFORMERS_OFFLINE := 1
export HF_DATASETS_OFFLINE := 1
export TOKENIZERS_PARALLELISM := false

.PHONY: install test test-oldest test-newest test-other-end test-vllm test-wheel torture audit bench-engine demo docs lint format clean

install: $(STAMP)

# Bytecode is made at once: every command of the tests starts Python anew, and some machines keep none.
# Without a GPU the CPU build of torch is tried first: the default build brings gigabytes of CUDA.
$(STAMP): setup.cfg $(PINS)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -c "import torch" 2>/dev/null || command -v nvidia-smi >/dev/null \
	  || $(BIN)/pip install -q torch==$(TORCH)+cpu 2>/dev/null || true
	$(BIN)/pip install -q uv
	$(BIN)/uv pip install -q --compile-bytecode --python $(BIN)/python -c $(PINS) -e ".[dev]" \
	  || $(BIN)/pip install -q -c $(PINS) -e ".[dev]"
	rm -f $(VENV)/.installed-*
	touch $@

# Locked by hash, and PyTorch apart: see tests/with_vllm/requirements.in.
$(VLLM_STAMP): tests/with_vllm/requirements.txt | $(STAMP)
	test -x $(VLLM)/bin/python || $(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -c "import torch" 2>/dev/null \
	  || $(VLLM)/bin/pip install -q torch==$(TORCH)+cpu 2>/dev/null \
	  || $(VLLM)/bin/pip install -q torch==$(TORCH)
	$(BIN)/uv pip install -q --compile-bytecode --python $(VLLM)/bin/python --no-deps --require-hashes -r tests/with_vllm/requirements.txt \
	  || $(VLLM)/bin/pip install -q --no-deps --require-hashes -r tests/with_vllm/requirements.txt
	touch $@

# Published tokenizers for the tests that skip without them; what cannot be had is said.
TOKENIZERS := .tokenizers
$(TOKENIZERS)/.brought: | $(STAMP)
	$(BIN)/python tests/support/bring_tokenizers.py $(TOKENIZERS)
	touch $@
# Likewise a small real language model, 95 MB.
$(TOKENIZERS)/.brought_model: | $(STAMP)
	$(BIN)/python tests/support/bring_smollm2.py $(TOKENIZERS)
	touch $@

test: lint $(WITH_VLLM) $(TOKENIZERS)/.brought $(TOKENIZERS)/.brought_model
	$(USE_VLLM) AXOLOTL_SAFETY_REAL_MODELS=$(CURDIR)/$(TOKENIZERS) $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder
	UNLESS_INSTALLED=0 $(MAKE) test-other-end

# Axolotl's own commands, the plan, the evaluation and the report on the other end of the range of releases, in an
# environment of their own.
ifeq ($(AXOLOTL),$(OLDEST))
test-other-end: test-newest
else
test-other-end: test-oldest
endif

test-oldest:
	@sh tests/support/other_end.sh $(OLDEST) .venv-oldest python3.11 python3.12 python3.13

test-newest:
	@sh tests/support/other_end.sh $(NEWEST) .venv-newest python3.12 python3.13

test-vllm: install $(VLLM_STAMP)
	$(USE_VLLM) $(BIN)/python -m pytest tests/with_vllm

# Kills, full disks and damage; TORTURE_SEED=7 draws others, SABOTAGE=drop_record shows that it can fail.
torture: install
	PYTHONPATH=tests $(BIN)/python -m torture

# The wheel in an environment of its own, and a QLoRA YAML changed by two lines; takes minutes and the package index.
test-wheel:
	$(PYTHON) tests/support/stranger.py

# Every pinned dependency against the advisories of the day (needs the network; nothing is installed for it but the tool).
# What the advisories do not know fails too.
AUDIT := .venv-audit
audit:
	test -x $(AUDIT)/bin/pip-audit || { $(PYTHON) -m venv $(AUDIT) && $(AUDIT)/bin/pip install -q pip-audit; }
	for pins in constraints/*.txt; do $(AUDIT)/bin/pip-audit --strict --no-deps --disable-pip -r $$pins || exit 1; done
	$(AUDIT)/bin/pip-audit --strict --require-hashes --disable-pip -r tests/with_vllm/requirements.txt

bench-engine: install $(VLLM_STAMP)
	$(BIN)/python benchmarks/engine_overhead.py --vllm-python $(VLLM)/bin/python

demo: install
	$(BIN)/python examples/lab/demo.py

# The configuration reference, from the models of the section.
docs: install
	$(BIN)/python docs/generate.py

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports importlinter.ini --no-cache

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf outputs safety last_run_prepared build dist *.egg-info
