"""Generate with vLLM's LLM class alone, on request.

    python -m benchmarks.speed.peers.bare_vllm SETTINGS

Each line of standard input is JSON with `prompts`, lists of token ids, and `seed`; its answer on standard output is the
JSON of the tokens generated and the seconds they took. SETTINGS is JSON with `policy`, `answers`, `new_tokens`,
`max_length` and `max_sequences`. The engine has the settings of Breadth's generator on a CPU.
"""

import json
import os
import sys
import time

os.environ |= {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "HF_HUB_OFFLINE": "1",
    "TORCH_COMPILE_DISABLE": "1",
}

from vllm import LLM, SamplingParams


def main(settings: dict[str, object]) -> None:
    answers_out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what vLLM prints must not reach the reader of the answers
    engine = LLM(
        model=str(settings["policy"]),
        dtype="float32",
        max_model_len=settings["max_length"],
        max_num_seqs=settings["max_sequences"],
        skip_tokenizer_init=True,
        generation_config="vllm",
        enforce_eager=True,
        kv_cache_memory_bytes=134_217_728,
        block_size=32,
        enable_chunked_prefill=False,
        max_num_batched_tokens=4096,
        disable_log_stats=True,
        logprobs_mode="processed_logprobs",
    )
    print(json.dumps({"ready": True}), file=answers_out)
    for line in sys.stdin:
        request = json.loads(line)
        sampling = SamplingParams(
            n=settings["answers"],
            temperature=1.0,
            max_tokens=settings["new_tokens"],
            seed=request["seed"],
            ignore_eos=True,
            stop_token_ids=[1],
            logprobs=0,
            flat_logprobs=True,
            detokenize=False,
        )
        start = time.perf_counter()
        outputs = engine.generate(
            [{"prompt_token_ids": tokens} for tokens in request["prompts"]], sampling, use_tqdm=False
        )
        seconds = time.perf_counter() - start
        tokens = sum(len(answer.token_ids) for output in outputs for answer in output.outputs)
        print(json.dumps({"tokens": tokens, "seconds": seconds}), file=answers_out)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
