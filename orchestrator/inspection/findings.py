"""Measure the sets of prompts: lengths, duplicates, diversity, novelty and contamination."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import permutations
from typing import Any

import numpy as np

from configs.inspect_task import InspectTaskConfig
from orchestrator.inspection.contamination import Separation, frequencies, score_all, separation
from orchestrator.inspection.duplicates import Duplicates, Pair, distinct, find_duplicates
from orchestrator.inspection.estimators import Novelty, diversity, matched_draws, novelty, project
from orchestrator.inspection.prompt_sets import Frame, PromptSet
from orchestrator.inspection.reading import Reading
from orchestrator.watch.bootstrap import Interval


@dataclass(frozen=True, kw_only=True)
class SetFindings:
    """What was measured of one set of P prompts."""

    name: str
    texts: list[str]
    """Text of each prompt [P]."""
    ids: list[str]
    too_long: int
    """Prompts that were left out."""
    distinct: int
    """Prompts with different tokens."""
    lengths: tuple[int, int, int]
    """Tokens of the shortest, the median and the longest prompt."""
    diversity: Interval | None
    """Entropy in nats; None: the set is too small, or its prompts do not differ."""
    scores: np.ndarray
    """float64 [P]: DC-PDD; NaN for a prompt without a token that has a log-prob."""
    clipped: float
    """Fraction of the scored tokens at the clip; NaN without any."""
    places: np.ndarray
    """float64 [distinct, d]: principal components of the distinct prompts."""

    @property
    def mean_score(self) -> float:
        """Mean score, NaN without any."""
        known = self.scores[~np.isnan(self.scores)]
        return float(known.mean()) if len(known) else float("nan")

    @property
    def by_score(self) -> list[int]:
        """Indices of the prompts that have a score, the highest first."""
        known = np.flatnonzero(~np.isnan(self.scores))
        return [int(i) for i in known[np.argsort(-self.scores[known], kind="stable")]]


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What was measured of all sets. Tables of pairs are by the names of two sets, in both orders."""

    sets: dict[str, SetFindings]
    dimensions: int
    """Principal components that were used, d."""
    variance: float
    """Fraction of the variance of the hidden states that they hold."""
    duplicates: dict[tuple[str, str], Duplicates]
    """Of the prompts of the first set, in the second; with the same name twice, within a set."""
    novelty: dict[tuple[str, str], Novelty | None]
    """Of the first set against the second; None where one is too small."""
    separation: dict[tuple[str, str], Separation | None]
    """Of the scores of the first set from those of the second."""

    def plain(self) -> dict[str, Any]:
        """Return the numbers as JSON data."""
        return {
            "dimensions": self.dimensions,
            "variance": self.variance,
            "sets": {name: self._plain_set(found) for name, found in self.sets.items()},
            "pairs": [self._plain_pair(one, other) for one, other in permutations(self.sets, 2)],
        }

    def _plain_set(self, found: SetFindings) -> dict[str, Any]:
        return {
            "prompts": len(found.texts),
            "too_long": found.too_long,
            "distinct": found.distinct,
            "tokens": dict(zip(("shortest", "median", "longest"), found.lengths, strict=True)),
            "duplicates": self._plain_duplicates(found.name, found.name),
            "diversity": found.diversity and asdict(found.diversity),
            "contamination": {
                "mean": _known(found.mean_score),
                "clipped": _known(found.clipped),
                "scores": {name: _known(score) for name, score in zip(found.ids, found.scores, strict=True)},
            },
        }

    def _plain_pair(self, one: str, other: str) -> dict[str, Any]:
        new, apart = self.novelty[one, other], self.separation[one, other]
        return {
            "set": one,
            "against": other,
            "duplicates": self._plain_duplicates(one, other),
            "novelty": new and {**asdict(new), "word": new.word},
            "scores_higher": apart and asdict(apart),
        }

    def _plain_duplicates(self, one: str, other: str) -> dict[str, Any]:
        found = self.duplicates[one, other]
        return {
            "exact": found.exact,
            "near": found.near,
            "pairs": [self._plain_copy(one, other, p) for p in found.pairs],
        }

    def _plain_copy(self, one: str, other: str, pair: Pair) -> dict[str, Any]:
        names = self.sets[one].ids[pair.one], self.sets[other].ids[pair.other]
        return {"prompt": names[0], "copy_of": names[1], "similarity": pair.similarity}


def _known(value: float) -> float | None:
    """Return a value for JSON, which has no NaN."""
    return None if np.isnan(value) else float(value)


def measure(
    cfg: InspectTaskConfig,
    sets: Sequence[PromptSet],
    frame: Frame,
    readings: Sequence[Reading],
    vocabulary: int,
    seed: int,
) -> Findings:
    """Measure the sets.

    Args:
        frame: the tokens of all prompts that are left out.
        readings: what the policy computed from each set.
        vocabulary: tokens that the policy has, V.
        seed: of the random draws.
    """
    rows = {each.name: [frame.inner(tokens) for tokens in each.tokens] for each in sets}
    firsts = {name: distinct(tokens) for name, tokens in rows.items()}
    points, variance = _project(readings, firsts, cfg.dimensions)
    # Every distinct prompt of a set counts once, and those of all sets count, so that no set's tokens are rarer.
    frequency = frequencies((rows[name][i] for name, first in firsts.items() for i in first), vocabulary)
    draws = matched_draws([len(first) for first in firsts.values()], cfg.neighbours)
    found = {}
    for each, reading in zip(sets, readings, strict=True):
        scores, clipped = score_all(rows[each.name], reading.logps, frequency, cfg.clip)
        lengths = sorted(map(len, each.tokens))
        found[each.name] = SetFindings(
            name=each.name,
            texts=[prompt.text for prompt in each.prompts],
            ids=[prompt.id for prompt in each.prompts],
            too_long=each.too_long,
            distinct=len(firsts[each.name]),
            lengths=(lengths[0], lengths[len(lengths) // 2], lengths[-1]),
            diversity=diversity(points[each.name], draws, cfg.neighbours, seed),
            scores=scores,
            clipped=clipped,
            places=points[each.name],
        )
    ordered = list(permutations(rows, 2))
    alone = [(name, name) for name in rows]
    return Findings(
        sets=found,
        dimensions=points[sets[0].name].shape[1],
        variance=variance,
        duplicates={
            (one, other): find_duplicates(rows[one], rows[other], cfg.similarity, same=one == other)
            for one, other in [*alone, *ordered]
        },
        novelty={pair: novelty(points[pair[0]], points[pair[1]], cfg.neighbours, seed) for pair in ordered},
        separation={(one, other): separation(found[one].scores, found[other].scores) for one, other in ordered},
    )


def _project(
    readings: Sequence[Reading], firsts: Mapping[str, Sequence[int]], dimensions: int
) -> tuple[dict[str, np.ndarray], float]:
    """Project the distinct prompts of all sets together, so that their places can be compared."""
    kept = [reading.embeddings[first] for reading, first in zip(readings, firsts.values(), strict=True)]
    places, variance = project(np.concatenate(kept), dimensions)
    parts = np.split(places, np.cumsum([len(points) for points in kept])[:-1])
    return dict(zip(firsts, parts, strict=True)), variance
