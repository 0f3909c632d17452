"""`breadth warm-start`: train a policy from scratch, with the learner; it loads like any other."""

import json
import math
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from configs.config import Config
from orchestrator.warm_start import warm_start
from tasks.characters import VOCABULARY_SIZE
from tasks.registry import build
from tests.orchestrator.in_process import config

SHAPE = (
    "warm_start.hidden_size=32",
    "warm_start.layers=1",
    "warm_start.heads=2",
    "warm_start.intermediate_size=32",
    "warm_start.batch=32",
    "learner.learning_rate=1e-2",
)


def settings(folder: Path, *overrides: str) -> Config:
    return config(Path("nowhere"), folder, *SHAPE, *overrides)


def made(cfg: Config, output: Path) -> list[float]:
    """Losses of the steps."""
    losses: dict[int, float] = {}
    warm_start(cfg, output, losses.__setitem__)
    assert list(losses) == list(range(1, cfg.warm_start.steps + 1))
    return list(losses.values())


def ignore(step: int, loss: float) -> None:
    pass


def test_the_loss_starts_at_that_of_the_uniform_distribution_and_falls(tmp_path: Path) -> None:
    losses = made(settings(tmp_path, "warm_start.steps=12"), tmp_path / "policy")
    assert losses[0] == pytest.approx(math.log(VOCABULARY_SIZE), abs=0.1)
    assert losses[-1] < losses[0] - 1.5
    assert losses[-1] > 0


def test_a_bounded_divergence_to_the_data_starts_at_that_of_the_uniform_distribution_and_falls(tmp_path: Path) -> None:
    choice = ("warm_start.divergence=skew_kl", "warm_start.alpha=0.1")
    losses = made(settings(tmp_path, "warm_start.steps=12", *choice), tmp_path / "policy")
    assert losses[0] == pytest.approx(-math.log(0.1 + 0.9 / VOCABULARY_SIZE), abs=0.01)
    assert losses[-1] < losses[0] - 0.3
    assert losses[-1] > 0


def test_the_policy_is_a_bfloat16_hugging_face_directory_with_a_lower_loss_on_the_task(tmp_path: Path) -> None:
    cfg = settings(tmp_path, "warm_start.steps=12")
    warm_start(cfg, tmp_path / "policy", ignore)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "policy", dtype="auto")
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert (model.config.hidden_size, model.config.num_hidden_layers) == (32, 1)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "policy")
    assert model.config.eos_token_id == tokenizer.eos_token_id == 1
    prompt, answer = build(cfg.task, seed=5).demonstration(0)
    text = torch.tensor([tokenizer(prompt.text + answer)["input_ids"]])
    assert tokenizer.decode(text[0]) == prompt.text + answer
    with torch.no_grad():
        logits = model.float()(text).logits[0, :-1]
    of_the_answer = torch.nn.functional.cross_entropy(logits[len(prompt.text) - 1 :], text[0, len(prompt.text) :])
    assert float(of_the_answer) < math.log(VOCABULARY_SIZE) - 1.5
    [comma] = tokenizer(",")["input_ids"]
    assert float(logits.softmax(-1)[:, comma].max()) < 1 / VOCABULARY_SIZE, "prompt tokens are not trained on"


def test_the_same_seed_gives_the_same_policy(tmp_path: Path) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        warm_start(settings(tmp_path, "warm_start.steps=1", f"seed={seed}"), tmp_path / name, ignore)
    a, b, c = ((tmp_path / name / "model.safetensors").read_bytes() for name in "abc")
    assert a == b
    assert a != c


def test_an_older_policy_is_replaced_completely_and_other_files_are_never_removed(tmp_path: Path) -> None:
    cfg = settings(tmp_path, "warm_start.steps=1")
    output = tmp_path / "policy"
    output.mkdir()
    warm_start(cfg, output, ignore)
    (output / "left_over.json").write_text("{}")
    warm_start(cfg, output, ignore)
    assert not (output / "left_over.json").exists()
    precious = tmp_path / "home"
    precious.mkdir()
    (precious / "config.json").write_text("{}")
    file = tmp_path / "file"
    file.touch()
    for output in (precious, file):
        with pytest.raises(ValueError, match=r"^warm_start\.output: must be new, empty, or a policy to replace, got "):
            warm_start(cfg, output, ignore)
    assert (precious / "config.json").exists() and file.exists()


def test_a_task_without_worked_solutions_is_refused(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    tests = json.dumps([{"input": "1\n", "output": "2\n", "testtype": "stdin"}])
    row = {"starter_code": "", "public_test_cases": tests, "private_test_cases": "[]", "metadata": "{}"}
    rows.write_text("".join(json.dumps(row | {"question_content": f"print {i}"}) + "\n" for i in range(40)))
    cfg = settings(tmp_path, "task.name=dataset", f"task.options.path={rows}", "task.options.format=livecodebench")
    with pytest.raises(ValueError, match=r"^task\.options\.format: must be a format whose rows hold right answers"):
        warm_start(cfg, tmp_path / "policy", ignore)
    assert not (tmp_path / "policy").exists()
