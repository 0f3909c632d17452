"""References: policies that score the tokens of a batch. Each is frozen, or moves towards the trained policy.

Axes: N tokens of the batch, C tokens of a chunk, V vocabulary, D hidden.
"""

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from actors.contracts import Column, HostWeights, WeightsInfo
from actors.learning.rank_parts import with_columns
from actors.policy_files.reading import empty_model, fill_average
from actors.reference_parts import MAIN, label, logps_field
from actors.scoring.policy import Policy, Scored
from actors.scoring.token_scores import LogitsFunction
from actors.weights.host import check_payload, named_views
from configs.learner import LearnerConfig
from objectives.divergence.distributions import certainty, powered_logps
from trajectories.batch import Batch
from trajectories.shared_prefixes import shared_rows
from trajectories.split import plan
from trajectories.trajectory import COMPARED, ROUTES, Route


class References:
    """Any number of reference policies, by name. They score with the learner's temperature, layout and microbatches.

    Args:
        policies: for each reference, the directories of the models that are averaged, and their weights in the average.
        config: the learner's, for the layout, microbatches and chunks.
        dtype: of weights and forward pass, "float32" or "bfloat16".
    """

    def __init__(
        self,
        policies: Mapping[str, Mapping[str, float]],
        *,
        config: LearnerConfig,
        dtype: str,
        temperature: float,
        device: str,
    ) -> None:
        self.policies: dict[str, Policy] = {}
        self.token_budget, self.dtype, self.device = config.token_budget, getattr(torch, dtype), device
        for name, directories in policies.items():
            model = soup(directories, self.dtype, device).requires_grad_(False)
            self.policies[name] = Policy.configured(model, config, temperature=temperature, device=device, dtype=dtype)
        self._masters: dict[str, dict[str, Tensor]] = {}
        # Several groups may be sent at once. Together they would need several times the memory of a microbatch.
        self._at_work = threading.Lock()

    @torch.no_grad()
    def score(
        self,
        batch: Batch,
        names: Sequence[str] = (MAIN,),
        hidden: Sequence[str] = (),
        columns: Sequence[Column] = (),
    ) -> Batch:
        """Return the batch with log-probs, hidden states and columns, as `contracts.Reference.score` defines them.

        Log-probs and columns are computed on COMPARED routes only: rehearsed trajectories are stored with the log-probs
        of the main reference. What is not computed is NaN, so that using it by mistake makes the loss NaN.
        """
        compared = torch.tensor([ROUTES[route] in COMPARED for route in batch.route.tolist()])[batch.seq]
        for name in dict.fromkeys((*names, *hidden, *(column.reference for column in columns))):
            own_columns = [column for column in columns if column.reference == name]
            with self._at_work:
                scored = self._score(batch, self.policies[name], own_columns, keep_hidden=name in hidden)
            known = batch.logp_reference if name == MAIN else batch.anchors.get(name)
            found = {logps_field(name): torch.where(compared, scored.logp, torch.nan if known is None else known)}
            if scored.hidden is not None:
                found[f"hidden/{name}"] = scored.hidden
            extra = {label(column): scored.extra[label(column)] for column in own_columns}
            found |= {key: torch.where(compared, values, torch.nan) for key, values in extra.items()}
            batch = with_columns(batch, found)
        return batch

    def _score(self, batch: Batch, policy: Policy, columns: Sequence[Column], keep_hidden: bool) -> Scored:
        """Score the trajectories on COMPARED routes, and the rehearsed ones too if hidden states are needed; NaN
        elsewhere."""
        routes: tuple[Route, ...] = (*COMPARED, "rehearse") if keep_hidden else COMPARED
        scored_indices = [i for i, route in enumerate(batch.route.tolist()) if ROUTES[route] in routes]
        sequences = batch.sequences
        shared = shared_rows([sequences[i] for i in scored_indices], policy.linear_width, self.token_budget)
        outputs = {
            name: torch.full((len(batch.tokens),), torch.nan) for name in ("logp", "entropy", *map(label, columns))
        }
        states = torch.zeros(len(batch.tokens), policy.width, dtype=self.dtype) if keep_hidden else None
        for microbatch in plan([row.width for row in shared], self.token_budget):
            indices = [scored_indices[i] for row in microbatch for i in shared[row].members]
            selected = batch.select(indices).to(self.device)
            scored = score_columns(policy, selected, columns, keep_hidden=keep_hidden)
            rows = batch.token_rows(indices)
            for name, values in {"logp": scored.logp, "entropy": scored.entropy, **scored.extra}.items():
                outputs[name][rows] = values.cpu()
            if states is not None:
                assert scored.hidden is not None
                states[rows] = scored.hidden.cpu().to(states.dtype)
        return Scored(logp=outputs.pop("logp"), entropy=outputs.pop("entropy"), extra=outputs, hidden=states)

    @torch.no_grad()
    def move(self, name: str, info: WeightsInfo, weights: HostWeights, mixing_weight: float) -> None:
        """Update one reference: reference <- mixing_weight * policy + (1 - mixing_weight) * reference.

        The mixed weights are kept in float32: bfloat16 would round small changes to zero.

        Args:
            info, weights: the learner's float32 master weights.
            mixing_weight: in [0, 1].
        """
        check_payload(info, weights)
        model = self.policies[name].model
        masters = self._masters.setdefault(
            name, {key: p.detach().cpu().float().clone() for key, p in model.named_parameters()}
        )
        for key, tensor in named_views(info, weights.data):
            masters[key].lerp_(tensor.float(), mixing_weight)
        self._load(name)

    def _load(self, name: str) -> None:
        masters = self._masters[name]
        for key, parameter in self.policies[name].model.named_parameters():
            parameter.copy_(masters[key])

    def moved(self) -> dict[str, dict[str, np.ndarray]]:
        """Return the float32 weights of the references that have moved, by name and parameter."""
        return {name: {key: t.numpy() for key, t in masters.items()} for name, masters in self._masters.items()}

    @torch.no_grad()
    def restore(self, moved: Mapping[str, Mapping[str, np.ndarray]]) -> None:
        """Set the weights that `moved` returned elsewhere."""
        for name, masters in moved.items():
            self._masters[name] = {key: torch.tensor(values) for key, values in masters.items()}
            self._load(name)

    def save(self, folder: str) -> None:
        """Write the weights of the references that have moved; the others are unchanged in their directories."""
        target = Path(folder) / "references"
        target.mkdir(exist_ok=True)
        torch.save(self._masters, target / "moved.pt")

    @torch.no_grad()
    def load(self, folder: str) -> None:
        """Restore what `save` wrote."""
        self._masters = torch.load(Path(folder) / "references" / "moved.pt", weights_only=True)
        for name in self._masters:
            self._load(name)

    def close(self) -> None:
        """Do nothing: what the references hold ends with their process."""


def score_columns(policy: Policy, batch: Batch, columns: Sequence[Column], *, keep_hidden: bool = False) -> Scored:
    """Score a microbatch, on the policy's device, with the columns among the extra outputs."""
    activations = [label(column) for column in columns if column.kind == "activation"]
    functions = _functions(batch, columns, policy.temperature)
    scored = policy(batch, functions, keep_hidden=keep_hidden or bool(activations))
    if activations:
        assert scored.hidden is not None
        mean = scored.hidden.float().mean(-1)
        scored = scored._replace(extra=scored.extra | dict.fromkeys(activations, mean))
    return scored


def _functions(batch: Batch, columns: Sequence[Column], temperature: float) -> dict[str, LogitsFunction]:
    """Return, by column of logits, the function that computes it from a chunk already divided by `temperature`."""

    def function(column: Column) -> LogitsFunction:
        def values(logits: Tensor, targets: Tensor, rows: Tensor) -> Tensor:
            if column.kind == "certainty":
                return certainty(logits * (temperature / (column.temperature or temperature)), column.certainty)
            return powered_logps(logits, targets, batch.power[column.term][rows])

        return values

    return {label(column): function(column) for column in columns if column.kind != "activation"}


def soup(parts: Mapping[str, float], dtype: torch.dtype, device: str = "cpu") -> Any:
    """Load a model whose parameters are the weighted average of several models', computed in float32.

    Args:
        parts: directories and their weights in the average, which sum to 1.
        dtype: of the returned model.

    Raises:
        ValueError: the models differ in the names or shapes of their parameters.

    Source: SALSA, arXiv:2411.01798.
    """
    model = empty_soup(parts, dtype)
    fill_average(model, parts, device)
    return model


def empty_soup(parts: Mapping[str, float], dtype: torch.dtype) -> Any:
    """Return the model of `soup` on the meta device, without weights."""
    assert parts and abs(sum(parts.values()) - 1) < 1e-6, f"weights of an average must sum to 1, got {parts}"
    return empty_model(next(iter(parts)), dtype)
