"""Build the roles of a run in this process."""

from functools import partial

from actors.generation.transformers_engine import TransformersGenerator
from actors.grader import PooledGrader
from actors.learning.learner import FsdpLearner
from actors.local import LocalGenerator, LocalLearner, LocalReference
from actors.reference import References
from orchestrator.cluster import Roles
from orchestrator.constructors import (
    generator_arguments,
    grader_arguments,
    learner_arguments,
    reference_arguments,
)
from orchestrator.references import with_learner


def build(roles: Roles) -> None:
    """Build every role of `roles.names`. If one fails, the others are in `roles`, to be closed."""
    cfg, names = roles.cfg, roles.names
    if "generator" in names:
        for number in range(cfg.placement.generators):
            arguments = generator_arguments(cfg, roles.policy)
            build = partial(TransformersGenerator, **arguments)
            roles.generators.append(LocalGenerator(build, f"generator {number}"))
    if "grader" in names:
        roles.graders = [PooledGrader(**grader_arguments(cfg)) for _ in range(cfg.placement.graders)]
    if "reference" in names:
        roles.reference = LocalReference(References(**reference_arguments(cfg, roles.references)))
    if "learner" in names:
        learner = FsdpLearner(**learner_arguments(cfg))
        learner.join()
        roles.learner = LocalLearner(learner, checksum=cfg.generator.checksum)
        roles.reference = with_learner(cfg, roles.learner, roles.reference)
