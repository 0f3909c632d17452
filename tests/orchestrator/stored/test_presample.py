"""Presampling: which answers of the reference are kept, which policy is sampled, and that every prompt is counted."""

import asyncio
import importlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from actors.generation.transformers_engine import TransformersGenerator
from actors.reference import References
from configs.learner import LearnerConfig
from configs.load import to_yaml
from orchestrator import cluster
from orchestrator.rollout.encoding import PromptEncoder
from orchestrator.rollout.jobs import answer_seed
from orchestrator.rollout.rollouts import Rollouts
from orchestrator.start import run_training
from orchestrator.stored.answers import first_policy, load_stored
from orchestrator.stored.presample import Tally, presample, presample_with
from orchestrator.watch.logbook import read_records
from tasks.registry import build
from tests.conftest import make_policy
from tests.orchestrator.in_process import config
from tests.orchestrator.toy_verifiers import even
from trajectories.batch import pack
from trajectories.rehearsal import read
from trajectories.trajectory import Trajectory

PROMPTS = 12
SIZE = (f"rehearsal.prompts={PROMPTS}", "rehearsal.answers=4", "task.verifier=toy_verifiers:even")


@pytest.fixture(scope="module", autouse=True)
def toy_verifiers_in_reach() -> Iterator[None]:
    """The grader's workers import them by name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
        yield


def sample(policy: Path, folder: Path, *overrides: str) -> tuple[Tally, list[Trajectory]]:
    cfg = config(policy, folder, *SIZE, *overrides)
    path = folder / "rehearsal.parquet"
    tally = asyncio.run(presample(cfg, path, lambda done, total: None))
    kept = list(read(path, batch=1, seed=0).trajectories)
    assert tally.kept == len(kept)
    assert tally.prompts == PROMPTS
    return tally, kept


def rows(kept: list[Trajectory]) -> list[tuple[str, str, int]]:
    return [(t.key, t.text, t.seed) for t in kept]


@pytest.fixture(scope="module")
def all_correct(tiny_policy: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Tally, list[Trajectory]]:
    """Every correct answer: the set all others are measured against."""
    return sample(tiny_policy, tmp_path_factory.mktemp("all"), "rehearsal.keep=all_correct", "rehearsal.threshold=1")


def test_all_correct_keeps_the_correct_ones_among_the_k(all_correct: tuple[Tally, list[Trajectory]]) -> None:
    tally, kept = all_correct
    assert all(even(t.text, {}) == 1.0 and t.reward == 1.0 for t in kept)
    assert 0 < len(kept) < 4 * PROMPTS, "some are wrong, some are right"
    assert {t.sample_index for t in kept} <= set(range(4))
    assert tally == Tally(prompts=PROMPTS, mastered=len({t.prompt_id for t in kept}), kept=len(kept))
    for t in kept:
        position = t.prompt_id.rpartition("/")[2]
        assert t.seed == answer_seed(0, f"presample/{position}", t.sample_index)


def test_all_keeps_right_and_wrong_answers_of_every_prompt_with_their_verdicts(
    all_correct: tuple[Tally, list[Trajectory]], tiny_policy: Path, tmp_path: Path
) -> None:
    overrides = ("rehearsal.keep=all", "rehearsal.explore=fresh", "rehearsal.threshold=4")
    tally, kept = sample(tiny_policy, tmp_path, *overrides)
    assert tally.kept == len(kept) == 4 * PROMPTS, "whatever the threshold is"
    right = [t for t in kept if t.grade is not None and t.grade.status == "correct"]
    assert rows(right) == rows(all_correct[1])
    assert all(t.reward == even(t.text, {}) for t in kept)
    assert {t.grade.status for t in kept if t.grade is not None} == {"correct", "wrong"}


def test_a_file_of_other_answers_than_the_settings_say_is_refused(tiny_policy: Path, tmp_path: Path) -> None:
    sample(tiny_policy, tmp_path, "rehearsal.keep=all_correct", "rehearsal.threshold=1")
    path = f"rehearsal.path={tmp_path / 'rehearsal.parquet'}"
    words = (*SIZE, "method=dph_f", path, "rehearsal.explore=fresh")
    right = config(tiny_policy, tmp_path, *words, "rehearsal.keep=all_correct")
    assert load_stored(right, tmp_path).rehearsal is not None
    with pytest.raises(ValueError, match=r"^rehearsal\.keep: must be 'all_correct', with which .* got 'all'"):
        load_stored(config(tiny_policy, tmp_path, *words, "rehearsal.keep=all"), tmp_path)


@pytest.mark.parametrize("threshold", [3, 4])
def test_a_prompt_is_mastered_with_at_least_threshold_correct_answers(
    threshold: int, all_correct: tuple[Tally, list[Trajectory]], tiny_policy: Path, tmp_path: Path
) -> None:
    counts = Counter(t.prompt_id for t in all_correct[1])
    mastered = [t for t in all_correct[1] if counts[t.prompt_id] >= threshold]
    tally, kept = sample(tiny_policy, tmp_path, "rehearsal.keep=all_correct", f"rehearsal.threshold={threshold}")
    assert rows(kept) == rows(mastered)
    assert tally.mastered == sum(count >= threshold for count in counts.values())


def test_one_fresh_keeps_a_new_answer_of_each_mastered_prompt_only_if_it_is_correct(
    all_correct: tuple[Tally, list[Trajectory]], tiny_policy: Path, tmp_path: Path
) -> None:
    tally, kept = sample(tiny_policy, tmp_path, "rehearsal.keep=one_fresh", "rehearsal.threshold=1")
    mastered = {t.prompt_id for t in all_correct[1]}
    assert tally.mastered == len(mastered)
    assert tally.kept == tally.mastered - tally.fresh_wrong
    assert tally.fresh_wrong > 0, "a fresh answer was not chosen for being correct"
    assert len({t.prompt_id for t in kept}) == len(kept)
    assert {t.prompt_id for t in kept} < mastered
    for t in kept:
        assert even(t.text, {}) == 1.0
        assert t.seed == answer_seed(0, f"presample-fresh/{t.prompt_id.rpartition('/')[2]}", 0)


@pytest.mark.parametrize("keep", ["one_fresh", "all_correct"])
def test_answers_without_a_verdict_are_counted_and_are_neither_right_nor_wrong(
    keep: str, tiny_policy: Path, tmp_path: Path
) -> None:
    overrides = ("task.verifier=toy_verifiers:even_or_fails", "rehearsal.threshold=1", f"rehearsal.keep={keep}")
    tally, kept = sample(tiny_policy, tmp_path, *overrides)
    assert all(sum(map(ord, t.text)) % 6 in (2, 4) for t in kept)
    assert tally.ungraded > 0
    if keep == "one_fresh":
        fresh_ungraded = tally.mastered - tally.fresh_wrong - tally.kept
        assert 0 < fresh_ungraded < tally.ungraded
        assert tally.fresh_wrong > 0


def test_prompts_too_long_are_left_out_and_counted(tiny_policy: Path, tmp_path: Path) -> None:
    overrides = ("sampling.max_prompt_tokens=10", "rehearsal.keep=all_correct", "rehearsal.threshold=1")
    tally, kept = sample(tiny_policy, tmp_path, *overrides)
    source = build(config(tiny_policy, tmp_path, *SIZE).task, 0)
    texts = [source.prompt(position).text for position in range(PROMPTS)]
    assert 0 < tally.too_long == sum(len(text) > 10 for text in texts) < PROMPTS
    assert tally.mastered <= PROMPTS - tally.too_long
    assert all(int(np.argmax(t.mask)) <= 10 for t in kept)


def test_the_answers_do_not_depend_on_how_many_prompts_are_submitted_together(
    all_correct: tuple[Tally, list[Trajectory]], tiny_policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.stored.presample.PROMPTS_AT_A_TIME", 5)
    seen: list[tuple[int, int]] = []
    cfg = config(tiny_policy, tmp_path, *SIZE, "rehearsal.keep=all_correct", "rehearsal.threshold=1")
    path = tmp_path / "rehearsal.parquet"
    tally = asyncio.run(presample(cfg, path, lambda done, total: seen.append((done, total))))
    assert seen == [(5, 12), (10, 12), (12, 12)]
    assert tally == all_correct[0]
    assert rows(list(read(path, 1, 0).trajectories)) == rows(all_correct[1])


def test_the_reference_answers_and_its_log_probs_are_stored(
    tiny_policy: Path, other_policy: Path, tmp_path: Path
) -> None:
    overrides = (f"reference_path={other_policy}", "rehearsal.keep=all_correct", "rehearsal.threshold=1")
    _, kept = sample(tiny_policy, tmp_path, *overrides)
    batch = pack([], kept)
    # The reference does not score rehearsed answers, which have stored log-probs, so these are given as explored.
    batch.route.zero_()
    reference = References(
        {"reference": {str(other_policy): 1.0}}, config=LearnerConfig(), dtype="float32", temperature=1.0, device="cpu"
    )
    stored = batch.logp_reference
    scored = reference.score(batch).logp_reference
    assert stored is not None and scored is not None
    torch.testing.assert_close(stored[batch.mask], scored[batch.mask], rtol=0, atol=1e-4)
    assert float(stored[batch.mask].mean()) < -0.1


class Interrupted(Exception):
    pass


def test_an_interrupted_presampling_goes_on_with_the_prompts_that_are_left(
    tiny_policy: Path, tmp_path: Path, all_correct: tuple[Tally, list[Trajectory]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.stored.presample.PROMPTS_AT_A_TIME", 4)
    cfg = config(tiny_policy, tmp_path, *SIZE, "rehearsal.keep=all_correct", "rehearsal.threshold=1")
    path, done = tmp_path / "rehearsal.parquet", list[int]()

    def interrupt(prompts: int, total: int) -> None:
        done.append(prompts)
        if prompts == 8:
            raise Interrupted

    with pytest.raises(Interrupted):
        asyncio.run(presample(cfg, path, interrupt))
    assert done == [4, 8] and not path.exists()
    parts = sorted(path.with_name("rehearsal.parquet.parts").iterdir())
    before = [part.stat().st_mtime_ns for part in parts]
    with pytest.raises(Interrupted):
        asyncio.run(presample(cfg, path, interrupt))
    assert [part.stat().st_mtime_ns for part in parts] == before and len(parts) == 2, "nothing is sampled twice"
    tally = asyncio.run(presample(cfg, path, lambda prompts, total: None))
    assert (tally, rows(list(read(path, batch=1, seed=0).trajectories))) == (all_correct[0], rows(all_correct[1]))
    assert not path.with_name("rehearsal.parquet.parts").exists()


def test_parts_of_other_settings_are_not_used(
    tiny_policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.stored.presample.PROMPTS_AT_A_TIME", 4)

    def interrupt(prompts: int, total: int) -> None:
        raise Interrupted

    for extra in ((), ("seed=1",), ("sampling.temperature=0.9",), ("rehearsal.threshold=2",)):
        cfg = config(tiny_policy, tmp_path, *SIZE, "rehearsal.keep=all_correct", "rehearsal.threshold=1", *extra)
        with pytest.raises(Interrupted):
            asyncio.run(presample(cfg, tmp_path / "rehearsal.parquet", interrupt))
    assert len(list((tmp_path / "rehearsal.parquet.parts").iterdir())) == 4


def test_if_no_answer_can_be_kept_the_error_has_the_tally_and_nothing_is_written(
    tiny_policy: Path, tmp_path: Path
) -> None:
    cfg = config(tiny_policy, tmp_path, *SIZE, "task.verifier=toy_verifiers:never", "rehearsal.threshold=1")
    path = tmp_path / "rehearsal.parquet"
    with pytest.raises(ValueError, match=r"^rehearsal: the reference must master some prompts, got 0 answers kept"):
        asyncio.run(presample(cfg, path, lambda done, total: None))
    assert not path.exists()


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The policy directory of every generator that is started."""
    paths: list[str] = []

    class RecordedGenerator(TransformersGenerator):
        def __init__(self, policy_path: str, **arguments: Any) -> None:
            paths.append(policy_path)
            super().__init__(policy_path, **arguments)

    monkeypatch.setattr("orchestrator.in_process.TransformersGenerator", RecordedGenerator)
    return paths


RUN = ("method=dph_f", "name=run", "steps=1", "groups_per_step=2", "sampling.group_size=2", "monitor.every=0")
STORED = ("rehearsal.batch=2", "rehearsal.keep=all_correct", "rehearsal.threshold=1")


def run_with(policy: Path, folder: Path, *overrides: str) -> tuple[Path, dict[str, Any]]:
    """Train one step; returns the run directory and the step's record."""
    cfg = config(policy, folder, *SIZE, *RUN, *STORED, *overrides)
    run_dir = asyncio.run(run_training(cfg, resume=False, log=lambda text: None))
    return run_dir, read_records(run_dir / "metrics.jsonl")[-1]


def test_a_run_starts_its_generators_once_and_presamples_with_them_what_presampling_alone_does(
    tiny_policy: Path, tmp_path: Path, loaded: list[str]
) -> None:
    run_dir, record = run_with(tiny_policy, tmp_path)
    assert loaded == [str(tiny_policy)]
    sample(tiny_policy, tmp_path, *STORED)
    assert loaded == [str(tiny_policy)] * 2
    assert pq.read_table(run_dir / "rehearsal.parquet").equals(pq.read_table(tmp_path / "rehearsal.parquet"))
    assert record["grader/graded"] == 2 * 2, "presampled answers are in no metric"


def test_a_run_reads_its_task_and_its_tokenizer_once(
    tiny_policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []

    def counted(module: str, name: str) -> None:
        function = getattr(importlib.import_module(module), name)

        def call(*arguments: Any) -> Any:
            read.append(name)
            return function(*arguments)

        monkeypatch.setattr(f"{module}.{name}", call)

    counted("orchestrator.preflight.check", "build")
    counted("orchestrator.stored.presample", "build")
    counted("orchestrator.rollout.encoding", "load_tokenizer")
    run_with(tiny_policy, tmp_path, "monitor.every=1", "monitor.answers=4", "monitor.ks=[1]")
    assert read == ["build", "load_tokenizer"], "presampling, training and measuring use what the checks read"


@pytest.mark.parametrize("written", ["", "as another path"])
def test_a_reference_path_that_is_the_starting_policy_needs_no_generators_of_its_own(
    written: str, tiny_policy: Path, tmp_path: Path, loaded: list[str]
) -> None:
    path = tiny_policy
    if written:
        path = tmp_path / "link"
        path.symlink_to(tiny_policy)
    run_with(tiny_policy, tmp_path, f"reference_path={path}")
    assert loaded == [str(tiny_policy)]


def test_a_reference_with_other_weights_is_sampled_by_the_runs_generators_which_then_load_the_policy(
    tiny_policy: Path, other_policy: Path, tmp_path: Path, loaded: list[str]
) -> None:
    reference = f"reference_path={other_policy}"
    run_dir, record = run_with(tiny_policy, tmp_path, reference)
    assert loaded == [str(other_policy)], "the engines are started once"
    assert record["mismatch_abs_log_ratio"] < 1e-4, "step 1 is sampled from the published policy"
    sample(tiny_policy, tmp_path, *STORED, reference)
    of_reference = pq.read_table(tmp_path / "rehearsal.parquet")
    sample(tiny_policy, tmp_path, *STORED)
    assert pq.read_table(run_dir / "rehearsal.parquet").equals(of_reference)
    assert not of_reference.equals(pq.read_table(tmp_path / "rehearsal.parquet"))


def test_a_reference_of_another_architecture_is_sampled_with_generators_of_its_own(
    tiny_policy: Path, tmp_path: Path, loaded: list[str]
) -> None:
    wider = make_policy(tmp_path / "wider", hidden=96)
    run_dir, record = run_with(tiny_policy, tmp_path, f"reference_path={wider}")
    assert loaded == [str(wider), str(tiny_policy)]
    assert record["mismatch_abs_log_ratio"] < 1e-4
    assert (run_dir / "rehearsal.parquet").is_file()


def test_generators_load_the_reference_first_exactly_while_it_is_still_to_be_presampled(
    tiny_policy: Path, other_policy: Path, tmp_path: Path
) -> None:
    def first(*overrides: str, resume: bool = False) -> str | None:
        reference = f"reference_path={other_policy}"
        return first_policy(config(tiny_policy, tmp_path, *SIZE, *RUN, reference, *overrides), resume=resume)

    assert first("method=grpo") == str(tiny_policy), "nothing is rehearsed"
    assert first() == first(resume=True) == str(other_policy)
    assert first("rehearsal.path=elsewhere.parquet") == str(tiny_policy)
    adapter = ("learner.lora.r=4", "generator.engine=vllm", "placement.kind=ray")
    assert first(*adapter) is None, "the engines keep their weights, and get the adapter alone"
    assert first(*adapter, "learner.lora.publish=merged") == str(other_policy)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "rehearsal.parquet").touch()
    assert first() == first(resume=True) == str(tiny_policy), "it has been presampled"
    (tmp_path / "run" / "config.yaml").write_text(to_yaml(config(tiny_policy, tmp_path, *SIZE, *RUN, "seed=5")))
    assert first() == str(other_policy), "a new run with other settings presamples again"
    assert first(resume=True) == str(tiny_policy)


def test_a_resumed_run_with_a_rehearsal_file_does_not_presample_again(
    tiny_policy: Path, tmp_path: Path, loaded: list[str]
) -> None:
    run_dir, _ = run_with(tiny_policy, tmp_path)
    before = (run_dir / "rehearsal.parquet").stat().st_mtime_ns
    cfg = config(tiny_policy, tmp_path, *SIZE, *RUN, *STORED, "steps=2")
    asyncio.run(run_training(cfg, resume=True, log=lambda text: None))
    assert (run_dir / "rehearsal.parquet").stat().st_mtime_ns == before
    assert loaded == [str(tiny_policy)] * 2


def test_presampling_with_generators_that_serve_published_weights_is_refused(tiny_policy: Path, tmp_path: Path) -> None:
    cfg = config(tiny_policy, tmp_path, *SIZE, *STORED)

    async def body() -> None:
        roles = await cluster.start(cfg, ["generator", "grader", "learner"])
        try:
            assert roles.learner is not None
            await roles.learner.connect(roles.generators)
            await roles.learner.publish(0)
            async with Rollouts(roles.generators, roles.graders, cfg.generator.timeout_s) as rollouts:
                source, encode = build(cfg.task, cfg.seed), PromptEncoder(cfg.policy)
                await presample_with(
                    rollouts, source, encode, cfg, tmp_path / "rehearsal.parquet", lambda done, total: None
                )
        finally:
            await roles.close()

    with pytest.raises(AssertionError, match="serve published weights"):
        asyncio.run(body())
    assert not (tmp_path / "rehearsal.parquet").exists()
