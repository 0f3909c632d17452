"""The state of a training run between two steps: what a checkpoint holds besides policy, optimizer and references.

Seeds are functions of positions, so there is no random state to keep.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from configs.config import Config
from objectives.coefficient.controllers import ObjectiveState, initial_state


@dataclass(frozen=True, kw_only=True)
class Best:
    """The measurement with the highest `checkpoint.best_metric` so far."""

    step: int
    value: float


@dataclass(frozen=True, kw_only=True)
class RunState:
    """State of a run after `step` optimizer steps.

    Example: RunState(step=40, position=1280, trained=(), measured=True,
    objective=ObjectiveState(coefficients={"divergence": 0.1}), drift={"slow": 0.02}, wandb_id="1f0c22ab",
    best=Best(step=20, value=0.41))
    """

    step: int
    position: int
    """Position in the train stream from which prompts are still to be trained on."""
    trained: tuple[int, ...]
    """Later positions that were trained on already, in ascending order; only with `take=any_order`."""
    measured: bool
    """Whether the held-out measurement of this step is done, if one is due."""
    objective: ObjectiveState
    drift: Mapping[str, float]
    """Smoothed KL per token to each reference that follows the policy, since its last update, in nats."""
    wandb_id: str | None
    """W&B id of the run; None until the logbook has made one."""
    best: Best | None
    """None until a measurement has the metric."""

    @classmethod
    def initial(cls, cfg: Config) -> "RunState":
        """Return the state before the first step."""
        after_presampled = cfg.objective.rehearses and cfg.rehearsal.explore == "fresh"
        return cls(
            step=0,
            position=cfg.rehearsal.prompts if after_presampled else 0,
            trained=(),
            measured=False,
            objective=initial_state(cfg.objective, cfg.steps),
            drift={},
            wandb_id=None,
            best=None,
        )

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "RunState":
        """Read a state that `to_json` wrote. Raises ValueError, naming the field, if it is malformed."""
        try:
            saved = json.loads(text)
        except RecursionError:
            raise ValueError(f"must be JSON, nested less deeply, got {text[:80]!r}") from None
        names = [field.name for field in fields(cls)]
        if not isinstance(saved, dict) or set(saved) != set(names):
            raise ValueError(f"must be an object with the keys {', '.join(names)}, got {text[:80]!r}")
        best = saved["best"]
        has_both = isinstance(best, dict) and set(best) == {"step", "value"}
        valid_best = best is None or (has_both and _is_count(best["step"]) and _is_number(best["value"]))
        drift = saved["drift"]
        trained = saved["trained"]
        valid_trained = isinstance(trained, list) and all(map(_is_count, trained))
        valid_drift = isinstance(drift, dict) and all(map(_is_number, drift.values()))
        for name, valid, rule in (
            ("step", _is_count(saved["step"]), "an integer of at least 0"),
            ("position", _is_count(saved["position"]), "an integer of at least 0"),
            ("trained", valid_trained, "a list of integers of at least 0"),
            ("measured", isinstance(saved["measured"], bool), "true or false"),
            ("drift", valid_drift, "an object of numbers"),
            ("wandb_id", isinstance(saved["wandb_id"], str | None), "a string or null"),
            ("best", valid_best, "null, or an integer step and a value"),
        ):
            if not valid:
                raise ValueError(f"{name}: must be {rule}, got {saved[name]!r}")
        try:
            objective = ObjectiveState.restored(saved["objective"])
        except (TypeError, KeyError, AttributeError, ValueError) as error:
            raise ValueError(f"objective: must be a saved ObjectiveState ({type(error).__name__}: {error})") from None
        if not all(map(_is_number, objective.coefficients.values())):
            raise ValueError(f"objective: must have numbers as coefficients, got {dict(objective.coefficients)}")
        read = {"trained": tuple(trained), "objective": objective, "best": None if best is None else Best(**best)}
        return cls(**{**saved, **read})


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
