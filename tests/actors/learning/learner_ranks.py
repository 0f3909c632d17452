"""Shared by the learner's tests. As a script: run `scenarios` on two ranks, each in a process of its own.

Each rank writes its results to FOLDER: python learner_ranks.py ADDRESS POLICY FOLDER
"""

import multiprocessing
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from torch.distributed.tensor import DTensor

from actors.learning.learner import FsdpLearner
from actors.learning.rank_parts import plan_updates
from actors.learning.sharding import full_parameters
from actors.weights.host import named_views
from configs.learner import LearnerConfig
from configs.objective import ObjectiveConfig
from configs.policy_gradient import ClipConfig, GatesConfig, MismatchConfig
from configs.term_weights import TermWeightsConfig
from configs.terms import TermConfig
from objectives.diagnostics import Stats, TensorStats
from tests.actors.random_batch import SHAPES, credited, logits_megabytes, random_batch
from trajectories.batch import Batch

TOKEN_BUDGET = 45
"""Three microbatches of `random_batch()`."""
OBJECTIVE = ObjectiveConfig(
    clip=ClipConfig(low=0.2, high=0.3),
    terms={"divergence": TermConfig(name="jensen_shannon", route="rehearse", estimator="k3")},
)
COEFFICIENTS = {"divergence": 0.5}
SPARSE = TermConfig(name="reverse_kl", estimator="k2", weights=TermWeightsConfig(entropy_power=1.0))
RICH = replace(
    OBJECTIVE,
    old_policy="learner",
    gates=GatesConfig(conflict_tokens=True, entropy_penalty=0.1, entropy_limit=3.6),
    mismatch=MismatchConfig(kind="sequence_truncate", off_policy=2.0),
    terms={"sparse": SPARSE},
    entropy_bonus=0.05,
)
"""Uses every output of the policy: log-probs and entropies, in gates, token weights, mismatch correction and bonus."""
CRITIC = replace(OBJECTIVE, advantage="critic")
UPDATES = 2
RATE = 3e-4
WEIGHTS_ATOL = 0.05 * RATE
"""AdamW divides a gradient by its own size, rounding and all: a weight whose gradient is next to nothing moves by a
part of the rate that depends on the order of additions."""
RANKS_S = 60.0
"""Timeout of each rank's process."""
ONE_ANSWER = SHAPES[:1]
ROOT = Path(__file__).resolve().parents[3]


Weights = dict[str, torch.Tensor]


def free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{probe.getsockname()[1]}"


def run_script(script: str, *arguments: str | Path, timeout_s: float) -> None:
    """Run this folder's `script` with a free ADDRESS and `arguments` to a clean end."""
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name(script)), free_address(), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr


def batch_of(update: int, shapes: tuple[tuple[int, int], ...] = SHAPES) -> Batch:
    return credited(random_batch(shapes, seed=update, rehearsed=2 if len(shapes) > 2 else 0), OBJECTIVE)


def rich_batch() -> Batch:
    """A batch whose explored answers have reference log-probs, too, and with tokens that the gates of RICH change."""
    batch = random_batch(seed=3, rehearsed=2)
    assert batch.logp_reference is not None
    guess = torch.linspace(-6, -4, len(batch.tokens))
    starts = torch.where(batch.seq < 4, batch.tokens[batch.mask][0], batch.tokens)
    first = batch.mask & ~batch.mask.roll(1)
    return credited(
        replace(
            batch,
            tokens=torch.where(first, starts, batch.tokens),
            logp_reference=torch.where(batch.logp_reference.isnan(), guess, batch.logp_reference),
        ),
        RICH,
    )


def critic_batch(seed: int = 0, shapes: tuple[tuple[int, int], ...] = SHAPES) -> Batch:
    """A batch with values of a critic, and the advantages computed from them."""
    batch = random_batch(shapes, seed=seed, rehearsed=2 if len(shapes) > 2 else 0)
    return credited(replace(batch, value_old=torch.linspace(-1, 1, len(batch.route)).roll(seed)), CRITIC)


def config_of(**choices: Any) -> LearnerConfig:
    return LearnerConfig(
        **({"learning_rate": RATE, "token_budget": TOKEN_BUDGET, "logits_megabytes": logits_megabytes(8)} | choices)
    )


class KeepingLearner(FsdpLearner):
    """A learner whose gradients can be read until its next update."""

    def _update(self, *arguments: Any) -> TensorStats:
        super().free_gradients()
        return super()._update(*arguments)

    def free_gradients(self) -> None:
        pass


def joined(policy: str, rank: int = 0, ranks: int = 1, address: str = "", **choices: Any) -> FsdpLearner:
    fields = {"objective": OBJECTIVE, "dtype": "float32", "temperature": 0.7, "config": config_of()} | choices
    learner = KeepingLearner(policy, total_steps=10, rank=rank, ranks=ranks, **fields)
    learner.join(address)
    return learner


def step(learner: FsdpLearner, batch: Batch) -> Stats:
    coefficients = dict.fromkeys([*learner.objective.terms, "replay"], COEFFICIENTS["divergence"])
    planned = plan_updates(batch, learner.config, learner.ranks, learner.linear_width())
    return learner.update(planned[learner.rank], coefficients)


def save(learner: FsdpLearner, folder: Path) -> None:
    """Write a checkpoint and wait for it. A collective."""
    learner.save(str(folder))
    learner.saved()


def weights_of(learner: FsdpLearner) -> Weights:
    """The weights on rank 0, empty on the others. A collective."""
    weights = learner.weights(0)
    if weights is None:
        return {}
    return {name: view.clone() for name, view in named_views(learner.weights_info(), weights.data)}


def gradients_of(learner: FsdpLearner) -> Weights:
    """The gradients of the last update, after clipping. A collective."""
    grads = {name: p.grad for name, p in learner.policy.model.named_parameters()}
    return {name: g.full_tensor() if isinstance(g, DTensor) else g.clone() for name, g in grads.items()}


def assert_equal(found: Weights, expected: Weights) -> None:
    assert found.keys() == expected.keys()
    assert not [name for name, value in expected.items() if not torch.equal(found[name], value)]


def assert_near(found: Weights, expected: Weights, atol: float) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=atol, msg=lambda m, name=name: f"{name}: {m}")


def parameters_of(model: Any) -> Weights:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def parameters_of_learner(learner: FsdpLearner) -> Weights:
    """The float32 master weights, whatever the dtype of the forward pass. A collective."""
    return {name: p.clone() for name, p in full_parameters(learner.policy.model)}


def with_nan_advantage(batch: Batch, trajectory: int = 0) -> Batch:
    """The batch with a NaN advantage in one trajectory, hence on one rank."""
    assert batch.advantage is not None
    return replace(batch, advantage=torch.where(batch.seq == trajectory, torch.nan, batch.advantage))


def run_rank(rank: int, address: str, policy: str, folder: Path) -> None:
    torch.save(scenarios(rank, address, policy, folder), folder / f"rank{rank}.pt")


def scenarios(rank: int, address: str, policy: str, folder: Path) -> dict[str, Any]:
    def learner(**choices: Any) -> FsdpLearner:
        return joined(policy, rank, 2, address, **choices)

    found: dict[str, Any] = {}
    plain = learner()
    found["stats"] = [step(plain, batch_of(update)) for update in range(UPDATES)]
    found["gradients"], found["weights"] = gradients_of(plain), weights_of(plain)
    save(plain, folder / "of_two")
    plain.checkpoint_dtype = "bfloat16"
    save(plain, folder / "half_of_two")
    step(plain, batch_of(UPDATES))
    found["continued"] = weights_of(plain)

    of_one = learner()
    of_one.load(str(folder / "of_one"))
    found["loaded_of_one"] = weights_of(of_one)
    of_one.load(str(folder / "half_of_one"))
    found["loaded_of_half"] = weights_of(of_one)
    step(of_one, batch_of(UPDATES))
    found["continued_of_one"] = weights_of(of_one)

    rich = learner(objective=RICH)
    found["rich_stats"], found["rich_gradients"] = step(rich, rich_batch()), gradients_of(rich)

    critic = learner(objective=CRITIC)
    found["critic_stats"] = [step(critic, critic_batch(update)) for update in range(UPDATES)]
    assert critic.policy.critic is not None
    heads = dict(critic.policy.critic.named_parameters())
    found["critic_heads"] = {name: p.detach().full_tensor() for name, p in heads.items()}  # type: ignore[operator]
    save(critic, folder / "critic_of_two")
    step(critic, critic_batch(UPDATES))
    found["critic_continued"] = {name: p.detach().full_tensor() for name, p in heads.items()}  # type: ignore[operator]
    found["critic_idle_stats"] = step(learner(objective=CRITIC), critic_batch(0, ONE_ANSWER))

    pairs = learner(config=config_of(extragradient=True))
    found["pairs"] = []
    for update in range(4):
        step(pairs, batch_of(update))
        found["pairs"].append(weights_of(pairs))
        if update == 2:
            save(pairs, folder / "pairs_of_two")

    idle = learner()
    found["idle_stats"] = step(idle, batch_of(0, ONE_ANSWER))
    found["idle_gradients"] = gradients_of(idle)
    found["spoiled_stats"] = step(idle, with_nan_advantage(batch_of(1)))
    found["idle_weights"] = weights_of(idle)

    half = learner(dtype="bfloat16", config=config_of(gradient_checkpointing=True, layout="varlen"))
    found["half_stats"] = step(half, batch_of(0))
    found["half_masters"] = {str(p.dtype) for p in half.policy.parameters()}
    half.close()
    return found


def fork(run: Callable[..., None], *arguments: Any, ranks: int = 2, timeout_s: float) -> bool:
    """Call run(rank, *arguments) in a process per rank. Return whether all ended without error within `timeout_s`."""
    torch.set_num_threads(1)
    # Forked before torch has started threads, so that it is imported only once, which takes long.
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=run, args=(rank, *arguments), daemon=True) for rank in range(ranks)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout_s)
        process.kill()
        process.join(10)
    return not any(process.exitcode for process in processes)


if __name__ == "__main__":
    sys.exit(not fork(run_rank, sys.argv[1], sys.argv[2], Path(sys.argv[3]), timeout_s=RANKS_S))
