"""The networks `double_block`: sides at each level, the skip, what is refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.autograd import gradgradcheck

from models.networks.double_block import DoubleBlock, double_block_decoder, double_block_encoder

INWARDS = {28: [28, 14, 7, 3], 32: [32, 16, 8, 4], 64: [64, 32, 16, 8]}
OUTWARDS = {28: [6, 12, 28], 32: [8, 16, 32], 64: [16, 32, 64]}


def sides(network: nn.Module, inputs: torch.Tensor) -> list[int]:
    """Of what leaves each block."""
    found: list[int] = []
    for block in network.modules():
        if isinstance(block, DoubleBlock):
            block.register_forward_hook(lambda *call: found.append(call[-1].shape[-1]))
    network(inputs)
    return found


@pytest.mark.parametrize("side", INWARDS)
def test_sides_are_halved_inwards_and_doubled_outwards(side):
    shape = (3 if side == 64 else 1, side, side)
    encoder = double_block_encoder(shape)
    assert sides(encoder, torch.rand(2, *shape)) == INWARDS[side]
    assert encoder.num_features == 64 * (side // 8) ** 2
    decoder = double_block_decoder(5, shape, 2)
    assert sides(decoder, torch.randn(2, 5)) == OUTWARDS[side]
    assert decoder(torch.randn(2, 5)).shape == (2, 2, *shape)


@pytest.mark.parametrize(("num_inputs", "num_outputs"), [(2, 5), (5, 2), (3, 3)])
def test_a_block_without_weights_hands_on_what_comes_in(num_inputs, num_outputs):
    block = DoubleBlock(num_inputs, num_outputs, "gelu")
    for parameter in block.parameters():
        nn.init.zeros_(parameter)
    x = torch.randn(2, num_inputs, 4, 4)
    out, shared = block(x), min(num_inputs, num_outputs)
    assert out.shape == (2, num_outputs, 4, 4)
    assert torch.equal(out[:, :shared], x[:, :shared])
    assert (out[:, shared:] == 0).all()


def test_the_decoder_can_be_differentiated_twice():
    decoder = double_block_decoder(2, (1, 4, 4), 1, channels=[2, 3]).double()
    z = torch.randn(1, 2, dtype=torch.float64, requires_grad=True)
    assert gradgradcheck(lambda leaf: decoder(leaf).square().sum(), (z,))


@pytest.mark.parametrize(
    "make", [double_block_encoder, lambda shape: double_block_decoder(2, shape, 1)]
)
def test_images_that_are_too_small_are_refused(make):
    with pytest.raises(ValueError, match="at least 8 for 4 channels"):
        make((1, 7, 28))
