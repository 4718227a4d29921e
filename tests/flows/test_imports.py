"""A stage imports what it needs, and no more: each library takes seconds of every process."""

from __future__ import annotations

import pytest

from tests.workspace import Workspace, make_workspace

ALL = ("timm", "torchvision", "transformers", "peft", "mlflow", "prefect", "faiss", "torch._dynamo")
SCRIPT = """
import sys
from flows.cli import main
main({stage!r}, [])
print("imported", *[name for name in {libraries!r} if name in sys.modules])
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Workspace:
    """A workspace in which the pipeline has run once, and the report was taken away."""
    workspace = make_workspace(tmp_path_factory.mktemp("imports") / "copy")
    workspace.flow("pipeline")
    (workspace.folder / "reports/manifest.json").unlink()
    return workspace


def imported(workspace: Workspace, stage: str) -> list[str]:
    """Return the heavy libraries that a process has imported when a stage of it has ended."""
    done = workspace.run("python", "-c", SCRIPT.format(stage=stage, libraries=ALL))
    assert f"{stage}: 1 made" in done.stdout
    return done.stdout.splitlines()[-1].split()[1:]


def test_preparing_pictures_imports_no_network_and_no_service(workspace):
    assert imported(workspace, "prepare_data") == []


@pytest.mark.services
def test_a_report_of_what_is_there_imports_no_network_and_no_service(made):
    assert imported(made, "report") == []
