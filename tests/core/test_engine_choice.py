"""`auto` follows the measured rules: exact on heads, differences elsewhere, central ones where activations have kinks."""

import timm
import torch
from torch import nn

from tasks.core.differences import full_precision
from tasks.core.engine_choice import choose_engine


def test_the_engine_follows_the_network():
    assert choose_engine(nn.Linear(2, 2), is_encoder_frozen=True) == "double_backward"
    found = {
        name: choose_engine(timm.create_model(name), is_encoder_frozen=False) for name in ("test_nfnet", "test_vit", "mobilenetv2_035")
    }
    assert found == {"test_nfnet": "forward_difference", "test_vit": "forward_difference", "mobilenetv2_035": "central_difference"}


def test_full_precision_gives_the_settings_back():
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    with full_precision():
        assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == ("highest", False)
    assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == before
