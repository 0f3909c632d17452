"""WSRL's warm-up: the critic is trained during the first updates, while the policy's learning rate is 0."""

from configs.load import load
from objectives.wording import describe_policy_gradient

PAPERS = {"wsrl": "2412.07762"}


def test_wsrl_freezes_the_policy_for_ten_updates_and_has_one_value_head_at_the_prompts_end() -> None:
    cfg = load(["method=wsrl"])
    assert (cfg.learner.frozen_updates, cfg.objective.advantage, cfg.objective.terms) == (10, "critic", {})
    assert (cfg.objective.critic.reads, cfg.objective.critic.heads) == ("prompt", 1)
    assert "1 value head computed at the prompt's end" in describe_policy_gradient(cfg.objective)
