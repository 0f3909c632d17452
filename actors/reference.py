"""Reference: policies that score tokens others generated; named, frozen, averaged, or following the one trained."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from actors.contracts import Column, HostWeights, WeightsInfo
from actors.learning.policy import Policy, Reader, Scored, load_model
from actors.weights.host import check_payload, named_views
from configs.learner import LearnerConfig
from objectives.divergence.distributions import certainty, powered_logps
from trajectories.batch import Batch
from trajectories.split import plan
from trajectories.trajectory import ROUTES, Route

MAIN = "reference"
"""The name whose log-probs are `Batch.logp_reference`; those of the others are in `Batch.anchors`."""


class References:
    """Log-probs of any number of policies, microbatch by microbatch, at the learner's temperature and layout.

    `policies` names each one, with the directories it is made of and their weights.
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
        for name, parts in policies.items():
            model = soup(parts, self.dtype).to(device).requires_grad_(False)
            self.policies[name] = Policy(
                model, layout=config.layout, logits_chunk=config.logits_chunk, temperature=temperature
            )
        self._masters: dict[str, dict[str, Tensor]] = {}

    @torch.no_grad()
    def score(
        self,
        batch: Batch,
        names: Sequence[str] = (MAIN,),
        hidden: Sequence[str] = (),
        columns: Sequence[Column] = (),
    ) -> Batch:
        """The batch with the log-probs [N] of the policies `names` and the `columns` [N] on explored trajectories, and
        the final hidden states [N, D] of the policies `hidden` on all but replayed ones.

        Stored log-probs of rehearsed trajectories stay; of policies other than the main reference they are unknown
        (NaN), as are the columns.
        """
        explored = (batch.route == ROUTES.index("explore"))[batch.seq]
        for name in dict.fromkeys((*names, *hidden, *(column.reference for column in columns))):
            mine = [column for column in columns if column.reference == name]
            scored = self._score(batch, self.policies[name], mine, keep_hidden=name in hidden)
            known = batch.logp_reference if name == MAIN else batch.anchors.get(name)
            logps = torch.where(explored, scored.logp, torch.nan if known is None else known)
            if name == MAIN:
                batch = replace(batch, logp_reference=logps)
            else:
                batch = replace(batch, anchors={**batch.anchors, name: logps})
            if scored.hidden is not None:
                batch = replace(batch, hidden={**batch.hidden, name: scored.hidden})
            for column in mine:
                values = torch.where(explored, scored.read[_label(column)], torch.nan)
                tables: dict[str, Any] = {column.kind: {**getattr(batch, column.kind), column.term: values}}
                batch = replace(batch, **tables)
        return batch

    def _score(self, batch: Batch, policy: Policy, columns: Sequence[Column], keep_hidden: bool) -> Scored:
        """What a policy says of the explored trajectories, NaN on the others; with hidden states, of rehearsed too."""
        asked: tuple[Route, ...] = ("explore", "rehearse") if keep_hidden else ("explore",)
        wanted = [i for i, route in enumerate(batch.route.tolist()) if ROUTES[route] in asked]
        lengths = batch.lengths.tolist()
        whole = {
            name: torch.full((len(batch.tokens),), torch.nan) for name in ("logp", "entropy", *map(_label, columns))
        }
        states = torch.zeros(len(batch.tokens), policy.width, dtype=self.dtype) if keep_hidden else None
        for part in plan([lengths[i] for i in wanted], self.token_budget):
            indices = [wanted[i] for i in part]
            selected = batch.select(indices).to(self.device)
            scored = policy(selected, _readers(selected, columns, policy.temperature), keep_hidden=keep_hidden)
            rows = batch.token_rows(indices)
            for name, values in {"logp": scored.logp, "entropy": scored.entropy, **scored.read}.items():
                whole[name][rows] = values.cpu()
            if states is not None:
                assert scored.hidden is not None
                states[rows] = scored.hidden.cpu().to(states.dtype)
        return Scored(logp=whole.pop("logp"), entropy=whole.pop("entropy"), read=whole, hidden=states)

    @torch.no_grad()
    def move(self, name: str, info: WeightsInfo, weights: HostWeights, share: float) -> None:
        """reference <- share * policy + (1 - share) * reference, from the learner's float32 master weights.

        The mix is kept in float32: in bfloat16 a small step of a weight would be rounded away.
        """
        check_payload(info, weights)
        model = self.policies[name].model
        masters = self._masters.setdefault(
            name, {key: p.detach().cpu().float().clone() for key, p in model.named_parameters()}
        )
        for key, tensor in named_views(info, weights.data):
            masters[key].lerp_(tensor.float(), share)
        self._load(name)

    def _load(self, name: str) -> None:
        masters = self._masters[name]
        for key, parameter in self.policies[name].model.named_parameters():
            parameter.copy_(masters[key])

    def save(self, folder: str) -> None:
        """Write what has moved; the others are where they came from."""
        target = Path(folder) / "references"
        target.mkdir(exist_ok=True)
        torch.save(self._masters, target / "moved.pt")

    @torch.no_grad()
    def load(self, folder: str) -> None:
        """Continue from what `save` wrote."""
        self._masters = torch.load(Path(folder) / "references" / "moved.pt", weights_only=True)
        for name in self._masters:
            self._load(name)


def _label(column: Column) -> str:
    return f"{column.kind}/{column.term}"


def _readers(batch: Batch, columns: Sequence[Column], temperature: float) -> dict[str, Reader]:
    """What is computed of every chunk of logits, which come at the sampling `temperature`, for each column."""

    def reader(column: Column) -> Reader:
        def read(logits: Tensor, targets: Tensor, rows: Tensor) -> Tensor:
            if column.kind == "certainty":
                return certainty(logits * (temperature / (column.temperature or temperature)), column.certainty)
            return powered_logps(logits, targets, batch.power[column.term][rows])

        return read

    return {_label(column): reader(column) for column in columns}


def soup(parts: Mapping[str, float], dtype: torch.dtype) -> Any:
    """The model whose parameters are the weighted average of those in the directories `parts`, averaged in float32.

    SALSA, arXiv:2411.01798. Raises ValueError naming `references` when the models have other parameters.
    """
    assert parts and abs(sum(parts.values()) - 1) < 1e-6, f"weights must add up to 1: {parts}"
    if len(parts) == 1:
        # Loaded in its dtype: casting a loaded model would round its rotary frequencies too, which no learner does.
        return load_model(next(iter(parts)), dtype)
    average: dict[str, Tensor] = {}
    for path, weight in parts.items():
        named = {name: p.detach().float() * weight for name, p in load_model(path).named_parameters()}
        if average and {n: p.shape for n, p in named.items()} != {n: p.shape for n, p in average.items()}:
            raise ValueError(f"references: policies of a soup must have the same parameters, got {list(parts)}")
        average = {name: p + average[name] if average else p for name, p in named.items()}
    model = load_model(next(iter(parts)), dtype)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(average[name])
    return model
