"""Commands beside a standing server: forks of its warm interpreter with the code of their own
folder, or processes of their own.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.workspace import Workspace, standing

pytestmark = pytest.mark.services


@pytest.fixture
def told(workspace) -> Workspace:
    """A workspace whose own code says in which process a flow runs."""
    code = workspace.folder / "flows/cli.py"
    line = '    print(f"{name}: {fresh} made, {cached} cached")\n'
    assert line in code.read_text()
    code.write_text(
        code.read_text().replace(line, f'{line}    print(f"parent {{os.getppid()}}")\n')
    )
    return workspace


def parent_of_the_flow(done) -> int:
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("parent ")]
    return int(line.split()[1])


def warm_process() -> int:
    return int(json.loads((Path(standing()) / "sessions/standing.warm").read_text())["pid"])


def test_a_command_is_a_fork_of_the_warm_interpreter_and_runs_the_code_of_its_folder(told):
    done = told.flow("prepare_data")
    assert "prepare_data: 1 made, 0 cached" in done.stdout
    assert parent_of_the_flow(done) == warm_process()
    assert not (told.folder / ".prefect").exists()


def test_a_command_with_other_settings_of_the_libraries_runs_in_its_own_process_with_the_same_bytes(
    told,
):
    assert parent_of_the_flow(told.flow("prepare_data")) == warm_process()
    before = told.digests()
    done = told.flow("prepare_data", "--force", OMP_NUM_THREADS="2")
    assert "prepare_data: 1 made, 0 cached" in done.stdout
    assert parent_of_the_flow(done) != warm_process()
    assert told.digests() == before


def test_a_wrong_parameter_ends_with_the_code_of_the_command(told):
    done = told.flow("prepare_data", "--set", "prepare_data.image_size=none", check=False)
    assert done.returncode == 2 and "image_size" in done.stderr
