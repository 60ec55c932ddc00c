from torch import nn

from segdistill.networks.size import count_macs, count_parameters
from tests.networks.tiny import tiny_network


def test_parameters_are_counted_frozen_or_not() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
    model[0].requires_grad_(False)
    assert count_parameters(model) == 3 * 8 * 9 + 8 + 16


def test_macs_of_a_network_by_hand() -> None:
    network = tiny_network().train()
    # 4x4 convolution to 8 channels at 8 x 16, 2x2 to 16 at 4 x 8, 1x1 to 5 classes.
    expected = 3 * 8 * 16 * (8 * 16) + 8 * 16 * 4 * (4 * 8) + 16 * 5 * (4 * 8)
    assert count_macs(network, (32, 64)) == expected
    assert network.model.dropout.training


def test_macs_of_grouped_convolution_and_matrix_product() -> None:
    assert count_macs(nn.Conv2d(8, 8, 3, groups=8, padding=1), 10, in_channels=8) == 8 * 9 * 100
    assert count_macs(nn.Sequential(nn.Flatten(), nn.Linear(300, 7)), 10, in_channels=3) == 300 * 7
