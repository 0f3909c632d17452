"""Start Breadth, and make its packages the ones that are imported by their names.

Breadth's packages have common names, such as `rewards` and `tasks`, and so have files of users: a file of that name in
the working directory, or on PYTHONPATH, as the working directory of a Ray job is, would be imported in their place.
This module has a name of its own, so every process of Breadth loads it first: the command `breadth`, Ray's workers and
the worker processes of verifiers.
"""

import importlib
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

PACKAGES = ("actors", "configs", "objectives", "orchestrator", "rewards", "tasks", "trajectories")
ROOT = str(Path(__file__).resolve().parent)


class OwnPackages:
    """Finder of `sys.meta_path` that finds PACKAGES beside this file, and nothing else."""

    @classmethod
    def find_spec(
        cls, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return PathFinder.find_spec(name, [ROOT]) if name in PACKAGES else None


def own_packages_first() -> None:
    """Make imports of PACKAGES in this process find those of Breadth, whatever `sys.path` holds."""
    if OwnPackages not in sys.meta_path:
        sys.meta_path.insert(0, OwnPackages)


def main() -> int:
    """Run the command `breadth` and return its exit status."""
    own_packages_first()
    status: int = importlib.import_module("orchestrator.commands.cli").main()
    return status


if __name__ == "__main__":
    sys.exit(main())
