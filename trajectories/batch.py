"""Batch: the trajectories of one optimizer step as flat tensors.

Axes: N tokens of all trajectories end to end, B trajectories, D hidden size. A batch holds no padding, and every
trajectory in it is whole. Each tensor field declares the axis of its first dimension, so that `Batch.select` and
`Batch.to` cover every field.
"""

import itertools
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from operator import itemgetter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trajectories.arrays import ArrayOf, to_array, to_tensor
from trajectories.columns import anchor_logps, is_trained, joined, meanings, reference_logps, reward_parts
from trajectories.trajectory import OWN_ROUTES, ROUTES, Group, Route, Trajectory, domain

PER_TOKEN = {"axis": "token"}
"""Metadata of a field whose tensor has first dimension N."""
PER_TRAJECTORY = {"axis": "trajectory"}
"""Metadata of a field whose tensor has first dimension B."""
PER_TRAJECTORY_TABLE = {"axis": "trajectory table"}
"""Metadata of a field that is a dictionary of tensors, each with first dimension B."""
PER_TOKEN_TABLE = {"axis": "token table"}
"""Metadata of a field that is a dictionary of tensors, each with first dimension N."""


@dataclass(frozen=True, kw_only=True)
class Totals:
    """Token and trajectory counts of one route over a whole batch.

    Every microbatch carries the totals of the batch it was selected from. Losses are normalised by them, so the split
    into ranks and microbatches does not change the loss.
    """

    tokens: int
    """Tokens of this route that are trained on."""
    trajectories: int
    """Trajectories of this route with at least one token that is trained on."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Aligned tensors of B trajectories with N tokens, and the totals of the whole batch they were selected from."""

    tokens: Tensor = field(metadata=PER_TOKEN)
    """int64 [N]"""
    seq: Tensor = field(metadata=PER_TOKEN)
    """int64 [N]: index of the token's trajectory, ascending from 0 to B - 1."""
    lengths: Tensor = field(metadata=PER_TRAJECTORY)
    """int64 [B]: number of tokens of each trajectory, prompt included."""
    mask: Tensor = field(metadata=PER_TOKEN)
    """bool [N]: True where the token is trained on: generated tokens of graded answers and of stored answers."""
    logp_sampler: Tensor = field(metadata=PER_TOKEN)
    """float32 [N], nats: log-probs computed by the engine that generated the tokens."""
    route: Tensor = field(metadata=PER_TRAJECTORY)
    """int64 [B]: index into `ROUTES`."""
    group: Tensor = field(metadata=PER_TRAJECTORY)
    """int64 [B]: index of the group, for its solution too; -1 for stored answers."""
    domain: Tensor = field(metadata=PER_TRAJECTORY)
    """int64 [B]: index into `domains`; -1 for stored answers."""
    domains: tuple[str, ...]
    """Domains of the prompts of all groups, sorted; the task's name is the only one unless the task is a mixture."""
    reward: Tensor = field(metadata=PER_TRAJECTORY)
    """float32 [B]; NaN for stored answers, for solutions and where the grader failed."""
    version: Tensor = field(metadata=PER_TRAJECTORY)
    """int64 [B]: weight version of the first generated token; -1 for stored answers, solutions and experience."""
    generated: Tensor = field(metadata=PER_TRAJECTORY)
    """int64 [B]: number of generated tokens, trained on or not."""
    totals: dict[Route, Totals]
    rewards: dict[str, Tensor] = field(default_factory=dict, metadata=PER_TRAJECTORY_TABLE)
    """float32 [B] by name of each of several rewards, before weights and gates; NaN where `reward` is."""
    meaning: Tensor | None = field(default=None, metadata=PER_TRAJECTORY)
    """int64 [B]: number of the answer's meaning within its group, in order of appearance: equal for answers that are
    the same solution (`Trajectory.meaning`); -1 for stored answers. None: the objective does not read it."""
    logp_old: Tensor | None = field(default=None, metadata=PER_TOKEN)
    """float32 [N], nats: log-probs computed by the learner with the weights before this step's first update."""
    entropy_old: Tensor | None = field(default=None, metadata=PER_TOKEN)
    """float32 [N], nats: entropy of the distribution each token was drawn from, with the weights of `logp_old`."""
    logp_reference: Tensor | None = field(default=None, metadata=PER_TOKEN)
    """float32 [N], nats: log-probs under the policy at `reference_path`."""
    anchors: dict[str, Tensor] = field(default_factory=dict, metadata=PER_TOKEN_TABLE)
    """float32 [N] by name of each further reference: its log-probs, in nats."""
    value_old: Tensor | None = field(default=None, metadata=PER_TRAJECTORY)
    """float32 [B]: predictions of the critic before this step's first update."""
    hidden: dict[str, Tensor] = field(default_factory=dict, metadata=PER_TOKEN_TABLE)
    """[N, D] of the reference that the learned mask of pairs reads: its final hidden states."""
    activation: dict[str, Tensor] = field(default_factory=dict, metadata=PER_TOKEN_TABLE)
    """float32 [N] of the reference that a mask of pairs reads: mean over D of the state that predicts the token."""
    power: dict[str, Tensor] = field(default_factory=dict, metadata=PER_TOKEN_TABLE)
    """float32 [N] by divergence term with a reweighted anchor: exponent phi of the anchor's distribution."""
    reweighted: dict[str, Tensor] = field(default_factory=dict, metadata=PER_TOKEN_TABLE)
    """float32 [N] by divergence term with a reweighted anchor: log-probs under anchor^phi / Z, in nats."""
    certainty: dict[str, Tensor] = field(default_factory=dict, metadata=PER_TOKEN_TABLE)
    """float32 [N] in [0, 1] by divergence term weighted by it: certainty of the anchor's next-token distribution."""
    distance: dict[str, Tensor] = field(default_factory=dict, metadata=PER_TOKEN_TABLE)
    """float32 [N], nats, by divergence term weighted by it: exact KL(policy || anchor) of the next-token distribution,
    with the weights of `logp_old`; for the term of the pairs its own value."""
    advantage: Tensor | None = field(default=None, metadata=PER_TOKEN)
    """float32 [N]. This field and those below are set by `objectives.credit.credit`."""
    in_loss: Tensor | None = field(default=None, metadata=PER_TRAJECTORY)
    """bool [B]: False where no part of the loss has a gradient, so that the learner need not score the trajectory."""
    value_target: Tensor | None = field(default=None, metadata=PER_TRAJECTORY)
    """float32 [B]: value target (return) of the critic, or beta r + mean_t log reference of flow balance; NaN where
    there is no reward."""
    gate: Tensor | None = field(default=None, metadata=PER_TOKEN)
    """float32 [N]: factor on the policy-gradient loss of each token."""
    high_covariance: Tensor | None = field(default=None, metadata=PER_TOKEN)
    """bool [N]: True where `objective.covariance` has chosen the token."""
    term_weights: dict[str, Tensor] = field(default_factory=dict, metadata=PER_TOKEN_TABLE)
    """float32 [N] by divergence term: factor on the term's loss of each token."""
    term_factors: dict[str, float] = field(default_factory=dict)
    """Factor on the loss of some divergence terms, by term, that only the whole batch determines."""

    @cached_property
    def starts(self) -> Tensor:
        """int64 [B]: position in [N] of the first token of each trajectory."""
        return self.lengths.cumsum(0) - self.lengths

    @property
    def sequences(self) -> list[np.ndarray]:
        """The tokens of each trajectory."""
        return [tokens.numpy() for tokens in self.tokens.cpu().split(self.lengths.tolist())]

    def on_route(self, *routes: Route) -> Tensor:
        """bool [N]: True where a token is trained on and its trajectory is on one of `routes`."""
        return self.mask & self._has_route(*routes)[self.seq]

    def _has_route(self, *routes: Route) -> Tensor:
        """bool [B]: True where a trajectory is on one of `routes`."""
        first, *others = (self.route == ROUTES.index(route) for route in routes)
        for other in others:
            first = first | other
        return first

    def trained_lengths(self, route: Route) -> Tensor:
        """int64 [B]: number of trained tokens of each trajectory on `route`; 0 for trajectories on other routes."""
        return self._trained * self._has_route(route)

    @cached_property
    def _trained(self) -> Tensor:
        """int64 [B]: number of trained tokens of each trajectory."""
        return torch.bincount(self.seq[self.mask], minlength=len(self.route))

    def graded_groups(self) -> list[Tensor]:
        """int64 [G] for each group: indices of its graded answers, ascending."""
        graded = ~self.reward.isnan()
        return [members[graded[members]] for members in groups_of(self.group)]

    def token_rows(self, indices: Sequence[int]) -> Tensor:
        """Return int64 positions in [N] of all tokens of the trajectories at `indices`, in that order."""
        rows = torch.tensor(list(indices), dtype=torch.long, device=self.seq.device)
        chosen, starts = self.lengths[rows], self.starts[rows]
        # Position in the result, plus what the start of its trajectory differs by here and there.
        return torch.arange(int(chosen.sum()), device=rows.device) + (
            starts - chosen.cumsum(0) + chosen
        ).repeat_interleave(chosen)

    def select(self, indices: Sequence[int]) -> "Batch":
        """Return the trajectories at `indices`, in that order, with the totals of this batch. Tensors are copied."""
        positions = self.token_rows(indices)
        rows = torch.tensor(list(indices), dtype=torch.long, device=self.seq.device)
        changed = self._of_each(lambda values: values[positions], lambda values: values[rows])
        changed["seq"] = torch.arange(len(rows), device=rows.device).repeat_interleave(changed["lengths"])
        return replace(self, **changed)

    def cut(self, counts: Sequence[int]) -> list["Batch"]:
        """Cut the batch into successive batches of `counts` trajectories, with the totals of this batch. Their tensors
        are views, but for `seq`."""
        ends = np.cumsum([0, *counts]).tolist()
        assert ends[-1] == len(self.route), f"{ends[-1]} trajectories are cut from a batch of {len(self.route)}"
        bounds = [*self.starts.tolist(), len(self.tokens)]
        parts = []
        for first, end in itertools.pairwise(ends):
            tokens, rows = slice(bounds[first], bounds[end]), slice(first, end)
            changed = self._of_each(itemgetter(tokens), itemgetter(rows))
            parts.append(replace(self, **changed | {"seq": changed["seq"] - first}))
        return parts

    def reduced_to(self, optional: Collection[str]) -> "Batch":
        """Return the batch without its optional fields, except those named."""
        left = {each.name: each for each in fields(self) if each.name not in {*optional, "term_factors"}}
        changed: dict[str, Any] = {name: None for name, each in left.items() if each.default is None}
        changed |= {name: {} for name, each in left.items() if each.default_factory is dict}
        return replace(self, **changed)

    def to(self, device: torch.device | str) -> "Batch":
        """Return the batch with every tensor on `device`."""
        return replace(self, **self._of_each(lambda values: values.to(device), lambda values: values.to(device)))

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle tensors as numpy arrays (`trajectories.arrays`), and not `seq`, which follows from `lengths`."""
        columns = self._of_each(to_array, to_array)
        del columns["seq"]
        others = {each.name: getattr(self, each.name) for each in fields(self) if not each.metadata}
        return _unpickled, (columns, others)

    def _of_each(self, token: Callable[[Tensor], Any], trajectory: Callable[[Tensor], Any]) -> dict[str, Any]:
        """Return every field of tensors, changed by one function along the axis of tokens and by one along that of
        trajectories."""
        changed: dict[str, Any] = {}
        for change, names, tables in (
            (token, TOKEN_FIELDS, TOKEN_TABLES),
            (trajectory, TRAJECTORY_FIELDS, TRAJECTORY_TABLES),
        ):
            for name in names:
                value = getattr(self, name)
                changed[name] = None if value is None else change(value)
            for name in tables:
                changed[name] = {key: change(values) for key, values in getattr(self, name).items()}
        return changed


def _unpickled(columns: dict[str, Any], others: dict[str, Any]) -> Batch:
    def tensors(column: Any) -> Any:
        if isinstance(column, ArrayOf):
            return to_tensor(column)
        return column and {key: to_tensor(array) for key, array in column.items()}

    values = {name: tensors(column) for name, column in columns.items()}
    lengths = values["lengths"]
    return Batch(**values, **others, seq=torch.arange(len(lengths)).repeat_interleave(lengths))


def groups_of(group: Tensor) -> list[Tensor]:
    """Return the indices of the trajectories of each group, ascending, int64 [G], by ascending number of the group.

    Args:
        group: int64 [B]; trajectories of group -1 are in none.
    """
    order = group.argsort(stable=True)
    numbers, counts = group[order].unique_consecutive(return_counts=True)
    parts = order.split(counts.tolist())
    return [members for number, members in zip(numbers.tolist(), parts, strict=True) if number >= 0]


def _fields_with(metadata: dict[str, str]) -> tuple[str, ...]:
    return tuple(each.name for each in fields(Batch) if each.metadata == metadata)


TOKEN_FIELDS = _fields_with(PER_TOKEN)
TOKEN_TABLES = _fields_with(PER_TOKEN_TABLE)
TRAJECTORY_FIELDS = _fields_with(PER_TRAJECTORY)
TRAJECTORY_TABLES = _fields_with(PER_TRAJECTORY_TABLE)


def pack(
    groups: Sequence[Group],
    stored: Sequence[Trajectory] = (),
    mask_truncated: bool = False,
    count_meanings: bool = False,
) -> Batch:
    """Make a batch of the trajectories of `groups`, then their solutions, then the `stored` answers (rehearsed or
    replayed), end to end.

    The experience of a group follows its new answers, and counts in its baseline.

    A trajectory whose grader failed (reward None) stays in the batch with its mask cleared. With `mask_truncated` so
    does one that was cut off at the length limit; its reward still counts in the baseline of its group.
    `count_meanings` numbers the meanings of each group.

    Raises:
        AssertionError: `tokens`, `mask` and `logp_sampler` of a trajectory differ in length.
    """
    rows = [(t, g) for g, group in enumerate(groups) for t in (*group.trajectories, *group.experience)]
    rows += [(group.solution, g) for g, group in enumerate(groups) if group.solution is not None]
    rows += [(t, -1) for t in stored]
    assert rows, "a batch needs at least one trajectory"
    for t, _ in rows:
        assert len(t.tokens) == len(t.mask) == len(t.logp_sampler), f"{t.key}: fields are not aligned with tokens"
    trained = torch.tensor([t.route not in OWN_ROUTES or is_trained(t, mask_truncated) for t, _ in rows])
    lengths = torch.tensor([len(t.tokens) for t, _ in rows])
    group_domains = [domain(group.prompt.id) for group in groups]
    domains = tuple(sorted(set(group_domains)))
    rewards = [np.nan if t.reward is None or t.route not in OWN_ROUTES else t.reward for t, _ in rows]
    batch = Batch(
        tokens=joined([t.tokens for t, _ in rows], torch.int64),
        seq=torch.repeat_interleave(torch.arange(len(rows)), lengths),
        lengths=lengths,
        mask=joined([t.mask for t, _ in rows], torch.bool) & trained.repeat_interleave(lengths),
        logp_sampler=joined([t.logp_sampler for t, _ in rows], torch.float32),
        logp_reference=reference_logps([t for t, _ in rows]),
        anchors=anchor_logps([t for t, _ in rows]),
        route=torch.tensor([ROUTES.index(t.route) for t, _ in rows]),
        group=torch.tensor([g for _, g in rows]),
        domain=torch.tensor([domains.index(group_domains[g]) if g >= 0 else -1 for _, g in rows]),
        domains=domains,
        reward=torch.tensor(rewards, dtype=torch.float32),
        rewards=reward_parts([t for t, _ in rows]),
        meaning=meanings(groups, len(rows)) if count_meanings else None,
        version=torch.tensor([t.first_version if t.route == "explore" else -1 for t, _ in rows]),
        generated=torch.tensor([t.answer_length for t, _ in rows]),
        totals={},
    )
    return with_own_totals(batch)


def with_own_totals(batch: Batch) -> Batch:
    """Return the batch with totals counted from its own trajectories."""
    totals: dict[Route, Totals] = {}
    for route in ROUTES:
        counts = batch.trained_lengths(route)
        totals[route] = Totals(tokens=int(counts.sum()), trajectories=int((counts > 0).sum()))
    return replace(batch, totals=totals)
