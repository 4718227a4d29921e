"""The sweep that faults are compared with."""

from __future__ import annotations

import pytest

from tests.faults import sweeps
from tests.workspace import Workspace


@pytest.fixture(scope="session")
def made(tmp_path_factory) -> Workspace:
    """A workspace in which the sweep of tests/faults/sweeps.py has run, undisturbed."""
    return sweeps.undisturbed(tmp_path_factory.mktemp("sweep") / "made")


@pytest.fixture
def shared_alone(made, tmp_path) -> Workspace:
    """A copy that has what cells share, and none of the cells."""
    return sweeps.without_cells(made, tmp_path / "copy")
