"""Tensors as arrays: the same values, in memory whose alignment does not depend on the message they came in."""

import numpy as np
import pytest
import torch

from trajectories.arrays import ArrayOf, to_array, to_tensor

ALIGNMENT = 64
"""Bytes; that of torch's allocator on a CPU."""


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool])
@pytest.mark.parametrize("shape", [(5,), (3, 4), (0,), (0, 4)])
def test_a_tensor_comes_back_with_its_dtype_shape_and_values(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    tensor = (torch.arange(torch.Size(shape).numel()) % 3).view(shape).to(dtype)
    found = to_tensor(to_array(tensor))
    assert found.dtype == dtype and found.shape == shape and torch.equal(found, tensor)


@pytest.mark.parametrize("offset", range(0, ALIGNMENT, 4))
@pytest.mark.parametrize("writable", [True, False])
def test_a_matrix_product_has_the_same_bits_wherever_its_input_lay_in_a_message(offset: int, writable: bool) -> None:
    draw = torch.Generator().manual_seed(0)
    states, head = torch.randn(7, 33, generator=draw), torch.randn(128, 33, generator=draw)
    memory = np.zeros(states.nbytes + 2 * ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT + offset
    data = memory[start : start + states.nbytes].reshape(7, -1)
    data[...] = to_array(states).data
    data.flags.writeable = writable
    found = to_tensor(ArrayOf(data, "float32"))
    assert found.data_ptr() % ALIGNMENT == 0
    assert torch.equal(found @ head.T, states @ head.T)
    data.flags.writeable = True
    data[...] = 0
    assert torch.equal(found, states), "a copy"
