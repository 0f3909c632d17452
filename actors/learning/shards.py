"""Write the parts of tensors that each learner rank holds as one file per rank, and read them on any number of ranks.

A file's tensors are parts of the whole ones: `weights/model.norm.weight@128` is the part that begins at element 128.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate

from actors.policy_files.weights import TensorFiles, part_of
from actors.policy_files.writing import host_copy

Part = tuple[str, tuple[slice, ...]]
"""Name of a part in the files, and where in the whole tensor it lies."""


def rank_file(rank: int, ranks: int) -> str:
    """Return the name of the file of a rank."""
    return f"rank-{rank:05d}-of-{ranks:05d}.safetensors"


def missing_ranks(folder: Path) -> list[str]:
    """Return the names of the files of ranks that a folder of parts lacks. The names of the others tell how many there
    should be; at least one."""
    here = list(folder.glob("rank-*-of-*.safetensors"))
    ranks = max((int(path.stem.rpartition("-")[2]) for path in here), default=1)
    return sorted({rank_file(rank, ranks) for rank in range(ranks)} - {path.name for path in here})


def held_parts(state: Mapping[str, Tensor], rank: int) -> dict[str, Tensor]:
    """Copy to host memory what this rank holds of the tensors and must write: no two ranks write the same part."""
    parts = {}
    for name, tensor in state.items():
        local, part = part_of(tensor)
        if local.numel() and _writes(tensor, rank):
            at = ",".join(str(place.start) for place in part)
            parts[f"{name}@{at}"] = host_copy(local, local.dtype)
    return parts


def _writes(tensor: Tensor, rank: int) -> bool:
    """Return whether this rank is the first that holds its part of the tensor."""
    if not isinstance(tensor, DTensor):
        return rank == 0
    coordinate = tensor.device_mesh.get_coordinate()
    assert coordinate is not None
    return all(
        place == 0 or not isinstance(placement, Replicate)
        for place, placement in zip(coordinate, tensor.placements, strict=True)
    )


class Shards:
    """The tensors in a folder of parts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files = TensorFiles(sorted(folder.glob("*.safetensors")), f"checkpoint {folder.parent}")
        self.parts: dict[str, list[Part]] = {}
        for name in self.files.of:
            whole, _, at = name.rpartition("@")
            starts = [int(start) for start in at.split(",") if start]
            place = tuple(slice(a, a + n) for a, n in zip(starts, self.files.shape(name), strict=True))
            self.parts.setdefault(whole, []).append((name, place))

    def holds(self, beginning: str) -> bool:
        """Return whether there is a tensor whose name begins so."""
        return any(name.startswith(beginning) for name in self.parts)

    @torch.no_grad()
    def read(self, state: Mapping[str, Tensor]) -> None:
        """Copy the tensors into those of `state`, of which this rank may hold a part.

        Raises:
            ValueError: a tensor is not there, or has another shape.
        """
        for name, tensor in state.items():
            parts = self.parts.get(name, [])
            shape = tuple(max(ends) for ends in zip(*([s.stop for s in place] for _, place in parts), strict=True))
            if not parts or shape != tensor.shape:
                rule = "must be of a learner with the same value heads (objective.advantage, objective.critic.heads)"
                got = f"{name} of shape {shape}" if parts else f"no {name}"
                raise ValueError(f"checkpoint {self.folder.parent}: {rule}, got {got}")
            self._fill(tensor, parts)

    def _fill(self, tensor: Tensor, parts: list[Part]) -> None:
        local, wanted = part_of(tensor)
        filled = 0
        for name, place in parts:
            common = [slice(max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(wanted, place, strict=True)]
            if any(s.stop <= s.start for s in common):
                continue
            inside = tuple(slice(c.start - w.start, c.stop - w.start) for c, w in zip(common, wanted, strict=True))
            there = tuple(slice(c.start - p.start, c.stop - p.start) for c, p in zip(common, place, strict=True))
            target = local[inside]
            target.copy_(self.files.read(name, there) if there else self.files.read(name))
            filled += target.numel()
        if filled != local.numel():
            raise ValueError(f"checkpoint {self.folder.parent}: the file of a rank is missing in {self.folder}")
