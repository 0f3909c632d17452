"""Score the same held-out answers under every policy of an evaluation, in a reference role."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from actors.contracts import Reference
from actors.policy_files.reading import load_model
from actors.weights.host import pack, weights_info
from configs.config import Config
from configs.heldout import Decoding
from orchestrator import cluster
from orchestrator.evaluation.engines import by_engine, reading_alike
from orchestrator.evaluation.likelihoods import Likelihoods
from orchestrator.heldout.answer_table import SCORED, Row
from orchestrator.heldout.prompts import score_by_base
from orchestrator.placement import MAIN
from orchestrator.preflight.evaluation import Posed
from orchestrator.supervision.without_learner import scoring_role
from orchestrator.watch.measurement import Measurement
from trajectories.trajectory import Group, Trajectory

CHUNK_TOKENS = 2**18
"""Tokens that are sent to the reference role at a time, which bounds the memory of the driver."""


def scorable(checkpoints: Mapping[str, str], posed: Posed, max_length: int, log: Callable[[str], None]) -> list[str]:
    """Return the names of the policies that can score each other's answers: those that read prompts and answers as the
    base does. The others are named in `log`.

    Args:
        checkpoints: policy directories by name, the base first.
        max_length: most tokens of a prompt and its answer together.
    """
    base = next(iter(checkpoints))
    prompts = posed.encoders[base].all(posed.prompts)
    alike = reading_alike(checkpoints, max_length)
    names = [name for name in alike if posed.encoders[name].all(posed.prompts) == prompts]
    for name in checkpoints:
        if name not in names:
            log(f"no KL between {base} and {name}, which reads prompts or answers as other tokens")
    return names if len(names) > 1 else []


async def score_all(
    cfg: Config,
    checkpoints: Mapping[str, str],
    answers: Mapping[str, Sequence[Row]],
    posed: Posed,
    decoding: Decoding,
    folder: Path,
    log: Callable[[str], None],
) -> Likelihoods:
    """Return the log-likelihoods of every policy's answers under every policy.

    One policy is loaded at a time. Policies that differ in nothing but their weights use the same reference role, one
    after another. Reference actors that are lost are started again with the policy that scores.

    Args:
        checkpoints: policy directories by name, the base first.
        answers: rows of the answers of each policy under `decoding`, in the same order of prompts and answers.
        decoding: sampling of the answers: its temperature is that of the log-likelihoods.
        folder: of the evaluation.
    """
    cfg = replace(cfg, sampling=replace(cfg.sampling, temperature=decoding.temperature))
    groups = _pooled(answers, posed)
    count = len(groups[0].trajectories) // len(answers)
    scores: dict[str, np.ndarray] = {}
    for paths in by_engine(checkpoints, cfg.sampling.max_prompt_tokens + decoding.max_new_tokens):
        first = next(iter(paths.values()))
        async with scoring_role(cfg, first, folder, log) as reference:
            for number, (name, path) in enumerate(paths.items()):
                if number:
                    await _load(cfg, reference, path)
                found = await _log_likelihoods(groups, reference)
                scores[name] = found.reshape(len(groups), len(answers), count)
                log(f"score {name}: {found.size} answers of {len(answers)} policies")
    return Likelihoods(
        names=tuple(checkpoints),
        prompt_ids=tuple(group.prompt.id for group in groups),
        values=np.stack([scores[name] for name in checkpoints]),
    )


def with_kl(measurement: Measurement, likelihoods: Likelihoods) -> Measurement:
    """Return the measurement of one of the policies with its KL to the base."""
    kl = likelihoods.kl()[likelihoods.names.index(measurement.name), 0]
    of_prompt = dict(zip(likelihoods.prompt_ids, kl.tolist(), strict=True))
    prompts = tuple(replace(p, kl_to_base=of_prompt[p.prompt_id]) for p in measurement.prompts)
    return replace(measurement, prompts=prompts)


def _pooled(answers: Mapping[str, Sequence[Row]], posed: Posed) -> list[Group]:
    """Return a group of each prompt with the first SCORED answers of every policy, one policy after another."""
    found: dict[str, list[Trajectory]] = {prompt.id: [] for prompt in posed.prompts}
    for rows in answers.values():
        for row in rows:
            if row["sample_index"] < SCORED:
                found[row["prompt_id"]].append(_trajectory(row))
    return [Group(prompt=prompt, trajectories=tuple(found[prompt.id])) for prompt in posed.prompts]


def _trajectory(row: Row) -> Trajectory:
    return Trajectory(
        prompt_id=row["prompt_id"],
        sample_index=row["sample_index"],
        tokens=row["token_ids"],
        mask=row["generated"],
        logp_sampler=np.zeros(len(row["token_ids"]), np.float32),
        first_version=0,
        last_version=0,
        finish_reason=row["finish_reason"],
        seed=row["seed"],
        text=row["answer"],
    )


async def _log_likelihoods(groups: Sequence[Group], reference: Reference) -> np.ndarray:
    """Return the log-likelihood of each answer, float64 [answers of all groups]."""
    sums = []
    for chunk in _chunks(groups):
        for group in await score_by_base(chunk, reference):
            for t in group.trajectories:
                assert t.logp_reference is not None
                sums.append(t.logp_reference[t.mask].sum(dtype=np.float64))
    return np.array(sums)


def _chunks(groups: Sequence[Group]) -> Iterator[list[Group]]:
    """Yield the groups in order, as many at a time as have CHUNK_TOKENS tokens, or one."""
    chunk: list[Group] = []
    tokens = 0
    for group in groups:
        size = sum(len(t.tokens) for t in group.trajectories)
        if chunk and tokens + size > CHUNK_TOKENS:
            yield chunk
            chunk, tokens = [], 0
        chunk.append(group)
        tokens += size
    yield chunk


async def _load(cfg: Config, reference: Reference, path: str) -> None:
    """Load the policy of a directory into a reference role that holds one with the same parameters."""
    named = [(name, p.detach().float()) for name, p in load_model(path).named_parameters()]
    weights = cluster.store_once(cfg, pack(named, 0, cfg.generator.checksum))
    await reference.move(MAIN, weights_info(named), weights, 1.0)
