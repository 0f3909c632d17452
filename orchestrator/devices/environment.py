"""Environment variables of the actors, which libraries read when they are imported or first used."""

import os
from collections.abc import Mapping, Sequence

from configs.config import Config
from configs.hub import policy_name
from orchestrator.commands.paths import split_name
from orchestrator.placement import threads
from orchestrator.submission.runtime import ROLES_VARIABLE

COMMON = {"TOKENIZERS_PARALLELISM": "false"}
"""Of every actor."""
OFFLINE = {"HF_HUB_OFFLINE": "1"}
"""Of every actor of a run whose policies are all directories, so that no library asks the Hub about them."""
HUB_TOKEN = "HF_TOKEN"
"""With which a role on another node fetches a gated or private policy."""
CPU = {
    # Threads that wait actively take the cores from the other roles, and make them and themselves several times slower.
    "OMP_WAIT_POLICY": "passive",
    "KMP_BLOCKTIME": "0",
    "TORCH_COMPILE_DISABLE": "1",
}
"""Of every role on a CPU."""
VLLM = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "WARNING"}
VLLM_CPU = {"VLLM_CPU_OMP_THREADS_BIND": "nobind"}
EXPANDABLE = {"PYTORCH_ALLOC_CONF": "expandable_segments:True"}
"""Of learners and references on a GPU: microbatches differ in size, and segments of fixed sizes fragment the memory.

Not with `generator.transfer=ipc`: opening memory of such segments in another process is about 9 times as slow. Not of
generators either: vLLM's memory for sleeping engines turns it off, and its other memory hardly changes in size.
"""

OTHER_NAMES = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF")
"""Older names of `PYTORCH_ALLOC_CONF`."""


def environment(cfg: Config, role: str, *, gpu: bool, names: Sequence[str], cores: int) -> dict[str, str]:
    """Return the environment variables of the actors of a role: the defaults, then `placement.environment`.

    Args:
        gpu: whether the actor has a GPU.
        names: the roles that are started.
        cores: of this machine, if the cluster is its own; 0 otherwise.
    """
    given = cfg.placement.environment
    found = COMMON | ({} if _names_hub(cfg) else OFFLINE)
    if gpu:
        found["OMP_NUM_THREADS"] = str(max(1, int(getattr(cfg.placement, f"cpus_per_{role}"))))
    else:
        found |= CPU | {"OMP_NUM_THREADS": str(threads(cfg, role, names, cores))}
    if role == "generator" and cfg.generator.engine == "vllm":
        found |= VLLM | ({} if gpu else VLLM_CPU)
    own = given.get("all", {}) | given.get(role, {})
    # torch ignores the other names of this variable where it has this one.
    named = not own.keys().isdisjoint(OTHER_NAMES)
    if gpu and role != "generator" and cfg.generator.transfer != "ipc" and not named:
        found |= EXPANDABLE
    return found | own


def secrets(cfg: Config, role: str, given: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the variables of this process that the actors of a role get without Ray knowing them as variables.

    Ray shows the variables of an actor to everyone who can list actors, so these are sent in the call that builds the
    role. Every role gets those that `breadth submit --secret` names: only the user knows whose code needs them. Roles
    that load policies get the token of the Hub, too, if a policy is named by a repository. A grader, beside which
    programs of the policy run, loads none.
    """
    names = {name for name in given.get(ROLES_VARIABLE, "").split(",") if name}
    if role != "grader" and _names_hub(cfg):
        names.add(HUB_TOKEN)
    return {name: given[name] for name in sorted(names) if given.get(name)}


def _names_hub(cfg: Config) -> bool:
    """Return whether a policy is named by a repository of the Hub: a role on another node has to fetch it."""
    paths = [cfg.policy.path, cfg.reference_path, *(split_name(item)[1] for item in cfg.evaluate.checkpoints)]
    paths += [path for reference in cfg.references.values() for path in (reference.path, *reference.soup)]
    return any(policy_name(path) is not None for path in paths)
