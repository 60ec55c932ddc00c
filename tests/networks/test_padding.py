import torch

from segdistill.networks.padding import pad_to_multiple


def test_the_edge_is_repeated() -> None:
    for dtype in (torch.uint8, torch.float32):
        images = torch.tensor([[[[1, 2], [3, 4], [5, 6]]]], dtype=dtype)
        expected = torch.tensor([[[[1, 2, 2, 2], [3, 4, 4, 4], [5, 6, 6, 6], [5, 6, 6, 6]]]], dtype=dtype)
        assert torch.equal(pad_to_multiple(images, 4), expected)


def test_a_size_that_fits_is_left_alone() -> None:
    images = torch.rand(1, 3, 64, 32)
    assert pad_to_multiple(images, 32) is images
