"""LoRA: what adapters change of a learner's log-probs, gradients, updates, weights and checkpoints."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from actors.learning.adapters import add_adapters
from actors.learning.learner import FsdpLearner
from actors.learning.sharding import full_adapters, full_parameters
from actors.policy_files.reading import empty_model
from actors.reference_parts import logps_field
from actors.weights.adapter_names import is_adapter
from configs.lora import LoraConfig
from objectives.diagnostics import means
from tests.actors.learning.adapter_ranks import DIVIDED, LORA, RATE, adapted, adapters_of
from tests.actors.learning.frozen_ranks import OBJECTIVE as EXACT
from tests.actors.learning.frozen_ranks import exact_batch
from tests.actors.learning.learner_ranks import (
    CRITIC,
    RANKS_S,
    Weights,
    assert_equal,
    assert_near,
    batch_of,
    config_of,
    critic_batch,
    joined,
    run_script,
    save,
    step,
    weights_of,
)
from tests.conftest import make_mixture_of_experts, make_policy


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_before_the_first_update_log_probs_and_published_weights_are_those_of_the_base(
    tiny_policy: Path, dtype: str
) -> None:
    batch = batch_of(0)
    one, base = adapted(tiny_policy, dtype=dtype), joined(str(tiny_policy), dtype=dtype)
    with torch.no_grad():
        assert torch.equal(one.policy(batch).logp, base.policy(batch).logp)
    assert_equal(weights_of(one), weights_of(base))
    step(one, batch)
    with torch.no_grad():
        assert not torch.equal(one.policy(batch).logp, base.policy(batch).logp)
    base.close()


def test_frozen_weights_are_held_in_the_dtype_of_the_policy_and_adapters_in_float32(tiny_policy: Path) -> None:
    one = adapted(tiny_policy, dtype="bfloat16")
    step(one, batch_of(0))
    for name, parameter in one.policy.model.named_parameters():
        assert parameter.requires_grad == is_adapter(name)
        assert parameter.dtype == (torch.float32 if is_adapter(name) else torch.bfloat16)
        assert (parameter in one.optimizer.state) == is_adapter(name)
        assert (parameter.grad is not None) == is_adapter(name)
    one.close()


@pytest.mark.parametrize(("rslora", "scale"), [(False, 8 / 3), (True, 8 / 3**0.5)])
def test_an_update_is_that_of_autograd_through_the_merged_weights(
    tiny_policy: Path, tmp_path: Path, rslora: bool, scale: float
) -> None:
    """With G = dL/d(W + s B A): dL/dB = s G A^T and dL/dA = s B^T G. Adam's first step is lr g / (|g| + 1e-8)."""
    lora = replace(LORA, alpha=8, use_rslora=rslora)
    one = adapted(tiny_policy, lora=lora, max_grad_norm=1e9)
    _randomise(one)
    before = adapters_of(one)
    one.save_policy(str(tmp_path / "merged"))
    whole = joined(str(tmp_path / "merged"), config=config_of(max_grad_norm=1e9))
    batch = batch_of(0)
    with torch.no_grad():
        torch.testing.assert_close(one.policy(batch).logp, whole.policy(batch).logp, rtol=0, atol=1e-4)
    step(one, batch)
    step(whole, batch)
    slopes = {name: p.grad for name, p in whole.policy.model.named_parameters()}
    found = {name: p.grad for name, p in one.policy.model.named_parameters()}
    after, compared = adapters_of(one), 0
    for down in (name for name in before if ".lora_A." in name):
        up, slope = down.replace("lora_A", "lora_B"), slopes[down.replace("lora_A.default.", "")]
        assert slope is not None
        for key, expected in ((down, scale * before[up].T @ slope), (up, scale * slope @ before[down].T)):
            gradient, largest = found[key], float(expected.abs().max())
            assert gradient is not None
            torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-5 * largest)
            moved = RATE * gradient / (gradient.abs() + 1e-8)
            torch.testing.assert_close(after[key], before[key] - moved, rtol=0, atol=1e-6)
            compared += 1
    assert compared == 2 * 7 * 2  # A and B of seven layers of two decoder layers


def _randomise(learner: FsdpLearner) -> None:
    """Give B values, as training does, so that A has a gradient."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in learner.policy.model.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(std=0.05, generator=generator)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("extragradient", [False, True])
def test_a_loaded_learner_continues_bit_for_bit(
    tiny_policy: Path, tmp_path: Path, dtype: str, extragradient: bool
) -> None:
    """Also where `policy/` is rounded to bfloat16, and between the two steps of a pair."""
    settings: dict[str, Any] = {"extragradient": extragradient, "weight_decay": 0.1}
    one = adapted(tiny_policy, dtype=dtype, checkpoint_dtype="bfloat16", objective=CRITIC, **settings)
    for update in range(3):
        step(one, critic_batch(update))
    save(one, tmp_path)
    loaded = adapted(tiny_policy, dtype=dtype, objective=CRITIC, **settings)
    step(loaded, critic_batch(9))  # `load` must undo this update
    loaded.load(str(tmp_path))
    assert step(one, critic_batch(3)) == step(loaded, critic_batch(3))
    assert_equal(adapters_of(loaded), adapters_of(one))
    assert_equal(weights_of(loaded), weights_of(one))
    one.close()


@pytest.mark.parametrize("tie", [True, False], ids=["tied", "untied"])
def test_a_checkpoint_is_a_merged_policy_and_an_adapter_of_peft_with_the_same_logits(tmp_path: Path, tie: bool) -> None:
    start = make_policy(tmp_path / "start", tie=tie)
    one = adapted(start)
    for update in range(2):
        step(one, batch_of(update))
    save(one, tmp_path)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "policy")
    base = AutoModelForCausalLM.from_pretrained(start)
    tokens = torch.arange(2, 60)[None]
    with torch.no_grad():
        plain = base(tokens).logits
        adapter = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
        assert adapter.active_peft_config.base_model_name_or_path == str(start)
        # In float64, so that only the rounding of the merged weights to float32 differs.
        found, expected = merged.double()(tokens).logits, adapter.double()(tokens).logits
    largest = float(expected.abs().max())
    assert float((found - expected).abs().max()) < 1e-6 * largest
    assert float((plain - expected).abs().max()) > 1e-2 * largest
    assert_equal({name: p.detach() for name, p in merged.named_parameters()}, weights_of(one))


def test_an_adapter_is_published_as_peft_names_it_and_merged_weights_as_the_policys_files(tiny_policy: Path) -> None:
    one, merged = (adapted(tiny_policy, lora=replace(LORA, publish=publish)) for publish in ("adapter", "merged"))
    for learner in (one, merged):
        step(learner, batch_of(0))
    sent = weights_of(one)
    names = {name for name in sent if "layers.0.self_attn.q_proj" in name}
    beginning = "base_model.model.model.layers.0.self_attn.q_proj"
    assert names == {f"{beginning}.lora_A.weight", f"{beginning}.lora_B.weight"}
    scale = LORA.alpha / LORA.r
    base = AutoModelForCausalLM.from_pretrained(tiny_policy).model.layers[0].self_attn.q_proj.weight
    expected = base + scale * sent[f"{beginning}.lora_B.weight"] @ sent[f"{beginning}.lora_A.weight"]
    assert_near(
        {"q": weights_of(merged)["model.layers.0.self_attn.q_proj.weight"]}, {"q": expected.detach()}, atol=1e-6
    )
    assert one.share_weights() is not None and not one.outgoing.buffer.holds_parameters


def test_an_adapter_is_one_piece_for_generators_of_other_nodes(tiny_policy: Path) -> None:
    one = adapted(tiny_policy, lora=replace(LORA, publish="adapter"))
    step(one, batch_of(0))
    whole = one.weights(1)
    assert whole is not None and whole.data is not None
    expected = whole.data.copy()
    assert one.weights_pieces() == 1
    piece = one.weights_piece(0, 1, False)
    assert piece is not None and piece.data is not None and piece.tensors is None
    assert (piece.data == expected).all()


def test_an_adapter_keeps_the_small_updates_that_merging_in_bfloat16_loses() -> None:
    """The reason why vLLM gets adapters: an update by 1e-5 is smaller than the last bit of most bfloat16 weights."""
    policy = "tasks/base_policies/countdown"
    one = adapted(policy, dtype="bfloat16", learning_rate=1e-5)
    before = dict(full_parameters(one.policy.model, torch.float32))
    step(one, batch_of(0))
    exact, rounded = (dict(full_parameters(one.policy.model, dtype)) for dtype in (torch.float32, torch.bfloat16))
    sent = dict(full_adapters(one.policy.model, torch.bfloat16))
    scale = LORA.alpha / LORA.r
    update, merged, adapter = 0.0, 0.0, 0.0
    for name in (name for name in exact if name.endswith("proj.weight")):
        down, up = (sent[f"base_model.model.{name.replace('weight', f'lora_{kind}.weight')}"].float() for kind in "AB")
        update += float((exact[name] - before[name]).square().sum())
        merged += float((rounded[name].float() - exact[name]).square().sum())
        adapter += float((before[name] + scale * up @ down - exact[name]).square().sum())
    assert merged > 0.5**2 * update
    assert adapter < 0.01**2 * update
    one.close()


def test_references_on_the_learner_have_no_adapter_and_are_the_same_after_an_update(
    tiny_policy: Path, other_policy: Path
) -> None:
    named = {"reference": {str(tiny_policy): 1.0}, "teacher": {str(other_policy): 1.0}}
    one, batch = adapted(tiny_policy, references=named), batch_of(0)

    def scored() -> list[torch.Tensor]:
        [outputs] = one.score_references([batch], list(named), [])
        with torch.no_grad():
            return [*(outputs[logps_field(name)] for name in named), one.policy(batch).logp]

    before = scored()
    assert torch.equal(before[0], before[2]), "without its adapter the policy is the reference"
    step(one, batch)
    reference, teacher, policy = scored()
    assert torch.equal(reference, before[0]) and torch.equal(teacher, before[1])
    assert (policy - reference).abs().max() > 1e-3 and (teacher - reference).abs().max() > 1e-3
    for held in one.references.policies.values():
        assert not any(is_adapter(name) or p.requires_grad for name, p in held.named_parameters())


def test_adapters_learn_from_the_whole_distributions_of_a_reference_that_the_learner_holds(
    tiny_policy: Path, other_policy: Path
) -> None:
    named, batch = {"teacher": {str(other_policy): 1.0}}, exact_batch()
    batch = replace(batch, advantage=torch.zeros(len(batch.tokens)))  # the divergence is all that is trained on
    one = adapted(tiny_policy, references=named, objective=EXACT)
    whole = joined(str(tiny_policy), references=named, objective=EXACT)
    name = "terms/divergence/value"
    first, of_all_weights = means(step(one, batch))[name], means(step(whole, batch))[name]
    assert first == pytest.approx(of_all_weights, rel=1e-5) and first > 0.01
    assert min(means(step(one, batch))[name] for _ in range(5)) < 0.95 * first


def test_a_moving_reference_gets_merged_float32_weights(tiny_policy: Path) -> None:
    one = adapted(tiny_policy, dtype="bfloat16")
    step(one, batch_of(0))
    info, weights = one.master_info(), one.master_weights()
    assert info.dtype == "float32" and weights is not None and weights.data is not None
    base = joined(str(tiny_policy))
    assert info.names == base.master_info().names and info.shapes == base.master_info().shapes
    assert weights.data.nbytes == 4 * sum(p.numel() for p in base.policy.model.parameters())
    one.close()


def test_adapters_are_the_same_for_a_seed_and_others_for_another(tiny_policy: Path) -> None:
    first, again, other = (adapters_of(adapted(tiny_policy, seed=seed)) for seed in (1, 1, 2))
    assert_equal(again, first)
    down = next(name for name in first if ".lora_A." in name)
    assert not torch.equal(first[down], other[down])
    assert float(first[down].std()) == pytest.approx((3 * first[down].shape[1]) ** -0.5, rel=0.2)
    assert not any(value.any() for name, value in first.items() if ".lora_B." in name)


def test_all_linear_adapts_no_stacked_experts_and_no_head(tmp_path: Path) -> None:
    model = empty_model(str(make_mixture_of_experts(tmp_path)))
    add_adapters(model, LoraConfig(r=2))
    found = {name.split(".")[-4] for name, _ in model.named_parameters() if ".lora_A." in name}
    assert found == {"q_proj", "k_proj", "v_proj", "o_proj"}


def test_merged_weights_of_a_mixture_of_experts_are_those_of_its_files(tmp_path: Path) -> None:
    one = adapted(make_mixture_of_experts(tmp_path / "start"))
    step(one, batch_of(0))
    one.save_policy(str(tmp_path / "saved"))
    sent, saved = weights_of(one), load_file(tmp_path / "saved" / "model.safetensors")
    assert_equal(sent, saved)
    start = load_file(tmp_path / "start" / "model.safetensors")
    changed = {name.split(".")[-2] for name in start if not torch.equal(start[name], saved[name])}
    assert start.keys() == saved.keys() and changed == {"q_proj", "k_proj", "v_proj", "o_proj"}


@pytest.mark.parametrize("targets", [["nonsense"], ["lm_head"], ["q_proj", "embed_tokens"]])
def test_a_target_that_is_no_linear_layer_of_the_body_is_refused(tiny_policy: Path, targets: list[str]) -> None:
    with pytest.raises(ValueError, match=r"learner\.lora\.target_modules: must name linear layers"):
        add_adapters(empty_model(str(tiny_policy)), LoraConfig(r=2, target_modules=targets))


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 4])
def test_adapters_of_several_ranks_are_trained_and_saved_as_those_of_one(
    tiny_policy: Path, tmp_path: Path, ranks: int
) -> None:
    one = adapted(tiny_policy)
    start = adapters_of(one)
    for update in range(2):
        step(one, batch_of(update))
    trained: dict[str, Weights] = {"adapters": adapters_of(one), "weights": weights_of(one)}
    save(one, tmp_path / "of_one")
    step(one, batch_of(2))
    run_script("adapter_ranks.py", tiny_policy, tmp_path, str(ranks), timeout_s=3 * RANKS_S)
    found = torch.load(tmp_path / "rank0.pt")
    assert_equal(found["start"], start)
    for name in DIVIDED[ranks]:
        for kind, expected in trained.items():
            assert_near(found[name][kind], expected, atol=2e-5)
    assert_equal(found["loaded"], trained["adapters"])
    assert_near(found["continued"], adapters_of(one), atol=2e-5)
    again = adapted(tiny_policy)
    again.load(str(tmp_path / "of_several"))
    assert_equal(adapters_of(again), found["continued"])
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "of_several" / "policy")
    assert_near({name: p.detach() for name, p in merged.named_parameters()}, weights_of(again), atol=1e-6)
