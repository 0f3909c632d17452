"""A small policy and reference to enumerate, and every divergence setting the config allows."""

from typing import get_args

import torch
from ragged_batch import divergence

from configs.objective_schema import DivergenceConfig, DivergenceName, Estimator

NAMES = [name for name in get_args(DivergenceName) if name != "none"]
POLICY = torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64)
REFERENCE = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)


def settings() -> list[DivergenceConfig]:
    allowed = []
    for name in NAMES:
        for samples, wiring in (("on_policy", "loss"), ("on_policy", "reward"), ("rehearsal", "loss")):
            for estimator in get_args(Estimator):
                try:
                    allowed.append(divergence(name, samples=samples, wiring=wiring, estimator=estimator))
                except ValueError:
                    continue
    return allowed


def label(cfg: DivergenceConfig) -> str:
    return f"{cfg.name}-{cfg.samples}-{cfg.wiring}-{cfg.estimator}"
