"""Policy: chunked log-probs and entropies against plain transformers, and checks of a policy's directory."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import GraniteConfig, GraniteForCausalLM, OPTConfig, OPTForCausalLM

from actors.policy_files.reading import load_model, load_tokenizer
from actors.scoring.policy import Policy, chunk_sizes
from tasks.characters import VOCABULARY_SIZE, save_tokenizer
from tests.actors.logits_records import LogitsRecords
from tests.actors.random_batch import SHAPES, logits_megabytes, random_batch, untrained
from tests.conftest import make_policy
from trajectories.batch import Batch
from trajectories.split import partition

TEMPERATURE = 0.7
LAYOUTS = ("pad", "varlen", "pack")


@pytest.fixture(scope="module")
def untied_policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_policy(tmp_path_factory.mktemp("untied"), tie=False)


@pytest.fixture(params=["tied", "untied"])
def model(request: pytest.FixtureRequest, tiny_policy: Path, untied_policy: Path) -> Any:
    return load_model(str(tiny_policy if request.param == "tied" else untied_policy))


def policy_of(model: Any, layout: str = "pad", logits_chunk: int = 7, temperature: float = TEMPERATURE) -> Policy:
    megabytes = logits_megabytes(logits_chunk)
    return Policy(model, layout=layout, logits_megabytes=megabytes, temperature=temperature)


def plain(model: Any, batch: Batch, temperature: float = TEMPERATURE) -> tuple[Tensor, Tensor]:
    """Log-probs and entropies [N] from one forward per trajectory, with all its logits at once; 0 where not trained."""
    logps, entropies = [], []
    chosen = model.config._attn_implementation  # a policy with layout varlen has changed it
    model.set_attn_implementation("sdpa")
    for tokens in batch.tokens.split(batch.lengths.tolist()):
        scores = torch.log_softmax(model(input_ids=tokens[None]).logits[0].float() / temperature, dim=-1)
        first = torch.zeros(1)
        logps.append(torch.cat([first, scores[:-1].gather(-1, tokens[1:, None]).squeeze(-1)]))
        entropies.append(torch.cat([first, -(scores.exp() * scores).sum(-1)[:-1]]))
    model.set_attn_implementation(chosen)
    return torch.cat(logps) * batch.mask, torch.cat(entropies) * batch.mask


def gradients(model: Any, value: Tensor) -> dict[str, Tensor]:
    names, parameters = zip(*model.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(value, parameters), strict=True))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("logits_chunk", [1, 7, 4096])
def test_log_probs_and_entropies_are_those_of_plain_transformers(model: Any, layout: str, logits_chunk: int) -> None:
    batch = random_batch()
    logp, entropy = policy_of(model, layout, logits_chunk)(batch)[:2]
    expected_logp, expected_entropy = plain(model, batch)
    assert logp.dtype == entropy.dtype == torch.float32
    torch.testing.assert_close(logp, expected_logp, rtol=0, atol=1e-5)
    torch.testing.assert_close(entropy, expected_entropy, rtol=0, atol=1e-5)
    assert not logp[~batch.mask].any() and not entropy[~batch.mask].any()
    assert expected_logp[batch.mask].std() > 1, "a uniform policy would pass whatever is computed"


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("logits_chunk", "token_budget"), [(7, 10_000), (4096, 10_000), (7, 45), (5, 1)])
def test_gradients_are_those_of_plain_transformers_in_any_microbatches(
    model: Any, layout: str, logits_chunk: int, token_budget: int
) -> None:
    batch = random_batch()
    # Each token's own weight in the loss travels with the batch: its `logp_sampler` is any number here.
    expected = gradients(model, (batch.logp_sampler * plain(model, batch)[0]).sum())
    policy, parts = policy_of(model, layout, logits_chunk), partition(batch, 1, token_budget)[0]
    assert len(parts) == {10_000: 1, 45: 3, 1: len(SHAPES)}[token_budget]
    found = [gradients(model, (part.logp_sampler * policy(part)[0]).sum()) for part in parts]
    for name, value in expected.items():
        total = torch.stack([one[name] for one in found]).sum(0)
        torch.testing.assert_close(total, value, rtol=1e-5, atol=1e-5 * float(value.abs().max()), msg=name)


def test_only_the_log_probs_carry_a_gradient(tiny_policy: Path) -> None:
    logp, entropy = policy_of(load_model(str(tiny_policy)))(random_batch())[:2]
    assert logp.requires_grad and not entropy.requires_grad


def test_packed_trajectories_do_not_attend_to_each_other(tiny_policy: Path) -> None:
    model = load_model(str(tiny_policy))
    assert model.config._attn_implementation == "sdpa"
    policy, batch = policy_of(model, "pack"), random_batch()
    first = batch.seq == 0
    other = replace(batch, tokens=torch.where(first, (batch.tokens + 50) % VOCABULARY_SIZE, batch.tokens))
    with torch.no_grad():
        before, after = policy(batch)[0], policy(other)[0]
        assert torch.equal(before[~first], after[~first])
        assert not torch.allclose(before[first & batch.mask], after[first & batch.mask])
        # With positions that do not restart they do, so the comparison above can fail.
        one_row = torch.arange(len(batch.tokens))[None]
        leaky = [model(input_ids=b.tokens[None], position_ids=one_row).logits[0] for b in (batch, other)]
    assert not torch.allclose(leaky[0][~first], leaky[1][~first])


def test_a_model_that_ignores_restarting_positions_is_refused_with_pack_and_accepted_with_pad() -> None:
    shape = {"vocab_size": VOCABULARY_SIZE, "hidden_size": 32, "word_embed_proj_dim": 32, "ffn_dim": 32}
    model = OPTForCausalLM(OPTConfig(**shape, num_hidden_layers=1, num_attention_heads=1, init_std=0.2)).eval()
    with pytest.raises(ValueError, match=r"learner\.layout: must be 'pad' for OPTForCausalLM"):
        policy_of(model, "pack")
    batch = random_batch()
    torch.testing.assert_close(policy_of(model, "pad")(batch)[0], plain(model, batch)[0], rtol=0, atol=1e-5)


def test_a_model_whose_head_is_not_a_linear_layer_is_refused(tiny_policy: Path) -> None:
    model = load_model(str(tiny_policy))
    model.set_output_embeddings(torch.nn.Sequential(model.get_output_embeddings()))
    with pytest.raises(ValueError, match=r"policy\.path: its LM head must be a torch\.nn\.Linear, got Sequential"):
        policy_of(model)


def test_the_loss_of_one_packed_trajectory_has_no_gradient_at_tokens_of_another(tiny_policy: Path) -> None:
    model = load_model(str(tiny_policy))
    inputs: list[Tensor] = []

    def keep(_: Any, __: Any, embedded: Tensor) -> Tensor:
        inputs.append(embedded.detach().requires_grad_())
        return inputs[0]

    policy, batch = policy_of(model, "pack"), random_batch()
    model.get_input_embeddings().register_forward_hook(keep)
    logp = policy(batch).logp
    (reached,) = torch.autograd.grad(logp[batch.seq == 3].sum(), inputs[0])
    moved = reached[0].abs().sum(-1) > 0
    assert moved[batch.seq == 3].any() and not moved[batch.seq != 3].any()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("functions", [None, {"any": lambda logits, targets, rows: logits[:, 0]}])
def test_only_trained_positions_reach_the_head_and_at_most_a_chunk_of_them_at_a_time(
    model: Any, layout: str, functions: Any
) -> None:
    batch = random_batch(((3, 40), (2, 9), (4, 70)))
    trained, chunk, kept = int(batch.mask.sum()), 33, []
    policy = policy_of(model, layout, chunk)
    with (
        LogitsRecords(VOCABULARY_SIZE, model.config.hidden_size) as forward,
        torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(tuple(t.shape)) or t, lambda t: t),
    ):
        logp = policy(batch, functions).logp
    assert sum(forward.products) == trained and max(forward.products) <= chunk and forward.largest <= chunk
    assert kept and not [shape for shape in kept if shape[-1] == VOCABULARY_SIZE], (
        "no logits are stored for the backward pass"
    )
    with LogitsRecords(VOCABULARY_SIZE, model.config.hidden_size) as backward:
        logp.sum().backward()
    assert sum(backward.products) == trained and max(backward.products) <= chunk, "recomputed chunk by chunk"


@pytest.mark.parametrize("functions", [None, {"any": lambda logits, targets, rows: logits[:, 0]}])
def test_the_logits_of_a_single_chunk_are_not_recomputed(model: Any, functions: Any) -> None:
    batch = random_batch()
    with LogitsRecords(VOCABULARY_SIZE, model.config.hidden_size) as logits:
        policy_of(model, logits_chunk=4096)(batch, functions).logp.sum().backward()
    assert logits.products == [int(batch.mask.sum())]


@pytest.mark.parametrize(
    ("blocks", "limit", "sizes"),
    [
        ([32, 32, 5, 9], 64, [64, 14]),
        ([32, 5, 32, 9], 64, [37, 41]),
        ([3, 4, 4], 7, [7, 4]),
        ([9, 1], 7, [7, 3]),
        ([1, 15], 7, [1, 7, 7, 1]),
        ([], 7, [0]),
    ],
)
def test_chunks_are_filled_with_whole_blocks_as_long_as_these_fit(
    blocks: list[int], limit: int, sizes: list[int]
) -> None:
    assert chunk_sizes(blocks, limit) == sizes


@pytest.mark.parametrize("layout", LAYOUTS)
def test_no_chunk_of_32_or_more_splits_a_block_of_32_tokens_of_an_answer(tiny_policy: Path, layout: str) -> None:
    batch, chunks = random_batch([(3, 40), (2, 9), (4, 70)]), []

    def function(logits: Tensor, targets: Tensor, rows: Tensor) -> Tensor:
        chunks.append(rows.tolist())
        return logits[:, 0]

    with torch.no_grad():
        policy_of(load_model(str(tiny_policy)), layout, 45)(batch, {"any": function})
    first, second, third = 3, 43 + 2, 43 + 11 + 4  # where the answers begin in [N]
    assert [(rows[0], len(rows)) for rows in chunks] == [(first, 40), (second, 9 + 32), (third + 32, 32 + 6)]
    assert sorted(row for rows in chunks for row in rows) == batch.mask.nonzero().squeeze(1).tolist()


def test_a_function_without_gradient_is_not_recomputed_in_the_backward_pass(tiny_policy: Path) -> None:
    calls = []

    def function(logits: Tensor, targets: Tensor, rows: Tensor) -> Tensor:
        calls.append(len(rows))
        return logits.detach()[:, 0]

    batch = random_batch()
    policy_of(load_model(str(tiny_policy)))(batch, {"any": function}).logp.sum().backward()
    assert sum(calls) == int(batch.mask.sum()) and len(calls) > 1


def test_scoring_without_gradient_computes_every_logit_once(tiny_policy: Path) -> None:
    model, batch = load_model(str(tiny_policy)), random_batch()
    with torch.no_grad(), LogitsRecords(VOCABULARY_SIZE, model.config.hidden_size) as logits:
        logp, entropy = policy_of(model)(batch)[:2]
    assert sum(logits.products) == int(batch.mask.sum())
    assert not logp.requires_grad and not entropy.requires_grad


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_batch_without_trained_tokens_scores_zero_and_has_a_backward_to_every_parameter(
    model: Any, layout: str
) -> None:
    logp, entropy = policy_of(model, layout)(untrained(random_batch()))[:2]
    assert not logp.any() and not entropy.any()
    assert not [name for name, value in gradients(model, logp.sum()).items() if value.any()]


def test_a_first_token_has_no_log_prob(tiny_policy: Path) -> None:
    batch = random_batch()
    with pytest.raises(AssertionError, match="first token"):
        policy_of(load_model(str(tiny_policy)))(replace(batch, mask=torch.ones_like(batch.mask)))


def without_model(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def without_end(folder: Path) -> None:
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"eos_token": None}))


def without_tokenizer(folder: Path) -> None:
    (folder / "tokenizer_config.json").unlink()


@pytest.mark.parametrize(
    ("damage", "rule"),
    [
        (shutil.rmtree, "must be a directory"),
        (without_model, "safetensors"),
        (without_end, "EOS"),
        (without_tokenizer, "tokenizer_config.json"),
    ],
)
def test_a_directory_that_is_no_policy_is_refused_with_the_name_of_the_setting(
    tiny_policy: Path, tmp_path: Path, damage: Callable[[Path], None], rule: str
) -> None:
    folder = Path(shutil.copytree(tiny_policy, tmp_path / "policy"))
    damage(folder)
    with pytest.raises(ValueError, match=rf"policy\.path: .*{rule}.*got '{folder}'"):
        load_tokenizer(str(folder))


def test_a_model_that_rescales_its_logits_is_refused(tmp_path: Path) -> None:
    config = GraniteConfig(
        vocab_size=VOCABULARY_SIZE,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        initializer_range=0.5,
        logits_scaling=8.0,
        eos_token_id=1,
    )
    GraniteForCausalLM(config).save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    with pytest.raises(ValueError, match=r"policy\.path: .*capped or scaled.*GraniteForCausalLM"):
        load_model(str(tmp_path))
