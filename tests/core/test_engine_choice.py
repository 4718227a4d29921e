"""`auto` follows the measured rules: exact on heads, central differences elsewhere."""

from tasks.core.engine_choice import choose_engine


def test_the_engine_is_exact_on_heads_and_a_central_difference_elsewhere():
    assert choose_engine(is_encoder_frozen=True) == "double_backward"
    assert choose_engine(is_encoder_frozen=False) == "central_difference"
