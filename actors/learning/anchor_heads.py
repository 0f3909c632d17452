"""What the learner computes from whole distributions, its own and those of references, a chunk of tokens at a time.

A reference's logits are made from its hidden states and a frozen copy of its head, so that memory is two chunks times
the vocabulary, whatever the batch. Where tokens have places, those are its frozen input embeddings.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from actors.learning.policy import Reader
from actors.reference import soup
from configs.objective import ObjectiveConfig
from configs.terms import TermConfig
from objectives.divergence.batch_sinkhorn import answer_blocks
from objectives.divergence.distributions import reverse_kl, vocabulary_values
from objectives.divergence.wasserstein import TokenSpace, token_space
from trajectories.batch import Batch


class AnchorHeads:
    """The heads of the references whose whole distributions an objective needs; `references` names the directories
    each is made of, and their weights."""

    def __init__(
        self,
        objective: ObjectiveConfig,
        references: Mapping[str, Mapping[str, float]],
        *,
        dtype: str,
        device: str,
        temperature: float,
    ) -> None:
        self.objective, self.temperature = objective, temperature
        self.heads: dict[str, Tensor] = {}
        self.spaces: dict[str, TokenSpace] = {}
        for anchor in objective.hidden_anchors:
            model = soup(references[anchor], getattr(torch, dtype))
            self.heads[anchor] = _head(model).to(device)
            for name, term in objective.terms.items():
                if term.anchor == anchor and term.name == "wasserstein":
                    embeddings = model.get_input_embeddings().weight.detach().clone().to(device)
                    self.spaces[name] = token_space(embeddings, term.transport.neighbours)

    def readers(self, batch: Batch) -> dict[str, Reader]:
        """For the loss: the value of every term that compares whole distributions, under the term's name."""
        terms = {name: term for name, term in self.objective.terms.items() if term.reads_distributions}
        if not terms:
            return {}
        place, size = (
            torch.zeros_like(batch.tokens).masked_scatter(batch.mask, column)
            for column in answer_blocks(batch.seq[batch.mask])
        )

        def reader(name: str, term: TermConfig) -> Reader:
            def read(logits: Tensor, targets: Tensor, rows: Tensor) -> Tensor:
                anchor = self._logits(batch, name, term, rows)
                blocks = (place[rows], size[rows])
                return vocabulary_values(term, logits, anchor, targets, space=self.spaces.get(name), blocks=blocks)

            return read

        return {name: reader(name, term) for name, term in terms.items()}

    def distance_readers(self, batch: Batch) -> dict[str, Reader]:
        """Before the first update: KL(policy || anchor) for every term whose weights ask for it, under its name."""

        def reader(name: str, term: TermConfig) -> Reader:
            def read(logits: Tensor, targets: Tensor, rows: Tensor) -> Tensor:
                return reverse_kl(logits, self._logits(batch, name, term, rows))

            return read

        return {name: reader(name, term) for name, term in self.objective.terms.items() if term.weights.needs_distance}

    def _logits(self, batch: Batch, name: str, term: TermConfig, rows: Tensor) -> Tensor:
        """[C, V], at the sampling temperature."""
        states = batch.hidden[term.anchor][rows]
        logits = torch.nn.functional.linear(states, self.heads[term.anchor]).float() / self.temperature
        return logits * batch.power[name][rows, None] if term.reweights else logits


def _head(model: Any) -> Tensor:
    """[V, D]: the output embedding of a reference. It has no bias in the models served here, which `load_model` checks
    by comparing logits."""
    head = model.get_output_embeddings()
    assert head.bias is None, "the head of a reference must have no bias"
    return head.weight.detach().clone()  # type: ignore[no-any-return]
