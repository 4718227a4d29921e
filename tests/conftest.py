"""Fixtures of the tests that run the whole pipeline."""

from __future__ import annotations

import pytest

from tests.workspace import Workspace, make_workspace


@pytest.fixture
def workspace(tmp_path) -> Workspace:
    """A fresh copy of the repository with tiny sizes; nothing is computed yet."""
    return make_workspace(tmp_path / "copy")
