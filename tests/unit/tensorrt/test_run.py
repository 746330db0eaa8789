"""What a TensorRT engine is given."""

import torch

from changenet.tensorrt.run import ALIGNMENT, _aligned


def test_a_slice_that_begins_at_an_odd_address_is_copied_and_others_are_not() -> None:
    floats = torch.arange(1000.0)
    first = next(place for place in range(1000) if floats[place:].data_ptr() % ALIGNMENT == 0)
    aligned, odd = floats[first : first + 8], floats[first + 1 : first + 9]
    assert _aligned(aligned).data_ptr() == aligned.data_ptr()
    assert _aligned(odd).data_ptr() != odd.data_ptr()
    assert torch.equal(_aligned(odd), odd)
    assert _aligned(torch.ones(4, 4).T).is_contiguous()
