"""`auto` follows the measured rules: exact on heads and where differences fail and memory allows
it, central differences elsewhere.
"""

import math

from tasks.core.hypergradient.engine_choice import Facts, explain_engine


def choose_engine(**known):
    return explain_engine(**known)[0]


def test_the_engine_is_exact_on_heads_and_a_central_difference_elsewhere():
    assert choose_engine(is_encoder_frozen=True) == "double_backward"
    assert choose_engine(is_encoder_frozen=False) == "central_difference"


def test_the_error_of_differences_decides():
    assert choose_engine(is_encoder_frozen=False, facts=Facts(1e-2)) == "central_difference"
    assert choose_engine(is_encoder_frozen=False, facts=Facts(2.0)) == "double_backward"
    assert choose_engine(is_encoder_frozen=False, facts=Facts(math.nan)) == "double_backward"
    assert choose_engine(is_encoder_frozen=True, facts=Facts(1e-2)) == "double_backward"


def test_memory_decides_where_differences_fail():
    fits, needs_more = (Facts(2.0, exact_bytes=size, memory_bytes=2**30) for size in (2**29, 2**31))
    assert choose_engine(is_encoder_frozen=False, facts=fits) == "double_backward"
    assert explain_engine(is_encoder_frozen=False, facts=needs_more) == (
        "central_difference",
        "its gradient is off by 2e+00 on a few pairs, but the exact one needs 2.0 GiB of 1.0",
    )


def test_a_network_without_second_derivatives_gets_differences():
    engine, reason = explain_engine(
        is_encoder_frozen=False, facts=Facts(None, "no derivative of that")
    )
    assert engine == "central_difference" and "no derivative of that" in reason
