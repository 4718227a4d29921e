"""Errors of libraries become one message; those of files and memory stay what they are."""

import pytest
import torch

from tasks.core.networks.libraries import said


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (AssertionError("Input height (32)"), r"x cannot: Input height \(32\); change y"),
        (ValueError("\n  first.\nsecond"), "x cannot: first; change y"),
        (KeyError(), "x cannot: KeyError; change y"),
        (ImportError("no peft"), "x cannot without a library that is not there: no peft; install"),
    ],
)
def test_what_a_library_says_is_one_line(error, message):
    with pytest.raises(ValueError, match=message) as raised, said("x cannot", "change y"):
        raise error
    assert "\n" not in str(raised.value) and raised.value.__cause__ is error


@pytest.mark.parametrize("kind", [OSError, MemoryError, torch.OutOfMemoryError, KeyboardInterrupt])
def test_what_the_system_says_passes(kind):
    with pytest.raises(kind), said("x cannot", "change y"):
        raise kind()
