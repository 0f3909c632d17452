"""Environment variables of the actors: which ones `placement.environment` may set."""

import re
from collections.abc import Mapping

from configs.checks import nearest, require

ROLES = ("all", "generator", "learner", "reference", "grader")
ALLOWED = (
    "NCCL_", "TORCH_NCCL_", "GLOO_", "UCX_", "FI_", "RDMAV_", "VLLM_", "CUDA_", "PYTORCH_", "TORCHINDUCTOR_", "TRITON_",
    "OMP_", "KMP_", "MKL_", "MALLOC_",
)  # fmt: skip
"""Beginnings of the names that may be set: network, GPU and threads. config.yaml and W&B keep the settings, so that
keys and passwords, of which the names are not here, must come from `breadth submit --secret` or the environment of the
nodes."""
REFUSED = {
    "CUDA_VISIBLE_DEVICES": "Ray sets it to the GPUs that an actor reserves",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "the engine runs in its actor's process",
}
"""Names that begin so and may not be set, with the reason."""
NAME = re.compile("[A-Z][A-Z0-9_]*")


def require_environment(environment: Mapping[str, Mapping[str, str]]) -> None:
    """Raise ValueError for an unknown role, or a variable that may not be set."""
    for role, variables in environment.items():
        rule = f"must have roles of {', '.join(ROLES)}{nearest(role, ROLES)}"
        require(role in ROLES, "environment", rule, role)
        for name in variables:
            field = f"environment.{role}.{name}"
            require(name not in REFUSED, field, f"must be left out: {REFUSED.get(name)}", variables[name])
            rule = f"must be the name of a variable that begins with one of {', '.join(ALLOWED)}"
            require(bool(NAME.fullmatch(name)) and name.startswith(ALLOWED), field, rule, name)
