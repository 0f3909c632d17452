"""Divergence terms over the full vocabulary: compare the learner's logits with those of references, chunk by chunk.

The learner ranks hold the references (`FrozenReferences`). A reference's final hidden states of a microbatch are
computed just before the policy scores it, and its logits per chunk, from a copy of its LM head. So memory is two chunks
of logits and the hidden states of one microbatch, whatever the size of the batch.

Axes: N tokens of a microbatch, C tokens of a chunk, V vocabulary, D hidden.
"""

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from actors.learning.frozen_references import FrozenReferences
from actors.scoring.token_scores import LogitsFunction, head_logits
from configs.objective import ObjectiveConfig
from configs.terms import TermConfig
from objectives.divergence.batch_sinkhorn import answer_blocks
from objectives.divergence.distributions import reverse_kl, vocabulary_values
from objectives.divergence.wasserstein import TokenSpace, token_space
from trajectories.batch import Batch


class AnchorHeads:
    """LM heads of the references whose full distributions an objective needs; for Wasserstein terms also the input
    embeddings, which define the distance between tokens. Whole on every rank, where `gather` puts them.

    The functions of a microbatch run the references on it. On sharded references that is a collective, which depends on
    the objective alone: every rank takes part for each of its microbatches.
    """

    def __init__(self, objective: ObjectiveConfig, references: FrozenReferences, *, temperature: float) -> None:
        self.objective, self.terms, self.temperature = objective, objective.terms, temperature
        self.references = references
        self.heads: dict[str, Tensor] = {}
        self.spaces: dict[str, TokenSpace] = {}

    def gather(self) -> None:
        """Gather heads and embeddings, once the references have their weights. A collective."""
        for anchor in self.objective.head_anchors:
            model = self.references.policies[anchor].model
            self.heads[anchor] = self.references.weight(model.get_output_embeddings())
            for name, term in self.terms.items():
                if term.anchor == anchor and term.name == "wasserstein":
                    embeddings = self.references.weight(model.get_input_embeddings())
                    self.spaces[name] = token_space(embeddings, term.transport.neighbours)

    def term_functions(self, batch: Batch) -> dict[str, LogitsFunction]:
        """Return, for the loss, a function per divergence term over the full vocabulary: its value at each token."""
        names = [name for name, term in self.terms.items() if term.reads_distributions]
        return self._value_functions(batch, names, self._states(batch, names))

    def _states(self, batch: Batch, names: Collection[str]) -> dict[str, Tensor]:
        """Return the final hidden states [N, D] of the anchors of the named terms, by anchor."""
        anchors = dict.fromkeys(self.terms[name].anchor for name in names)
        return {anchor: self.references.hidden_states(anchor, batch) for anchor in anchors}

    def _value_functions(
        self, batch: Batch, names: Collection[str], states: Mapping[str, Tensor]
    ) -> dict[str, LogitsFunction]:
        """Return a function for each of the named terms: its value at each token."""
        if not names:
            return {}
        place, size = (
            torch.zeros_like(batch.tokens).masked_scatter(batch.mask, column)
            for column in answer_blocks(batch.seq[batch.mask])
        )

        def function(name: str, term: TermConfig) -> LogitsFunction:
            def value(logits: Tensor, targets: Tensor, rows: Tensor) -> Tensor:
                anchor = self._logits(batch, name, term, states, rows)
                blocks = (place[rows], size[rows])
                return vocabulary_values(term, logits, anchor, targets, space=self.spaces.get(name), blocks=blocks)

            return value

        return {name: function(name, self.terms[name]) for name in names}

    def distance_functions(self, batch: Batch) -> dict[str, LogitsFunction]:
        """Return, for scoring before the first update, KL(policy || anchor) at each token, for each divergence term
        whose token weights depend on it, and for the term of the pairs its own value."""
        weighted = [name for name, term in self.terms.items() if term.weights.needs_distance]
        in_pairs = [self.objective.pair_term] if self.objective.pair_term else []
        states = self._states(batch, [*weighted, *in_pairs])

        def function(name: str, term: TermConfig) -> LogitsFunction:
            def distance(logits: Tensor, targets: Tensor, rows: Tensor) -> Tensor:
                return reverse_kl(logits, self._logits(batch, name, term, states, rows))

            return distance

        functions = {name: function(name, self.terms[name]) for name in weighted}
        return functions | self._value_functions(batch, in_pairs, states)

    def _logits(self, batch: Batch, name: str, term: TermConfig, states: Mapping[str, Tensor], rows: Tensor) -> Tensor:
        """Return the anchor's logits [C, V] at the sampling temperature, times `power` if the anchor is reweighted."""
        logits = head_logits(states[term.anchor][rows], self.heads[term.anchor])
        if self.temperature != 1:
            logits /= self.temperature
        return logits * batch.power[name][rows, None] if term.reweights else logits
