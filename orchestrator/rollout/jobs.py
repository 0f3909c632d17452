"""Make the jobs of prompts, with a seed for each answer."""

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np

from actors.contracts import GenerationJob
from trajectories.trajectory import Prompt


def answer_seed(run_seed: int, prompt_key: str, sample_index: int) -> int:
    """Return the seed of one answer, 31 bits (the range of every engine), a function of the arguments alone."""
    return answer_seeds(run_seed, prompt_key, [sample_index])[0]


def answer_seeds(run_seed: int, prompt_key: str, sample_indices: Iterable[int]) -> tuple[int, ...]:
    """Return `answer_seed` of several answers to one prompt."""
    of_prompt = hashlib.blake2b(f"{run_seed}/{prompt_key}/".encode(), digest_size=8)
    seeds = []
    for index in sample_indices:
        digest = of_prompt.copy()
        digest.update(b"%d" % index)
        seeds.append(int.from_bytes(digest.digest()[:4], "little") % 2**31)
    return tuple(seeds)


def jobs_for(
    prompts: Iterable[Prompt],
    tokens: Iterable[Sequence[int]],
    *,
    purpose: str,
    run_seed: int,
    answers: int,
    temperature: float,
    max_new_tokens: int,
    top_p: float = 1.0,
    top_k: int = 0,
    min_p: float = 0.0,
    stop: Sequence[str] = (),
    mixture: float = 0.0,
) -> list[GenerationJob]:
    """Return one job per prompt.

    Args:
        tokens: token ids of each prompt.
        purpose: "train", "heldout", "presample", ...; part of the job's key and seeds, so that the jobs of one prompt
            for different purposes differ.
        answers: answers per prompt.
        stop: texts that end an answer.
        mixture: share of the generators' second policy in the distribution of every token.
    """
    return [
        GenerationJob(
            key=f"{purpose}/{prompt.position}",
            prompt_id=prompt.id,
            prompt_tokens=np.asarray(row, dtype=np.int32),
            seeds=answer_seeds(run_seed, f"{purpose}/{prompt.position}", range(answers)),
            temperature=temperature,
            max_new_tokens=max_new_tokens,
            top_p=top_p,
            top_k=top_k,
            min_p=min_p,
            stop=tuple(stop),
            mixture=mixture,
        )
        for prompt, row in zip(prompts, tokens, strict=True)
    ]
