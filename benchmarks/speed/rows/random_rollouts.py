"""Training steps of a random policy of 10M parameters, beside TRL's GRPOTrainer with the same policy files."""

from benchmarks.speed.contestant import breadth, in_turns, peers
from benchmarks.speed.peers import waiting
from benchmarks.speed.plan import VLLM, Plan
from benchmarks.speed.policies import random_policy
from benchmarks.speed.result import Row
from benchmarks.speed.rows.rollouts import NO_TRL, fastest_peer, rates


def measure(plan: Plan) -> list[Row]:
    """Rollouts per second of a random policy of 10M parameters whose answers have 128 tokens.

    Half of the answers are right, whatever the policy writes: without a signal Breadth would have nothing to update.
    """
    policy = random_policy("tiny" if plan.quick else "10M", plan.policies)
    prompts, answers, tokens = (2, 4, 16) if plan.quick else (4, 16, 128)
    reward = f"{waiting.__file__}:{waiting.odd.__name__}"
    settings = (
        *("lag=1", f"task.verifier={reward}", f"policy.path={policy}", "learner.learning_rate=1e-6"),
        *(() if plan.quick else VLLM),
        *(f"groups_per_step={prompts}", f"sampling.group_size={answers}", f"sampling.max_new_tokens={tokens}"),
    )
    sizes = {"prompts": prompts, "answers": answers, "new_tokens": tokens, "learning_rate": 1e-6, "reward": reward}
    contestants = [breadth(plan, "10M", *settings), *peers(plan, "10M", policy=str(policy), **sizes)]
    turns = in_turns(contestants, plan.rounds, 0.5 if plan.quick else 12.0)
    other = rates(fastest_peer(turns), prompts * answers)
    return [
        Row(
            name="rollouts/10M",
            title=f"10M policy, {prompts} x {answers} answers of {tokens} tokens, vllm, lag 1",
            unit="answers/s",
            ours=rates(turns["breadth 10M"], prompts * answers),
            other_name="TRL",
            other=other,
            goal=2.0,
            reason="" if other else NO_TRL,
        )
    ]
