"""Pieces of a policy's weights: whole layers, bounded bytes, every tensor once."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from actors.policy_files.reading import load_model
from actors.weights.file_names import as_in_files, unit
from actors.weights.host import info_of, named_views, size_of, weights_info
from actors.weights.pieces import pieces_of
from tests.conftest import make_mixture_of_experts, make_policy


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("make", [make_policy, make_mixture_of_experts])
def test_pieces_hold_every_tensor_once_within_the_limit_and_divide_no_layer(
    tmp_path: Path, make: Any, dtype: torch.dtype
) -> None:
    model = load_model(str(make(tmp_path / "policy")), dtype)
    named = list(as_in_files(model, model.named_parameters()))
    info = weights_info(named)
    layers = [size_of(weights_info(as_in_files(model, model.model.layers[0].named_parameters())))]
    for limit in (1, 3 * layers[0], size_of(info)):
        pieces = pieces_of(model, dtype, limit)
        bounds = [piece.tensors for piece in pieces]
        assert bounds[0][0] == 0 and bounds[-1][1] == len(named)
        assert all(end == first for (_, end), (first, _) in pairwise(bounds))
        units = [{unit(name) for name in piece.parameters} for piece in pieces]
        assert sum(map(len, units)) == len(set().union(*units)), "a layer is in two pieces"
        for piece, own in zip(pieces, units, strict=True):
            part = info_of(info, piece.tensors)
            assert size_of(part) <= limit or len(own) == 1
            parameters = [(name, p) for name, p in model.named_parameters() if name in piece.parameters]
            packed = piece.packed(info, as_in_files(model, parameters), 4, True)
            views = dict(named_views(part, packed.data))
            whole = dict(named[slice(*piece.tensors)])
            assert views.keys() == whole.keys()
            assert all(torch.equal(views[name], tensor) for name, tensor in whole.items())
    assert len(pieces) == 1 and len(pieces_of(model, dtype)) == 1
