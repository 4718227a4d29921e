"""What can heal is tried again, and nothing else."""

from __future__ import annotations

import errno

import pytest

from flows import policy

HEALING = (ConnectionError("reset"), TimeoutError("slow"), OSError(errno.EIO, "input/output"))
LASTING = (
    ValueError("shape"),
    FileNotFoundError(errno.ENOENT, "x"),
    OSError(errno.ENOSPC, "full"),
    MemoryError(),
)


@pytest.mark.parametrize("error", HEALING)
def test_what_can_heal_is_tried_again(error):
    errors = [error, error]

    def make(number):
        if errors:
            raise errors.pop()
        return number

    assert policy.heals(error)
    assert policy.retried(make, (0.0, 0.0))(3) == 3


def test_a_third_failure_is_raised():
    with pytest.raises(TimeoutError):
        policy.retried(_fail, (0.0, 0.0))(TimeoutError())


@pytest.mark.parametrize("error", LASTING)
def test_what_stays_wrong_is_raised_at_once(error):
    assert not policy.heals(error)
    with pytest.raises(type(error)):
        policy.retried(_fail, (1e9,))(error)


def _fail(error):
    raise error
