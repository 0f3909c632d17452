"""maj@k: how often the most frequent final answer among k answers is right, from the votes of n answers to a prompt.

Source: Wang et al., arXiv:2203.11171 (self-consistency).
"""

from collections.abc import Sequence

import numpy as np

from orchestrator.watch.bootstrap import Interval, prompt_weights, weighted_means
from orchestrator.watch.bootstrap import interval as interval_of
from orchestrator.watch.measurement import Measurement, PromptResult

ORDERS = 256
"""Random orders of the answers to a prompt, of which the first k answers vote."""


def majority_at(prompt: PromptResult, ks: Sequence[int]) -> dict[int, float]:
    """Return the probability that a majority vote among k of the graded answers is right, for each k.

    The k answers are drawn without replacement. An answer without a final answer counts among the k and has no vote.
    One of several final answers with equally many votes is drawn at random. Where nobody votes the result is wrong.
    Exact for k of 1 and of all answers, else the mean over the first k of ORDERS random orders, which are always the
    same: its standard error is at most 0.5 / sqrt(ORDERS) = 0.03 for one prompt. NaN where k answers are not graded.
    """
    counts, found = np.array(prompt.votes, np.int64), dict[int, float]()
    total, fraction = prompt.total, np.array(prompt.right_votes) / np.maximum(counts, 1)
    classes = np.concatenate([np.repeat(np.arange(len(counts)), counts), np.full(total - counts.sum(), len(counts))])
    orders = np.empty((0, total), np.int64)
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
            if not len(orders):
                tiled = np.tile(classes, (ORDERS, 1))
                orders = np.random.default_rng(total).permuted(tiled, axis=1)
            found[k] = float(_right(_drawn(orders[:, :k], len(counts)), fraction).mean())
    return found


def _drawn(classes: np.ndarray, count: int) -> np.ndarray:
    """Return the number of votes for each final answer in each row of answers, int64 [R, C].

    Args:
        classes: final answer of each answer, int64 [R, k]; `count`: none.
    """
    rows = len(classes)
    flat = classes + (count + 1) * np.arange(rows)[:, None]
    found: np.ndarray = np.bincount(flat.ravel(), minlength=rows * (count + 1)).reshape(rows, count + 1)[:, :count]
    return found


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
