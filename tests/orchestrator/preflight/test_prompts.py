"""The first prompts before a run starts: what is shown, what is repaired, and what is refused."""

import asyncio
from pathlib import Path

import pytest

from configs.policy import PolicyConfig
from orchestrator.rollout.encoding import PromptEncoder
from orchestrator.start import run_training
from orchestrator.watch.logbook import read_records
from tests.orchestrator.in_process import config
from tests.orchestrator.preflight.changed_policies import (
    changed,
    dataset,
    reported,
    rows,
    with_special_tokens,
    with_template,
)
from trajectories.trajectory import Prompt


def encoder(policy: Path, chat_template: bool = False) -> PromptEncoder:
    return PromptEncoder(PolicyConfig(path=str(policy), chat_template=chat_template))


def prompt(text: str) -> Prompt:
    return Prompt(id="p", position=0, text=text, verifier="math", problem={"answer": 1})


def test_the_first_prompt_is_shown_as_the_policy_sees_it(tiny_policy: Path, tmp_path: Path) -> None:
    path = rows(tmp_path / "rows.jsonl", {"prompt": "6 x 7?", "answer": 42})
    plain = reported(tiny_policy, tmp_path, *dataset(path, heldout_fraction=0.001))
    assert "first prompt, dataset/train/line-1, 6 tokens:\n6 x 7?" in plain
    policy = with_special_tokens(tiny_policy, tmp_path / "bos", before="<pad>")
    chat = with_template(policy, tmp_path / "chat")
    shown = reported(chat, tmp_path, *dataset(path, heldout_fraction=0.001), "policy.chat_template=true")
    assert "first prompt, dataset/train/line-1, 30 tokens:\n<user>6 x 7?</user><assistant>" in shown


def test_the_rendered_prompt_stands_in_the_rows_of_trajectories(tiny_policy: Path, tmp_path: Path) -> None:
    policy = with_template(tiny_policy, tmp_path / "policy")
    few = ("steps=1", "monitor.every=0", "groups_per_step=2", "sampling.group_size=2", "logbook.trajectories_every=1")
    cfg = config(policy, tmp_path, *few, "policy.chat_template=true")
    run_dir = asyncio.run(run_training(cfg, resume=False, log=lambda text: None))
    row = read_records(run_dir / "trajectories.jsonl")[0]
    assert row["rendered"] == f"<user>{row['prompt']}</user><assistant>"


def test_special_tokens_are_visible_in_the_prompt_that_is_shown(tiny_policy: Path, tmp_path: Path) -> None:
    policy = with_special_tokens(tiny_policy, tmp_path / "policy", before="<pad>")
    [line] = reported(policy, tmp_path, "monitor.every=0")
    assert "9 tokens:\n<pad>6,1,4=2:" in line


def test_an_end_token_that_the_tokenizer_appends_is_removed_and_reported(tiny_policy: Path, tmp_path: Path) -> None:
    policy = with_special_tokens(tiny_policy, tmp_path / "policy", after="<end>")
    assert encoder(policy)(prompt("ab")) == [2 + ord("a"), 2 + ord("b")]
    assert any("appends an end-of-sequence token" in line for line in reported(policy, tmp_path, "monitor.every=0"))


def test_an_end_token_in_the_text_of_a_prompt_stays(tiny_policy: Path) -> None:
    assert encoder(tiny_policy)(prompt("a<end>")) == [2 + ord("a"), 1]


def test_a_text_that_begins_with_the_first_token_does_not_get_it_twice(tiny_policy: Path, tmp_path: Path) -> None:
    encode = encoder(with_special_tokens(tiny_policy, tmp_path / "policy", before="<pad>", after="<end>"))
    assert encode(prompt("<pad>a")) == encode(prompt("a")) == [0, 2 + ord("a")]


def test_a_rendered_prompt_is_not_rendered_again(tiny_policy: Path, tmp_path: Path) -> None:
    policy = with_template(tiny_policy, tmp_path / "policy")
    path = rows(tmp_path / "rows.jsonl", *[{"prompt": "<pad>user: 6 times 7?", "answer": 42}] * 2)
    with pytest.raises(ValueError, match=r"^policy.chat_template: must be false, .* already rendered .*'<pad>'"):
        reported(policy, tmp_path, *dataset(path), "policy.chat_template=true")


def test_a_chat_template_that_is_not_used_draws_a_hint(tiny_policy: Path, tmp_path: Path) -> None:
    policy = with_template(tiny_policy, tmp_path / "policy")
    hint = "policy.chat_template: is false, but the tokenizer has a chat template"
    assert any(line.startswith(hint) for line in reported(policy, tmp_path, "monitor.every=0"))
    used = reported(policy, tmp_path, "monitor.every=0", "policy.chat_template=true")
    assert not any(line.startswith(hint) for line in used)
    assert not any(line.startswith(hint) for line in reported(tiny_policy, tmp_path, "monitor.every=0"))


def test_prompts_that_are_all_too_long_are_refused_with_their_lengths(tiny_policy: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^sampling.max_prompt_tokens: .* got 5 and prompts of 8 to 1\d tokens"):
        reported(tiny_policy, tmp_path, "monitor.every=0", "sampling.max_prompt_tokens=5")


def test_a_held_out_prompt_that_is_too_long_is_refused_before_the_start(tiny_policy: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^sampling.max_prompt_tokens: .* longest held-out prompt"):
        reported(tiny_policy, tmp_path, "monitor.every=1", "task.heldout_prompts=64", "sampling.max_prompt_tokens=8")


def test_a_prompt_that_the_template_refuses_is_named(tiny_policy: Path, tmp_path: Path) -> None:
    policy = with_template(tiny_policy, tmp_path / "policy", "{{ raise_exception('roles must alternate') }}")
    with pytest.raises(ValueError, match=r"^policy.chat_template: must render prompt countdown/train/0, .*alternate"):
        reported(policy, tmp_path, "policy.chat_template=true")


def test_a_prompt_without_tokens_is_refused(tiny_policy: Path, tmp_path: Path) -> None:
    policy = with_template(tiny_policy, tmp_path / "policy", "{% if false %}{{ messages }}{% endif %}")
    with pytest.raises(ValueError, match=r"^task: prompts must have at least one token, .*\(countdown/train/0"):
        reported(policy, tmp_path, "policy.chat_template=true")


def test_a_token_that_the_model_does_not_have_is_refused(tiny_policy: Path, tmp_path: Path) -> None:
    path = rows(tmp_path / "rows.jsonl", {"prompt": "a[PAD]", "answer": 42})
    policy = with_padding(tiny_policy, tmp_path / "policy")
    with pytest.raises(ValueError, match=r"^policy.path: its tokenizer must use token ids below its model's 258, got"):
        reported(policy, tmp_path, *dataset(path, heldout_fraction=0.001))


def with_padding(policy: Path, folder: Path, pad: int = 0) -> Path:
    """Copy a policy with a padding token [PAD] of id 258, which its model does not have, and `pad` in its config."""
    added = {"id": 258, "content": "[PAD]", "special": True, "single_word": False, "lstrip": False, "rstrip": False}
    return changed(
        policy,
        folder,
        config={"pad_token_id": pad},
        tokenizer={"added_tokens": [added | {"normalized": False}]},
        tokenizer_config={"pad_token": "[PAD]"},
    )


@pytest.mark.parametrize("pad", [5000, 258, -1])
def test_a_policy_whose_padding_token_is_outside_the_embedding_trains(
    tiny_policy: Path, tmp_path: Path, pad: int
) -> None:
    policy = with_padding(tiny_policy, tmp_path / "policy", pad)
    lines: list[str] = []
    # Countdown's prompts have several lengths, so that the engine pads them.
    small = ("steps=1", "monitor.every=0", "groups_per_step=6", "sampling.group_size=2", "checkpoint.every=0")
    run_dir = asyncio.run(run_training(config(policy, tmp_path, *small), resume=False, log=lines.append))
    assert '"step": 1' in (run_dir / "metrics.jsonl").read_text()
    assert f"got {pad} in config.json, 258 in the tokenizer" in " ".join(lines)


SYSTEM, USER = {"role": "system", "content": "Be brief."}, {"role": "user", "content": "6 x 7?"}
CHAT = [SYSTEM, {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}, USER]


def chat_rows(path: Path) -> list[str]:
    return [
        *dataset(rows(path, {"prompt": CHAT, "answer": 42}), heldout_fraction=0.001),
        "sampling.max_prompt_tokens=200",
    ]


def shown(policy: Path, folder: Path, *overrides: str) -> str:
    """The first prompt as it is reported."""
    lines = reported(policy, folder, *chat_rows(folder / "rows.jsonl"), "policy.chat_template=true", *overrides)
    [line] = [line for line in lines if line.startswith("first prompt")]
    return line.partition("\n")[2]


def test_messages_are_rendered_by_the_chat_template(tiny_policy: Path, tmp_path: Path) -> None:
    policy = with_template(tiny_policy, tmp_path / "policy")
    rendered = "<system>Be brief.</system><user>Hi</user><assistant>Yes?</assistant><user>6 x 7?</user><assistant>"
    assert shown(policy, tmp_path) == rendered


def test_an_earlier_answer_may_begin_with_a_special_token(tiny_policy: Path, tmp_path: Path) -> None:
    policy = with_template(tiny_policy, tmp_path / "policy")
    chat = [USER, {"role": "assistant", "content": "<pad>42"}, USER]
    path = rows(tmp_path / "rows.jsonl", {"prompt": chat, "answer": 42})
    settings = ["policy.chat_template=true", "sampling.max_prompt_tokens=200"]
    assert reported(policy, tmp_path, *dataset(path, heldout_fraction=0.001), *settings)


def test_messages_without_a_chat_template_are_refused(tiny_policy: Path, tmp_path: Path) -> None:
    message = (
        r"^policy.chat_template: must be true, because prompt dataset/train/line-1 is a list of messages, got False"
    )
    with pytest.raises(ValueError, match=message):
        reported(tiny_policy, tmp_path, *chat_rows(tmp_path / "rows.jsonl"))


def test_the_system_prompt_of_a_run_replaces_that_of_a_row_or_comes_first(tiny_policy: Path, tmp_path: Path) -> None:
    policy = with_template(tiny_policy, tmp_path / "policy")
    text = shown(policy, tmp_path, "policy.system_prompt=Think.")
    assert text.startswith("<system>Think.</system><user>Hi</user>")
    encode = PromptEncoder(PolicyConfig(path=str(policy), chat_template=True, system_prompt="Think."))
    assert encode.text(prompt("6 x 7?")) == "<system>Think.</system><user>6 x 7?</user><assistant>"


def test_template_arguments_reach_the_template_and_unknown_ones_are_refused(tiny_policy: Path, tmp_path: Path) -> None:
    thinking = "{{ messages[-1].content }}{% if enable_thinking %}<think>{% endif %}"
    policy = with_template(tiny_policy, tmp_path / "policy", thinking)
    assert shown(policy, tmp_path, "policy.template_arguments={enable_thinking: true}") == "6 x 7?<think>"
    assert shown(policy, tmp_path, "policy.template_arguments={enable_thinking: false}") == "6 x 7?"
    for name in ("enable_thinkin", "tokenize", "messages"):
        with pytest.raises(ValueError, match=rf"^policy.template_arguments.{name}: must be a variable"):
            shown(policy, tmp_path, f"policy.template_arguments={{{name}: true}}")


@pytest.mark.parametrize("setting", ["system_prompt=Think.", "template_arguments={enable_thinking: true}"])
def test_settings_of_the_template_need_it(tiny_policy: Path, tmp_path: Path, setting: str) -> None:
    with pytest.raises(ValueError, match=r"^policy.\w+: must be left out unless policy.chat_template is true"):
        reported(tiny_policy, tmp_path, f"policy.{setting}")
