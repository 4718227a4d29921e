"""`auto` follows the measured rules: exact on heads, central differences elsewhere."""

import torch

from tasks.core.differences import full_precision
from tasks.core.engine_choice import choose_engine


def test_the_engine_is_exact_on_heads_and_a_central_difference_elsewhere():
    assert choose_engine(is_encoder_frozen=True) == "double_backward"
    assert choose_engine(is_encoder_frozen=False) == "central_difference"


def test_full_precision_gives_the_settings_back():
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    with full_precision():
        assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == ("highest", False)
    assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == before
