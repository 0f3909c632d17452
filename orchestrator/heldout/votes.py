"""maj@k: how often the most frequent final answer among k answers is right, from the votes of n answers to a prompt.

Source: Wang et al., arXiv:2203.11171 (self-consistency).
"""

import zlib
from collections.abc import Sequence
from typing import Literal

import numpy as np

from orchestrator.watch.bootstrap import Interval, prompt_weights, weighted_means
from orchestrator.watch.bootstrap import interval as interval_of
from orchestrator.watch.measurement import Measurement, PromptResult

DRAWS = 256
"""Random draws of k answers to a prompt, which vote."""
FEW = 20
"""Final answers to a prompt up to which their numbers in a draw are drawn, and not the answers: it is faster then."""


def majority_at(prompt: PromptResult, ks: Sequence[int]) -> dict[int, float]:
    """Return the probability that a majority vote among k of the graded answers is right, for each k.

    The k answers are drawn without replacement. An answer without a final answer counts among the k and has no vote.
    One of several final answers with equally many votes is drawn at random. Where nobody votes the result is wrong.
    Exact for k of 1 and of all answers, else the mean over DRAWS draws: its standard error is at most 0.5 / sqrt(DRAWS)
    = 0.03 for one prompt. The draws are always the same ones for a prompt and k, and others for another prompt, so that
    the error of a mean over P prompts is smaller by sqrt(P). NaN where k answers are not graded.
    """
    counts, found = np.array(prompt.votes, np.int64), dict[int, float]()
    total, fraction = prompt.total, np.array(prompt.right_votes) / np.maximum(counts, 1)
    for k in ks:
        if k > total:
            found[k] = np.nan
        elif not len(counts) or not k:
            found[k] = 0.0
        elif k == 1:
            found[k] = sum(prompt.right_votes) / total
        elif k == total:
            found[k] = float(_right(counts[None], fraction)[0])
        else:
            found[k] = float(_right(_drawn(counts, total, k, prompt.prompt_id), fraction).mean())
    return found


def _drawn(counts: np.ndarray, total: int, k: int, prompt_id: str) -> np.ndarray:
    """Return how many of the k answers of each draw have each final answer, int64 [DRAWS, C].

    Args:
        counts: of the final answers [C] among `total` answers.
    """
    rng = np.random.default_rng([zlib.crc32(prompt_id.encode("utf-8", "replace")), total, k])
    every = np.append(counts, total - counts.sum())  # the last: answers without a final answer
    method: Literal["marginals", "count"] = "marginals" if len(counts) <= FEW else "count"
    return rng.multivariate_hypergeometric(every, k, size=DRAWS, method=method)[:, :-1]


def _right(counts: np.ndarray, fraction: np.ndarray) -> np.ndarray:
    """Return how likely the vote is right: the mean of `fraction` [C] over the winners of each row of `counts` [R,
    C]; 0 where nobody votes."""
    highest = counts.max(1, keepdims=True)
    winners = (counts == highest) & (highest > 0)
    found: np.ndarray = (winners * fraction).sum(1) / np.maximum(winners.sum(1), 1)
    return found


def voting(measurement: Measurement) -> np.ndarray:
    """Return bool [P]: whether maj@k is defined for a prompt.

    It is for graded answers whose verifier notes final answers: of some answer in the measurement it did.
    """
    verifiers = {prompt.verifier for prompt in measurement.prompts if prompt.votes}
    return np.array([p.verifier in verifiers and p.total > 0 for p in measurement.prompts], np.bool_)


def majorities(measurement: Measurement, ks: Sequence[int]) -> dict[str, Interval]:
    """Return `maj@k` for each k above 1, the mean over prompts with its bootstrap interval; empty if no prompt has
    votes."""
    defined = voting(measurement)
    if not defined.any():
        return {}
    wanted = [k for k in ks if k > 1]
    values = [majority_at(p, wanted) if known else {} for p, known in zip(measurement.prompts, defined, strict=True)]
    found = {}
    for k in wanted:
        of_k = np.array([value.get(k, np.nan) for value in values])
        known = np.isfinite(of_k)
        means = weighted_means(of_k, prompt_weights(known))
        found[f"maj@{k}"] = interval_of(means[0], means[1:], int(known.sum()))
    return found
