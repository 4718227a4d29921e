"""Two workers in checkouts of their own, in other folders, with a folder as store."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.workspace import Workspace, make_workspace

pytestmark = pytest.mark.services


@pytest.fixture
def workers(tmp_path) -> tuple[Workspace, Workspace]:
    (tmp_path / "store").mkdir()
    made = []
    for place in ("a/checkout", "b/of/somebody else"):
        workspace = make_workspace(tmp_path / place)
        workspace.set(f"store={(tmp_path / 'store').as_uri()}")
        made.append(workspace)
    return made[0], made[1]


def test_two_workers_at_once_and_one_that_comes_later_have_the_same_artifacts(workers, tmp_path):
    def run(worker: Workspace) -> str:
        return worker.flow("train_experts", seconds=240).stdout

    with ThreadPoolExecutor() as pool:
        assert all("train_experts: " in said for said in pool.map(run, workers))
    first, second = workers
    assert first.digests() == second.digests()
    later = make_workspace(tmp_path / "later")
    done = later.flow("train_experts", VL_DISTILLERY_STORE=str(tmp_path / "store"))
    assert "train_experts: 0 made, 5 cached" in done.stdout
    assert later.digests() == first.digests()


def test_an_empty_variable_keeps_artifacts_in_the_folder(workers, tmp_path):
    workers[0].flow("prepare_data", VL_DISTILLERY_STORE="")
    assert list((tmp_path / "store").iterdir()) == []
