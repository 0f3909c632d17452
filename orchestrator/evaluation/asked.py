"""The tasks of an evaluation: that of the run first, then `evaluate.tasks`, each with its prompts and samplings."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

from configs.config import Config
from configs.evaluate import EvaluateConfig
from configs.heldout import Decoding, HeldOutSampling
from configs.heldout_task import HeldOutTaskConfig
from configs.task import TaskConfig
from orchestrator.preflight.evaluation import Posed, check_evaluation
from tasks.options import section_named


@dataclass(frozen=True)
class Asked:
    """One task, and how it is measured."""

    name: str
    """Its name in `evaluate.tasks`; "" for the task of the run."""
    task: TaskConfig
    evaluate: EvaluateConfig
    """Answers, k and samplings of this task."""
    decodings: Mapping[str, list[Decoding]]
    """As `EvaluateConfig.decodings` returns them."""
    posed: Posed

    @property
    def frontier(self) -> list[Decoding]:
        """Further decodings at which the base alone is measured."""
        of_names = self.decodings.values()
        return [replace(of_name[0], temperature=t) for of_name in of_names for t in self.evaluate.frontier]

    def wanted(self, *, is_base: bool) -> list[Decoding]:
        """Return the decodings at which a policy is measured, each once."""
        own = [decoding for of_name in self.decodings.values() for decoding in of_name]
        return list(dict.fromkeys([*own, *(self.frontier if is_base else [])]))

    def answers(self, decoding: Decoding) -> int:
        """Return the answers to each prompt that are generated: one at temperature 0, where all are equal."""
        return self.evaluate.answers if decoding.temperature > 0 else 1


def asked_tasks(cfg: Config, checkpoints: Mapping[str, str], log: Callable[[str], None]) -> list[Asked]:
    """Check the held-out prompts of every task for every policy, and return the tasks. Raises as `check_evaluation`."""
    posed = check_evaluation(cfg, cfg.task, checkpoints, log)
    own = Asked("", cfg.task, cfg.evaluate, cfg.evaluate.decodings(cfg.sampling), posed)
    found = [own]
    for name, task in cfg.evaluate.tasks.items():
        with section_named(f"evaluate.tasks.{name}"):
            further = check_evaluation(cfg, task, checkpoints, partial(_of_task_line, name, log), posed.encoders)
        first = next(iter(own.decodings.values()))[0]
        decoding = task.decoding(HeldOutSampling(**first.plain()), cfg.sampling)
        evaluate = _of_task(cfg.evaluate, task, HeldOutSampling(**decoding.plain()))
        found.append(Asked(name, task, evaluate, evaluate.decodings(cfg.sampling), further))
    return found


def _of_task_line(name: str, log: Callable[[str], None], text: str) -> None:
    log(f"{name}: {text}")


def _of_task(evaluate: EvaluateConfig, task: HeldOutTaskConfig, sampling: HeldOutSampling) -> EvaluateConfig:
    """Return the settings with which a further task is measured, in one sampling."""
    return replace(
        evaluate,
        answers=task.resolved_answers(evaluate.answers),
        ks=task.resolved_ks(evaluate.answers, evaluate.ks),
        headline_k=0,
        temperatures=[],
        samplings={"": sampling},
        tasks={},
        extraction="",
        frontier=[],
        kl_to_base=False,
    )
