"""Random ragged batches, and a small policy over 11 tokens, conditioned on the previous token, that scores them."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import torch
from torch import Tensor

from configs.load import load
from configs.objective import ObjectiveConfig
from objectives.coefficient.controllers import ObjectiveState
from objectives.credit import credit
from objectives.diagnostics import Stats, merge, to_stats
from objectives.divergence.batch_sinkhorn import answer_blocks
from objectives.divergence.distributions import vocabulary_values
from objectives.divergence.wasserstein import token_space
from objectives.objective import Scores, loss
from tests.objectives.ragged_batch import Answer, make_batch, objective, weighted
from trajectories.batch import Batch, pack
from trajectories.trajectory import Grade, Group, Prompt, Route, Trajectory

VOCABULARY = 11
COEFFICIENT = 0.7
SPACE = token_space(torch.randn(VOCABULARY, 3, generator=torch.Generator().manual_seed(3)), neighbours=4)


@cache
def of(preset: str, *overrides: str) -> ObjectiveConfig:
    """Return the objective of a preset."""
    return load([f"method={preset}", *overrides]).objective


def random_trajectory(generator: np.random.Generator, route: Route, reward: float | None) -> Trajectory:
    prompt, answer = generator.integers(1, 4), generator.integers(1, 7)
    size = prompt + answer
    return Trajectory(
        prompt_id=f"prompt/{generator.integers(10**9)}",
        sample_index=0,
        tokens=generator.integers(0, VOCABULARY, size).astype(np.int32),
        mask=np.arange(size) >= prompt,
        logp_sampler=np.zeros(size, dtype=np.float32),
        first_version=0,
        last_version=0,
        finish_reason="stop",
        seed=0,
        text="",
        route=route,
        grade=Grade(reward=reward, status="correct"),
    )


@cache
def random_batch(
    seed: int = 0, reference_everywhere: bool = True, anchors: tuple[str, ...] = (), solutions: bool = False
) -> Batch:
    """Return four groups of four answers, one of which has no reward, and six rehearsed answers.

    With `solutions`, three of the groups have one. The log-probs of sampler, reference and `anchors` are those of the
    policy `weights()` plus noise. Without `reference_everywhere` those of the reference are missing (NaN) on all routes
    but rehearse.
    """
    generator = np.random.default_rng(seed)
    groups = []
    for number in range(4):
        rewards = [float(reward) for reward in generator.integers(0, 2, 4)]
        answers = [random_trajectory(generator, "explore", reward) for reward in rewards]
        if number == 2:
            answers[1] = replace(answers[1], grade=Grade(reward=None, status="grader_error"))
        prompt = Prompt(id=f"p{number}", position=number, text="", verifier="", problem={})
        solution = random_trajectory(generator, "imitate", None) if solutions and number else None
        groups.append(Group(prompt=prompt, trajectories=tuple(answers), solution=solution))
    batch = pack(groups, [random_trajectory(generator, "rehearse", 1.0) for _ in range(6)])
    logp = scores_of(weights(), batch, ObjectiveConfig()).logp.detach()

    def nearby() -> Tensor:
        noise = torch.from_numpy(generator.normal(0, 0.3, len(batch.tokens))).float()
        return torch.where(batch.mask, logp + noise, 0.0)

    reference = nearby()
    if not reference_everywhere:
        reference = torch.where(batch.on_route("rehearse"), reference, torch.nan)
    return replace(batch, logp_sampler=nearby(), logp_reference=reference, anchors={name: nearby() for name in anchors})


def batch_for(cfg: ObjectiveConfig, seed: int = 0) -> Batch:
    """Return a random batch with all fields that the objective reads from references and the first forward pass.

    If a term is on mastered groups, one of the four is.
    """
    anchors = tuple(name for name in cfg.anchors if name != "reference")
    batch = random_batch(seed, anchors=anchors, solutions=cfg.imitates)
    generator, size = torch.Generator().manual_seed(seed), len(batch.tokens)
    near = batch.logp_sampler + 0.3 * torch.randn(size, generator=generator)
    certainty = 1 - 0.02 * torch.rand(size, generator=generator)
    entropy, distance = torch.rand(2, size, generator=generator)
    activations = torch.randn(size, 5, generator=generator)
    reads_mastered = any(term.weights.only == "mastered_groups" for term in cfg.terms.values())
    return replace(
        batch,
        reward=torch.where(batch.group == 1, 1.0, batch.reward) if reads_mastered else batch.reward,
        hidden={cfg.pairs.anchor: activations} if cfg.hidden_anchors else {},
        activation={cfg.pairs.anchor: activations.mean(-1)} if cfg.masks_pairs else {},
        reweighted={name: near for name, term in cfg.terms.items() if term.reweights},
        certainty={name: certainty for name, term in cfg.terms.items() if term.weights.certainty_power},
        entropy_old=2 * entropy if cfg.scores_first else None,
        meaning=torch.arange(len(batch.route)) % 3 if cfg.reads_meanings else None,
        value_old=torch.linspace(-1, 1, len(batch.route)) if cfg.advantage == "critic" else None,
        distance={
            name: distance for name, term in cfg.terms.items() if term.weights.needs_distance or name == cfg.pair_term
        },
    )


def credited(batch: Batch, cfg: ObjectiveConfig, coefficient: float = COEFFICIENT) -> Batch:
    """Return the batch after `credit`, with the same coefficient for every term, and k = 2 in its groups of four."""
    return credit(batch, cfg, ObjectiveState(coefficients=dict.fromkeys(weighted(cfg), coefficient), pass_k=2))


def weights(seed: int = 1) -> Tensor:
    """Return a policy: logits [V, V] of the next token by the previous one, with rows from almost uniform to almost
    certain."""
    table = torch.randn(VOCABULARY, VOCABULARY, generator=torch.Generator().manual_seed(seed))
    return (table * torch.linspace(0.2, 4, VOCABULARY)[:, None]).requires_grad_()


def scores_of(policy: Tensor, batch: Batch, cfg: ObjectiveConfig) -> Scores:
    """Return the scores of a batch as a learner computes them; the anchor of exact terms is `weights(seed=2)`."""
    before = batch.tokens.roll(1)
    logps = policy[before].log_softmax(-1)
    entropy = -(logps.exp() * logps).sum(-1)
    columns = {"logp": logps.gather(-1, batch.tokens[:, None]).squeeze(-1), "entropy": entropy}
    for name, term in cfg.terms.items():
        if term.exact or term.potential:
            anchor, trained = weights(seed=2)[before], batch.mask
            arguments = (term, policy[before][trained], anchor[trained], batch.tokens[trained])
            read = vocabulary_values(*arguments, space=SPACE, blocks=answer_blocks(batch.seq[trained]))
            columns[f"exact/{name}"] = torch.zeros(len(trained)).masked_scatter(trained, read)
    masked = {name: torch.where(batch.mask, column, 0.0) for name, column in columns.items()}
    return Scores(
        logp=masked["logp"],
        entropy=masked["entropy"] if cfg.entropy_bonus else masked["entropy"].detach(),
        log_vocabulary=float(np.log(VOCABULARY)),
        exact={name.removeprefix("exact/"): column for name, column in masked.items() if "/" in name},
        values=policy[batch.tokens[batch.lengths.cumsum(0) - 1], : (cfg.value_heads or cfg.critic).heads],
    )


def run(
    policy: Tensor, parts: Sequence[Batch], cfg: ObjectiveConfig, coefficient: float = COEFFICIENT
) -> tuple[float, Tensor, Stats]:
    """Return loss, gradient by the logits [V, V] and metrics, accumulated over microbatches as a learner does."""
    value, stats = 0.0, Stats()
    gradient = torch.zeros_like(policy)
    for part in parts:
        part_loss, part_stats = loss(scores_of(policy, part, cfg), part, cfg, dict.fromkeys(weighted(cfg), coefficient))
        gradient += torch.autograd.grad(part_loss, policy)[0]
        value, stats = value + part_loss.item(), merge(stats, to_stats(part_stats))
    return value, gradient, stats


def equal_lengths(explored: int, rehearsed: int) -> Batch:
    """Return answers of two tokens each; explored ones in groups of two, one of which is correct."""
    answers: list[Answer] = [("explore", i // 2, float(i % 2), [i % 11, (3 * i + 1) % 11]) for i in range(explored)]
    answers += [("rehearse", -1, None, [(2 * i + 5) % 11, i % 7]) for i in range(rehearsed)]
    whole = make_batch(answers, prompt_length=1)
    logp = scores_of(weights(), whole, objective()).logp.detach()
    noise = torch.randn(2, len(logp), generator=torch.Generator().manual_seed(5)).mul(0.2)
    sampler, reference = torch.where(whole.mask, logp + noise, 0.0)
    return replace(whole, logp_sampler=sampler, logp_reference=reference)
