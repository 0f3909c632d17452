"""The English description of an objective in `breadth show-config`: the expected gradient of each term."""

import math

import pytest

from configs.policy_gradient import ClipConfig, CovarianceConfig, GatesConfig, MismatchConfig
from configs.term_weights import TermWeightsConfig
from configs.terms import TermConfig
from objectives.advantage.words import describe_no_terms
from objectives.divergence.wirings import WIRINGS
from objectives.divergence.words import DESCRIPTIONS
from objectives.wording import describe, describe_policy_gradient
from tests.objectives.divergence_settings import NAMES, label, settings
from tests.objectives.ragged_batch import divergence, objective
from tests.objectives.random_answers import of


@pytest.mark.parametrize("cfg", settings(), ids=label)
def test_every_setting_is_described_with_its_route_and_its_gradient(cfg: TermConfig) -> None:
    words = describe(cfg)
    assert ("rehearsed answers" if cfg.route == "rehearse" else "explored answers") in words
    assert "gradient" in words


def test_the_description_distinguishes_the_gradient_from_the_value() -> None:
    k3 = describe(divergence("reverse_kl", estimator="k3"))
    assert "value is the reverse KL" in k3
    assert "gradient is that of the forward KL" in k3
    assert "exact gradient of the reverse KL" in describe(divergence("reverse_kl", estimator="k2"))
    assert "also for stale answers" in describe(divergence("jensen_shannon", estimator="ratio_weighted"))
    assert "exact gradient of the Jensen-Shannon divergence" in describe(divergence("jensen_shannon", route="rehearse"))
    assert "alpha = 0.2" in describe(divergence("alpha", route="rehearse"))
    assert "no divergence" in describe_no_terms(objective())


def test_terms_on_right_answers_alone_are_not_described_with_the_gradient_of_the_divergence() -> None:
    likelihood = divergence("forward_kl", route="rehearse", estimator="k1")
    assert "exact" in describe(likelihood) and "rejection-sampling" not in describe(likelihood)
    words = describe(likelihood, right_only=True)
    assert "negative log-likelihood of right answers" in words and "fine-tuning, and no divergence" in words
    for cfg in settings():
        words = describe(cfg, right_only=True)
        if not cfg.rehearses:
            assert words == describe(cfg)
        elif cfg.estimator == "k2":
            assert "over right answers of the reference alone" in words and "exact" not in words
        elif words != describe(likelihood, right_only=True):
            assert "exact" not in words and "so not the gradient of the" in words and "rehearsal.keep=all" in words
    exact = divergence("forward_kl", route="rehearse", wiring="vocabulary", estimator="exact")
    assert describe(exact, right_only=True) == describe(exact), "exact at every prefix, whatever the prefixes are"


def test_the_description_states_the_weight_on_a_very_unlikely_rehearsed_answer() -> None:
    weight = math.exp(-10) - 1
    assert f"grad log pi is {weight:.2g}" in describe(divergence("forward_kl", route="rehearse"))
    assert "grad log pi is -0.00021" in describe(divergence("jensen_shannon", route="rehearse"))


def test_k2_on_stored_answers_is_described_as_a_regression_and_as_no_divergence() -> None:
    words = describe(divergence("reverse_kl", route="rehearse", estimator="k2"))
    assert "regression of log-probs" in words and "that of no divergence" in words and "exact" not in words
    assert "weight on grad log pi is -10 where the policy has all but lost an answer" in words


def test_the_naive_estimator_is_not_described_with_the_gradient_of_the_divergence() -> None:
    for name in set(NAMES) - {"reverse_kl"}:
        words = describe(divergence(name, estimator="naive"))
        assert "its gradient is not that of the divergence" in words and "exact" not in words
    same = (describe(divergence("reverse_kl", estimator=estimator)) for estimator in ("naive", "k3"))
    assert len(set(same)) == 1, "for the reverse KL naive is k3"
    published = divergence("chi_squared", level="sequence", root=True, estimator="k3")
    assert "square root of the Chi-Squared divergence between whole answers" in describe(published)
    assert "biased by about 1 over its answers" in describe(published)
    assert "its weight held fixed" in describe(divergence("mixed_kl", wiring="vocabulary", estimator="exact"))
    assert "half that of chi-squared plus that of the forward KL(anchor || policy)" in describe(published)
    whole = describe(divergence("reverse_kl", level="sequence", estimator="k3"))
    assert "gradient is that of the forward KL(anchor || policy)" in whole and "half" not in whole


@pytest.mark.parametrize("route", ["explore", "rehearse"])
@pytest.mark.parametrize("name", [*NAMES, "mixed_kl", "plackett_luce"])
def test_the_vocabulary_wiring_is_described_as_exact_for_every_divergence_and_route(name: str, route: str) -> None:
    words = describe(divergence(name, route=route, wiring="vocabulary", estimator="exact"))
    if (name, route) == ("plackett_luce", "rehearse"):
        assert "exact" not in words and "a ranking that begins with the answer's own token" in words
        return
    assert "exact gradient of the" in words and "over the whole vocabulary" in words


def test_the_horizon_and_the_level_of_a_penalty_are_described() -> None:
    reward = {"wiring": "reward", "estimator": "k1"}
    assert "with prefixes held fixed" in describe(divergence("reverse_kl", **reward))
    to_go = describe(divergence("reverse_kl", **reward, horizon="to_go"))
    assert "through the prefixes too" in to_go and "(and f(u) / u of all later tokens)" in to_go
    later, mean = (describe(divergence("reverse_kl", **reward, horizon=h)) for h in ("later", "later_mean"))
    part = "the part of the gradient of the reverse KL that goes through the prefixes"
    assert f"{part}, exact" in later and "f(u) / u of all later tokens is subtracted" in later
    assert f"{part}, of which each token's share is divided by the number of later tokens" in mean
    assert "it is the gradient of no divergence" in mean and "exact" not in mean
    whole = describe(divergence("reverse_kl", **reward, level="sequence"))
    assert "between whole answers" in whole and "prefixes" not in whole


def test_a_normalised_slope_is_described_without_its_tangent() -> None:
    for wiring in ("reward", "joint"):
        choices = {"wiring": wiring, "estimator": "k1"}
        assert "; f'(u) - f'(1)" in describe(divergence("reverse_kl", **choices))
        assert "; f'(u) " in describe(divergence("reverse_kl", **choices, normalised=True))
        assert "f'(1)" not in describe(divergence("reverse_kl", **choices, normalised=True))


def test_the_top_of_an_exact_divergence_is_described() -> None:
    truncated = describe(divergence("reverse_kl", wiring="vocabulary", estimator="exact", top=64))
    assert "with the anchor's 64 most likely tokens kept apart and all others summed into one" in truncated
    assert "over the whole vocabulary" not in truncated


def test_the_divergence_to_a_target_is_described() -> None:
    words = describe_no_terms(of("f_dpg"))
    assert "gradient of the Jensen-Shannon divergence to the reference tilted by the reward" in words
    assert "restricted to answers of full reward" in describe_no_terms(of("f_dpg", "objective.target.kind=filter"))
    assert "forward KL to the reference tilted to a mean reward of 0.7" in describe_no_terms(
        of("gdc", "objective.target.moment=0.7")
    )
    assert describe_no_terms(of("dapo")) == describe_no_terms(objective())


def test_masks_and_steps_are_described() -> None:
    tip = TermWeightsConfig(importance="soft_or", keep=0.2, only="failed_answers")
    words = describe(divergence("reverse_kl", estimator="k2", weights=tip))
    assert "only on failed answers, only on the 0.2 of an answer's tokens with the highest soft_or score (TIP)" in words
    assert words.endswith("in a mean over the kept tokens")
    for length, steps in ((0, "by turns:"), (8, "by turns, or 8 tokens of a single turn:")):
        sod = TermWeightsConfig(step_limit=1.2, step_length=length)
        words = describe(divergence("reverse_kl", wiring="reward", estimator="k1", weights=sod))
        assert f"{steps} the farther from the anchor, the less, at most 1.2 (SOD)" in words and "kept" not in words


def test_the_anchor_and_the_weights_are_described() -> None:
    assert "to the policy that sampled the answers" in describe(
        divergence("reverse_kl", anchor="old", estimator="ratio_weighted")
    )
    assert "reverse KL to teacher" in describe(divergence("reverse_kl", anchor="teacher", estimator="k2"))
    weights = TermWeightsConfig(difficulty=True, only="failed_groups", length_debias=True, entropy_power=2.0)
    words = describe(divergence("reverse_kl", estimator="k2", weights=weights))
    for part in ("(DADS)", "only on failed groups", "(SamPO)", "entropy to the power 2"):
        assert part in words


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        ({}, "advantage group_zscore; policy / sampler, per token, clipped to [0.8, 1.2]"),
        ({"advantage": "none", "entropy_bonus": 0.1}, "advantage none (rewards are not trained on"),
        ({"ratio": "none"}, "advantage group_zscore; no ratio: plain policy gradient"),
        ({"ratio": "sequence", "clip": ClipConfig(low=3e-4, high=4e-4)}, "per sequence, clipped to [0.9997, 1.0004]"),
        ({"clip": ClipConfig(kind="kl3", delta=0.03)}, "clipped to [0.774629, 1.26534]"),
        ({"clip": ClipConfig(kind="cispo", low=1.0)}, "clipped to [0, 1.2], detached, as a weight of log pi"),
        (
            {"clip": ClipConfig(kind="dppo", delta=0.15, high=19.0)},
            "per token, at most 20, detached, as a weight of log pi: a token loses its gradient where its probability "
            "has moved by more than 0.15 in the direction of its advantage",
        ),
        (
            {"clip": ClipConfig(kind="sapo")},
            "per token, through a sigmoid of temperature 1, and 1.05 unless the advantage is positive: the gradient",
        ),
        (
            {"ratio": "sequence", "clip": ClipConfig(kind="gmpo", low=0.4, high=0.4)},
            "per sequence, from token ratios clipped to [0.67032, 1.49182]: a clipped token has no gradient of its own",
        ),
        ({"clip": ClipConfig(kind="none")}, "per token, not clipped"),
        (
            {"covariance": CovarianceConfig(kind="clip")},
            "0.0002 of the tokens (at least one), at random among those of covariance between 1 and 5, have no gradi",
        ),
        (
            {"covariance": CovarianceConfig(kind="kl", penalty=0.5)},
            "0.5 x |log ratio| as a penalty on 0.0002 of the tokens (at least one), those of the highest covariance",
        ),
        ({"covariance": CovarianceConfig(kind="kl", fraction=0.0)}, "no tokens chosen by covariance"),
        ({"clip": ClipConfig(dual=3.0)}, "dual clip at 3"),
        ({"gates": GatesConfig(conflict_tokens=True)}, "conflict tokens weigh 2 or 4 in winners, 0 in losers"),
        ({"gates": GatesConfig(entropy_penalty=0.1)}, "0.1 x entropy subtracted from the advantage"),
        ({"gates": GatesConfig(entropy_limit=0.7)}, "answers above 0.7 nats left out"),
        ({"gates": GatesConfig(long_failures=1.001)}, "long failures weigh more"),
        ({"entropy_bonus": 0.01}, "entropy bonus 0.01"),
        ({"old_policy": "learner", "mismatch": MismatchConfig(kind="token_mask")}, "sampler mismatch: token_mask"),
        (
            {"mismatch": MismatchConfig(veto=1e-4, off_policy=0.5)},
            "sampler mismatch: answers with a token below 0.0001 left out, failed answers 0.5 nats from the policy",
        ),
    ],
)
def test_the_policy_gradient_is_described(choices: dict[str, object], words: str) -> None:
    assert words in describe_policy_gradient(objective(**choices))


def test_every_wiring_has_a_description() -> None:
    assert DESCRIPTIONS.keys() == WIRINGS.keys()


def test_the_loss_of_pairs_is_described_with_its_margin_and_its_anchor() -> None:
    words = describe_policy_gradient(of("dpo"))
    assert "the exact gradient of -log sigmoid(0.1 m), m = f'(u) of an answer - " in words
    assert "one of its group with a lower reward, f' of the reverse KL to reference)" in words
    assert "(m - 5)^2" in describe_policy_gradient(of("ipo"))
    assert "Jensen-Shannon divergence to reference" in describe_policy_gradient(of("f_dpo"))
    assert "as many tokens as the shorter of both" in describe_policy_gradient(of("sampo"))
    assert "m = mean f'(u) of all answers of a group with a higher reward" in describe_policy_gradient(of("d2o"))
    mixed = of("tr_dpo", "objective.pairs.mixed_with=reference", "objective.pairs.mixture=0.25")
    assert "reverse KL to moving^0.75 x reference^0.25" in describe_policy_gradient(mixed)
    assert "plus its sum of term divergence times the term's coefficient" in describe_policy_gradient(of("tdpo"))
    term = of("tdpo").terms["divergence"]
    assert describe(term, in_pairs="losers").endswith(
        "; only on answers that lose a pair, by the slope of that pair's loss"
    )
    assert describe(term, in_pairs="both").endswith("positive where they lose and else negative")
    assert describe_no_terms(of("dpo")).endswith("the loss of pairs has the reverse KL to reference in its margin")
