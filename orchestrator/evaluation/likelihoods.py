"""Log-likelihoods of all policies on the same held-out answers: KL between policies, and a map of them.

Axes: M policies (as the one that scores, or the one that sampled), P prompts, A answers of each policy to a prompt.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from trajectories.atomic_write import replace_file

FILE = "log_likelihoods.parquet"
"""File of an evaluation: one row for each answer, with its log-likelihood under every policy."""
COLUMN = "log_likelihood/"
"""What the name of a policy's column begins with."""


@dataclass(frozen=True, kw_only=True)
class Likelihoods:
    """Log-likelihoods of answers that every policy sampled, under every policy."""

    names: tuple[str, ...]
    """Of the policies [M], the base first."""
    prompt_ids: tuple[str, ...]
    """[P]"""
    values: np.ndarray
    """float64 [M, P, M, A], nats: log-likelihood under the first policy of the answers that the second one sampled."""

    def kl(self) -> np.ndarray:
        """Return KL(i || j) in nats per answer by prompt, [M, M, P]: the mean over i's own answers of l_i - l_j.

        It is unbiased, and 0 for i = j. An estimate may be negative.
        """
        own = np.stack([self.values[i, :, i] for i in range(len(self.names))])  # [M, P, A]
        found: np.ndarray = (own[:, None] - self.values.transpose(2, 0, 1, 3)).mean(-1)
        return found

    def vectors(self) -> np.ndarray:
        """Return a vector of each policy, [M, P * M * A], with ||l_i - l_j||^2 approximately KL(i || j) = KL(j || i).

        The log-likelihoods of a prompt's n answers, those of all policies together, are centred on their mean, and
        scaled by 1 / sqrt(2 P (n - 1)): the squared distance is half the variance of the log-ratio l_i - l_j, which is
        the KL to second order in the log-ratio, mean over prompts. It is exact for Gaussians of equal covariance. Of
        policies that are far apart it is only a distance.

        Source: Oyama et al., arXiv:2502.16173, whose texts are not of several prompts and centred together.
        """
        policies, prompts = len(self.names), len(self.prompt_ids)
        pooled = self.values.reshape(policies, prompts, -1)
        answers = pooled.shape[-1]
        centred = pooled - pooled.mean(-1, keepdims=True)
        scaled: np.ndarray = centred.reshape(policies, -1) / np.sqrt(2 * prompts * max(answers - 1, 1))
        return scaled

    def map(self) -> "Map":
        """Return the map of the policies."""
        vectors = self.vectors()
        squares = _squared_distances(vectors)
        centred = vectors - vectors.mean(0)
        spread, axes = np.linalg.eigh(centred @ centred.T)  # rising
        spread = spread.clip(0)[::-1]
        places = (axes[:, ::-1] * np.sqrt(spread))[:, :2]
        places = places - places[0]
        # The sign of an axis is arbitrary: the policy furthest from the base along it is on the positive side.
        furthest = places[np.abs(places).argmax(0), np.arange(places.shape[1])]
        places = places * np.where(furthest < 0, -1.0, 1.0)
        total = float(spread.sum())
        return Map(
            names=self.names,
            places=places,
            squared_distances=squares,
            shown=float(spread[:2].sum()) / total if total > 0 else 1.0,
        )

    def write(self, folder: Path) -> None:
        """Write FILE to the folder."""
        policies, prompts, _, answers = self.values.shape
        scores = self.values.transpose(0, 2, 1, 3).reshape(policies, -1)  # of the rows, under each policy
        columns = {
            "policy": np.repeat(self.names, prompts * answers),
            "prompt_id": np.tile(np.repeat(self.prompt_ids, answers), policies),
            "sample_index": np.tile(np.arange(answers), policies * prompts),
            **{f"{COLUMN}{name}": of_policy for name, of_policy in zip(self.names, scores, strict=True)},
        }
        with replace_file(folder / FILE) as file:
            pq.write_table(pa.table(columns), file)


@dataclass(frozen=True, kw_only=True)
class Map:
    """Places of policies in the plane that shows most of their distances: principal components of `vectors`."""

    names: tuple[str, ...]
    places: np.ndarray
    """float64 [M, 2], square roots of nats. The base is at 0."""
    squared_distances: np.ndarray
    """float64 [M, M], nats, before the projection on the plane."""
    shown: float
    """Fraction of the sum of squared distances that the plane has."""


def read_likelihoods(folder: Path) -> Likelihoods | None:
    """Read what `Likelihoods.write` has written; None if there is no such file. Raises ValueError on another table."""
    if not (folder / FILE).is_file():
        return None
    table = pq.read_table(folder / FILE)
    columns = [name for name in table.column_names if name.startswith(COLUMN)]
    names = tuple(name.removeprefix(COLUMN) for name in columns)
    sources, prompt_ids = (list(dict.fromkeys(table[key].to_pylist())) for key in ("policy", "prompt_id"))
    if list(names) != sources:
        raise ValueError(f"{FILE}: must have a column for each policy, {sources}, got {columns}")
    scores = np.stack([table[name].to_numpy() for name in columns])  # [M, M * P * A]
    values = scores.reshape(len(names), len(names), len(prompt_ids), -1).transpose(0, 2, 1, 3)
    return Likelihoods(names=names, prompt_ids=tuple(prompt_ids), values=values)


def _squared_distances(vectors: np.ndarray) -> np.ndarray:
    """Return the squared distances [M, M] of vectors [M, d]."""
    return np.stack([((vectors - own) ** 2).sum(-1) for own in vectors])
