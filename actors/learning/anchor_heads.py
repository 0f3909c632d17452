"""Divergence terms over the full vocabulary: compare the learner's logits with those of references, chunk by chunk.

A reference sends final hidden states [N, D] instead of logits [N, V]. The learner keeps a frozen copy of its LM head
and computes its logits per chunk, so memory is two chunks of logits, whatever the size of the batch.

Axes: N tokens of the batch, C tokens of a chunk, V vocabulary, D hidden.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from actors.reference import soup
from actors.scoring.token_scores import LogitsFunction, head_logits
from configs.objective import ObjectiveConfig
from configs.terms import TermConfig
from objectives.divergence.batch_sinkhorn import answer_blocks
from objectives.divergence.distributions import reverse_kl, vocabulary_values
from objectives.divergence.wasserstein import TokenSpace, token_space
from trajectories.batch import Batch


class AnchorHeads:
    """Frozen LM heads of the references whose full distributions an objective needs; for Wasserstein terms also the
    input embeddings, which define the distance between tokens.

    Args:
        references: for each reference, the directories of the models that are averaged, and their weights in the
            average.
    """

    def __init__(
        self,
        objective: ObjectiveConfig,
        references: Mapping[str, Mapping[str, float]],
        *,
        dtype: str,
        device: str,
        temperature: float,
    ) -> None:
        self.objective, self.terms, self.temperature = objective, objective.terms, temperature
        self.heads: dict[str, Tensor] = {}
        self.spaces: dict[str, TokenSpace] = {}
        for anchor in objective.head_anchors:
            model = soup(references[anchor], getattr(torch, dtype))
            self.heads[anchor] = _head(model).to(device)
            for name, term in self.terms.items():
                if term.anchor == anchor and term.name == "wasserstein":
                    embeddings = model.get_input_embeddings().weight.detach().clone().to(device)
                    self.spaces[name] = token_space(embeddings, term.transport.neighbours)

    def term_functions(self, batch: Batch) -> dict[str, LogitsFunction]:
        """Return, for the loss, a function per divergence term over the full vocabulary: its value at each token."""
        return self._value_functions(batch, [name for name, term in self.terms.items() if term.reads_distributions])

    def _value_functions(self, batch: Batch, names: Sequence[str]) -> dict[str, LogitsFunction]:
        """Return a function for each of the named terms: its value at each token."""
        if not names:
            return {}
        place, size = (
            torch.zeros_like(batch.tokens).masked_scatter(batch.mask, column)
            for column in answer_blocks(batch.seq[batch.mask])
        )

        def function(name: str, term: TermConfig) -> LogitsFunction:
            def value(logits: Tensor, targets: Tensor, rows: Tensor) -> Tensor:
                anchor = self._logits(batch, name, term, rows)
                blocks = (place[rows], size[rows])
                return vocabulary_values(term, logits, anchor, targets, space=self.spaces.get(name), blocks=blocks)

            return value

        return {name: function(name, self.terms[name]) for name in names}

    def distance_functions(self, batch: Batch) -> dict[str, LogitsFunction]:
        """Return, for scoring before the first update, KL(policy || anchor) at each token, for each divergence term
        whose token weights depend on it, and for the term of the pairs its own value."""

        def function(name: str, term: TermConfig) -> LogitsFunction:
            def distance(logits: Tensor, targets: Tensor, rows: Tensor) -> Tensor:
                return reverse_kl(logits, self._logits(batch, name, term, rows))

            return distance

        functions = {name: function(name, term) for name, term in self.terms.items() if term.weights.needs_distance}
        in_pairs = self.objective.pair_term
        return functions | self._value_functions(batch, [in_pairs] if in_pairs else [])

    def _logits(self, batch: Batch, name: str, term: TermConfig, rows: Tensor) -> Tensor:
        """Return the anchor's logits [C, V] at the sampling temperature, times `power` if the anchor is reweighted."""
        states = batch.hidden[term.anchor][rows]
        logits = head_logits(states, self.heads[term.anchor])
        if self.temperature != 1:
            logits /= self.temperature
        return logits * batch.power[name][rows, None] if term.reweights else logits


def _head(model: Any) -> Tensor:
    """Return a copy of the weight [V, D] of a reference's LM head."""
    head = model.get_output_embeddings()
    assert head.bias is None, "the LM head of a reference must have no bias"
    return head.weight.detach().clone()  # type: ignore[no-any-return]
