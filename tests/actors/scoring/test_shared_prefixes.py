"""Prefixes that trajectories share, and answers without a gradient: computed once and never, with the same results."""

import asyncio
import copy
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
)

from actors.learning.learner import FsdpLearner
from actors.local import LocalReference
from actors.policy_files.reading import load_model
from actors.reference import References
from actors.scoring.attention import linear_width
from actors.scoring.policy import Policy
from configs.load import presets
from objectives.diagnostics import means
from orchestrator.references import Anchors, policies
from tasks.characters import VOCABULARY_SIZE
from tests.actors.learning.learner_ranks import OBJECTIVE, SPARSE, assert_near, config_of, gradients_of, joined, step
from tests.actors.learning.method_ranks import config_for, learner_of
from tests.actors.random_batch import credited, random_batch, with_common_prompts, with_routes
from tests.conftest import make_mixture_of_experts
from trajectories.batch import Batch, with_own_totals

SHAPE = {"vocab_size": VOCABULARY_SIZE, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
LLAMA = LlamaConfig(**SHAPE, intermediate_size=64, num_key_value_heads=1, initializer_range=0.2)
BATCH = with_common_prompts(random_batch())


def llama() -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LlamaForCausalLM(copy.deepcopy(LLAMA)).eval()


def policy_of(model: Any, *, share: bool, layout: str = "pad") -> Policy:
    model.set_attn_implementation("sdpa")  # a policy with layout varlen changes it
    return Policy(
        model, layout=layout, logits_megabytes=0.04, temperature=0.7, share_prefixes=share, entropy_gradient=True
    )


def columns_seen(model: Any) -> list[int]:
    """Tokens of each forward pass of the model from now on, padding included."""
    seen: list[int] = []
    model.get_input_embeddings().register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].numel()))
    return seen


def outputs(policy: Policy, batch: Batch) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Values per token, and the gradients of a loss that weighs each of them differently."""
    policy.zero_grad()
    scored = policy(batch, {"squares": lambda logits, *_: logits.square().mean(-1)}, keep_hidden=True)
    assert scored.hidden is not None
    values = [scored.logp, scored.entropy, scored.extra["squares"], scored.hidden @ torch.linspace(-1, 1, policy.width)]
    weights = torch.linspace(-1, 1, len(batch.tokens))
    sum((n + 1) * (weights.roll(n) * value).sum() for n, value in enumerate(values)).backward()
    gradients = {name: p.grad.clone() for name, p in policy.model.named_parameters() if p.grad is not None}
    return [value.detach() for value in values], gradients


def assert_as_apart(model: Any, batch: Batch, layout: str = "pad") -> None:
    """Assert that values and gradients with shared prefixes are those of padded rows of their own, up to rounding: 1e-6
    of the largest, and 5e-6 where sequences of other lengths reach the kernels."""
    tolerance = 1e-6 if layout == "pad" else 5e-6
    apart, slopes = outputs(policy_of(model, share=False), batch)
    shared, found = outputs(policy_of(model, share=True, layout=layout), batch)
    for one, other in zip(shared, apart, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance * float(other.abs().max()))
    assert found.keys() == slopes.keys()
    largest = max(float(slope.abs().max()) for slope in slopes.values())
    for name, slope in slopes.items():
        torch.testing.assert_close(found[name], slope, rtol=tolerance, atol=tolerance * largest, msg=name)


@pytest.mark.parametrize(
    ("kind", "layout"),
    [(kind, "pad") for kind in ("qwen2", "llama", "experts", "gpt2", "opt")]
    + [(kind, "varlen") for kind in ("qwen2", "llama", "experts", "gpt2", "opt")],
)
def test_values_and_gradients_are_those_of_rows_of_their_own(
    kind: str, layout: str, tiny_policy: Path, tmp_path: Path
) -> None:
    gpt2 = GPT2Config(vocab_size=VOCABULARY_SIZE, n_embd=32, n_layer=2, n_head=2, initializer_range=0.2)
    opt = OPTConfig(
        vocab_size=VOCABULARY_SIZE,
        hidden_size=32,
        word_embed_proj_dim=32,
        ffn_dim=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        init_std=0.2,
    )
    build: dict[str, Callable[[], Any]] = {
        "qwen2": lambda: load_model(str(tiny_policy)),
        "llama": llama,
        "experts": lambda: load_model(str(make_mixture_of_experts(tmp_path))),
        "gpt2": lambda: GPT2LMHeadModel(gpt2).eval(),
        "opt": lambda: OPTForCausalLM(opt).eval(),
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build[kind]()
    seen = columns_seen(model)
    assert_as_apart(model, BATCH, layout)
    assert seen[1] < 0.9 * seen[0], "nothing was shared"


def test_tokens_of_the_environment_and_several_turns_share_what_they_have_in_common() -> None:
    turns = BATCH.mask & (torch.arange(len(BATCH.tokens)) % 3 > 0)
    assert_as_apart(llama(), with_own_totals(replace(BATCH, mask=turns)))


@pytest.mark.parametrize("layout", ["pad", "varlen"])
def test_layers_that_are_recomputed_share_too(layout: str) -> None:
    model = llama()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    for layer in model.model.layers:
        layer.training = True
    assert_as_apart(model, BATCH, layout)


@pytest.mark.parametrize("layout", ["pad", "varlen"])
def test_a_prompt_reaches_the_model_once_for_all_answers_of_its_group(layout: str, tiny_policy: Path) -> None:
    prompt, answers = 20, 6
    batch = random_batch([(prompt, 2)] * answers)
    tokens = torch.where(batch.mask, batch.tokens, 2 + torch.arange(len(batch.tokens)) % (prompt + 2))
    model = load_model(str(tiny_policy))
    seen = columns_seen(model)
    policy_of(model, share=True, layout=layout)(replace(batch, tokens=tokens))
    assert seen[-1] == prompt + 2 * answers


@pytest.mark.parametrize("kind", ["sliding_window", "distance_bias", "packed", "off"])
def test_a_model_that_cannot_share_prefixes_is_scored_in_rows_of_their_own(kind: str) -> None:
    layout = "pack" if kind == "packed" else "pad"
    if kind == "sliding_window":
        shape = SHAPE | {"intermediate_size": 64, "num_key_value_heads": 1, "sliding_window": 8}
        model: Any = MistralForCausalLM(MistralConfig(**shape)).eval()
    elif kind == "distance_bias":  # BLOOM computes the distance of two tokens from their places in the row
        shape = {"vocab_size": VOCABULARY_SIZE, "hidden_size": 32}
        model = BloomForCausalLM(BloomConfig(**shape, n_layer=1, n_head=2, initializer_range=0.2)).eval()
    else:
        model = llama()
    policy = Policy(model, layout=layout, logits_megabytes=0.04, temperature=0.7, share_prefixes=kind != "off")
    assert policy.linear_width == 0
    expected = Policy(model, layout="pad", logits_megabytes=0.04, temperature=0.7)(BATCH).logp
    torch.testing.assert_close(policy(BATCH).logp, expected, rtol=0, atol=1e-5)


def test_the_linear_width_is_where_attention_costs_as_much_as_the_rest_of_a_layer() -> None:
    model = llama()
    parameters = sum(p.numel() for p in model.model.layers[0].parameters())
    found = linear_width(model, "pad", device="cpu", dtype="float32")
    assert found == pytest.approx(parameters / (2 * 32), rel=0.02)


@pytest.mark.parametrize(
    ("layout", "device", "dtype", "shared"),
    [
        ("varlen", "cuda", "bfloat16", "at any width"),
        ("pad", "cuda", "float32", "below a width"),
        ("pad", "cuda", "bfloat16", "never"),  # the mask would rule out FlashAttention
        ("pad", "cpu", "bfloat16", "below a width"),
        ("pack", "cpu", "float32", "never"),
    ],
)
def test_rows_are_shared_only_where_their_mask_costs_less_than_they_save(
    layout: str, device: str, dtype: str, shared: str
) -> None:
    width = linear_width(llama(), layout, device=device, dtype=dtype)
    assert {"never": width == 0, "below a width": 0 < width < math.inf, "at any width": width == math.inf}[shared]


def method_batch(method: str, other: str) -> Batch:
    """A batch with common prompts and all that the preset's loss reads, whose second group has equal rewards."""
    cfg = config_for(method)
    references = References(
        {name: {other: 1.0} for name in policies(cfg)},
        config=config_of(),
        dtype="float32",
        temperature=0.7,
        device="cpu",
    )
    drawn = with_routes(with_common_prompts(random_batch(seed=1, rehearsed=2)), cfg.objective)
    drawn.reward[2:4] = 0.0
    drawn.reward[0] = 1.0
    return asyncio.run(Anchors(LocalReference(references), cfg.objective).score(with_own_totals(drawn)))


@pytest.mark.slow
@pytest.mark.parametrize("method", presets("method"))
def test_every_method_has_the_gradient_of_rows_of_their_own_and_of_all_answers(
    method: str, tiny_policy: Path, other_policy: Path
) -> None:
    policy, other = str(tiny_policy), str(other_policy)
    cfg, batch = config_for(method), method_batch(method, other)
    found = []
    for share in (False, True):
        learner = learner_of(method, policy, other)
        learner.policy.linear_width *= share
        if cfg.scores_first:
            columns = learner.score([batch])[0]
            distance = {name.removeprefix("distance/"): c for name, c in columns.items() if "/" in name}
            plain = {name: column for name, column in columns.items() if "/" not in name}
            batch = replace(batch, **plain, distance=distance)
        graded = credited(batch, cfg.objective, 0.5)
        step(learner, graded if share else replace(graded, in_loss=None))
        found.append(gradients_of(learner))
    assert max(float(g.abs().max()) for g in found[0].values()) > 1e-4, "nothing to compare"
    assert_near(found[1], found[0], atol=2e-6)


def with_equal_rewards(groups: list[int]) -> Batch:
    """A batch of four groups of two answers, in which these groups have no advantage."""
    batch = random_batch([(3, 4)] * 8)
    batch.reward[:] = torch.tensor([i % 2 and i // 2 not in groups for i in range(8)]).float()
    return credited(batch, replace(OBJECTIVE, terms={}))


def learner_without_terms(policy: Path) -> FsdpLearner:
    return joined(str(policy), objective=replace(OBJECTIVE, terms={}), config=config_of(token_budget=1_000))


@pytest.mark.parametrize("groups", [[1], [0, 2], [0, 1, 2, 3]])
def test_groups_without_advantage_cost_no_forward_pass_and_change_no_weight(
    groups: list[int], tiny_policy: Path
) -> None:
    batch = with_equal_rewards(groups)
    assert batch.in_loss is not None
    assert (~batch.in_loss).nonzero().flatten().tolist() == [i for g in groups for i in (2 * g, 2 * g + 1)]
    updated = []
    for given in (batch, replace(batch, in_loss=None)):
        learner = learner_without_terms(tiny_policy)
        step(learner, with_equal_rewards([]))  # Adam's moments move the weights also where the gradient is 0
        seen = columns_seen(learner.policy.model)
        stats = means(step(learner, given))
        updated.append((stats, seen, learner))
    (stats, seen, learner), (expected, all_seen, full) = updated
    # Without an answer in the loss one trajectory still passes, so that gradients are zeros and not missing.
    assert (sum(seen), sum(all_seen)) == (7 * max(8 - 2 * len(groups), 1), 7 * 8)
    assert_near(gradients_of(learner), gradients_of(full), atol=1e-6)
    for name, weight in learner.policy.model.named_parameters():
        torch.testing.assert_close(weight, full.policy.model.get_parameter(name), rtol=0, atol=1e-6)
    for name in ("reward", "answer_length", "advantage_magnitude", "policy_loss", "loss"):
        assert stats[name] == pytest.approx(expected[name], abs=1e-6), name


def test_the_metrics_of_answers_without_advantage_are_those_of_the_sampler(tiny_policy: Path) -> None:
    batch, learner = with_equal_rewards([1]), learner_without_terms(tiny_policy)
    with torch.no_grad():
        scored = learner.policy(batch)
    own = batch.on_route("explore") & (batch.group == 1)[batch.seq]
    rest = batch.on_route("explore") & ~own
    entropy = torch.cat([-batch.logp_sampler[own], scored.entropy[rest]]).mean()
    log_ratio = (scored.logp - batch.logp_sampler)[rest]
    stats = means(step(learner, batch))
    assert stats["entropy"] == pytest.approx(float(entropy), rel=1e-5)
    assert stats["mismatch_abs_log_ratio"] == pytest.approx(float(log_ratio.abs().mean()), rel=1e-5)
    assert stats["ratio"] == pytest.approx(float(log_ratio.exp().mean()), rel=1e-5)


@pytest.mark.parametrize(
    "choice",
    [
        {"entropy_bonus": 0.1},
        {"gates": replace(OBJECTIVE.gates, entropy_penalty=0.1)},
        {"terms": {"divergence": SPARSE}},
    ],
)
def test_answers_without_advantage_are_scored_where_another_part_of_the_loss_reads_them(choice: dict[str, Any]) -> None:
    batch = replace(random_batch([(3, 4)] * 4), logp_reference=torch.full((28,), -1.0))
    batch.reward[:] = 1.0
    objective = replace(OBJECTIVE, **({"terms": {}} | choice))
    graded = credited(batch, objective, 0.5)
    assert graded.in_loss is not None and graded.in_loss.all()
