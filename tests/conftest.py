"""Fixtures of the tests that run the whole pipeline, and what every test leaves as it found it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.workspace import Workspace, make_workspace

OWN = "PYTEST_CURRENT_TEST"  # pytest's


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that start programs: begun last, one of them would keep a worker busy
    while the others have nothing left.
    """
    slow = {item.path for item in items if item.get_closest_marker("services")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name bytes by their argument: those of an archive hold the time of day, and workers that
    collect at different seconds must find the same tests.
    """
    return argname if isinstance(val, bytes) else None


@pytest.fixture(autouse=True)
def environment_kept() -> Iterator[None]:
    """Undo what code under test writes into `os.environ` (`flows.services.session` does), which
    later tests' processes would inherit.
    """
    before = {name: value for name, value in os.environ.items() if name != OWN}
    yield
    for name in set(os.environ) - set(before) - {OWN}:
        del os.environ[name]
    os.environ.update(before)


@pytest.fixture
def workspace(tmp_path) -> Workspace:
    """A fresh copy of the repository with tiny sizes; nothing is computed yet."""
    return make_workspace(tmp_path / "copy")
