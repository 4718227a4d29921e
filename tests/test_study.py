"""What a study counts as operations is what PyTorch counts."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from tasks.core.networks.dual_encoder import build_dual_encoder
from tasks.settings.studies import Head
from tasks.study import operations

PAIRS, OUT_DIM, TEXT_DIM = 5, 13, 7


@pytest.mark.parametrize("hidden_layers", [0, 1, 2])
def test_operations_are_those_of_the_layers_forward_and_twice_backward(hidden_layers):
    head = Head(11, hidden_layers, 0.1, 0.07)
    model = build_dual_encoder(
        nn.Identity(),
        out_dim=OUT_DIM,
        text_dim=TEXT_DIM,
        trainable="heads",
        embed_dim=head.embed_dim,
        dropout=0.0,
        seed=0,
        hidden_layers=hidden_layers,
    )
    # With a gradient, as inner layers have one: that of the inputs is counted for all alike
    images = torch.randn(PAIRS, OUT_DIM, requires_grad=True)
    texts = torch.randn(PAIRS, TEXT_DIM, requires_grad=True)
    with FlopCounterMode(display=False) as counted:
        img, txt = model(images, texts)
        (img.sum() + txt.sum()).backward()
    assert counted.get_total_flops() == PAIRS * operations(head, (OUT_DIM, TEXT_DIM))
