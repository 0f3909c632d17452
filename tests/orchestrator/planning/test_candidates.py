"""The placements that a plan compares."""

import pytest

from configs.load import load
from orchestrator.placement import needed_roles, reservations
from orchestrator.planning.candidates import candidates, estimate
from orchestrator.planning.changes import changed
from orchestrator.simulation.hardware import GPUS
from orchestrator.simulation.lengths import lognormal
from tests.orchestrator.planning.known_models import shapes_of

WORDS = ("policy.path=/policy",)


@pytest.mark.parametrize(("gpus", "model"), [(1, "1.5B"), (8, "7B"), (64, "32B")])
def test_the_words_of_a_candidate_give_its_settings_and_need_no_more_gpus(gpus: int, model: str) -> None:
    found = candidates(gpus, WORDS, None, shapes_of(model), GPUS["h100"])
    assert any(not candidate.problems for candidate in found)
    for candidate in found[:: max(1, len(found) // 12)]:
        assert load([*candidate.words, *WORDS]) == candidate.cfg
        wanted = reservations(candidate.cfg, needed_roles(candidate.cfg))
        assert round(sum(one.gpus for one in wanted)) <= gpus
        assert candidate.cfg.placement.tensor_parallel <= 8


def test_settings_of_the_user_win_over_those_of_a_placement() -> None:
    words = (*WORDS, "placement.learners=3", "learner.token_budget=8192", "lag=1")
    found = candidates(8, words, None, shapes_of("7B"), GPUS["h100"])
    assert found
    assert {candidate.cfg.placement.learners for candidate in found if candidate.cfg.placement.mode == "split"} == {3}
    assert {candidate.cfg.learner.token_budget for candidate in found} == {8192}
    assert {candidate.cfg.lag for candidate in found} == {1}
    assert not any(word.startswith(("lag=", "learner.token_budget=")) for one in found for word in one.words)


def test_a_scale_that_is_given_is_kept() -> None:
    found = candidates(8, (*WORDS, "scale=8gpu_colocated"), None, shapes_of("7B"), GPUS["h100"])
    assert {candidate.cfg.placement.mode for candidate in found} == {"colocated"}
    assert not any(word.startswith("scale=") for one in found for word in one.words)


def test_a_method_that_needs_answers_of_the_policy_itself_keeps_lag_0() -> None:
    found = candidates(8, (*WORDS, "method=nash_mp"), None, shapes_of("7B"), GPUS["h100"])
    assert {candidate.cfg.lag for candidate in found} == {0}


def test_more_learners_and_larger_microbatches_are_estimated_to_be_faster_where_the_update_is_the_limit() -> None:
    found = candidates(8, WORDS, None, shapes_of("7B"), GPUS["h100"])
    lengths = lognormal(300, 3072)

    def seconds(learners: int, budget: int) -> float:
        [one] = [
            candidate
            for candidate in found
            if (candidate.cfg.placement.learners, candidate.cfg.learner.token_budget) == (learners, budget)
            and (candidate.cfg.placement.mode, candidate.cfg.placement.tensor_parallel) == ("split", 1)
        ]
        return estimate(one, lengths, 500)

    assert seconds(4, 16_384) < seconds(2, 16_384)
    assert seconds(4, 32_768) < seconds(4, 16_384)


def test_a_change_names_the_section_of_a_setting() -> None:
    cfg = changed(load(WORDS), {"placement.learners": 2, "placement.generators": 3, "lag": 4})
    assert (cfg.placement.learners, cfg.placement.generators, cfg.lag) == (2, 3, 4)
    with pytest.raises(ValueError, match="learners: must be positive"):
        changed(cfg, {"placement.learners": 0})


def test_the_gpus_of_references_count_where_the_objective_needs_them() -> None:
    def used(method: str) -> list[tuple[int, int]]:
        words = ["policy.path=/policy", "scale=8gpu", "monitor.kl_to_base=false", f"method={method}"]
        found = candidates(8, words, None, shapes_of("7B"), GPUS["h100"])
        places = [candidate.cfg.placement for candidate in found]
        return [(p.generators * p.tensor_parallel + p.learners, candidate.costs.early_references)
                for p, candidate in zip(places, found, strict=True)]  # fmt: skip

    assert max(used("dpo")) == (7, 1)
    assert max(used("grpo")) == (8, 0)
