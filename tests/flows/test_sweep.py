"""distill-sweep for real on a tiny toy set: the cells that the command line names, random selection
beside each, nothing twice.
"""

from __future__ import annotations

import pytest

from tests.workspace import TINY, Workspace, make_workspace

pytestmark = pytest.mark.services
GRID = ("--method", "bi_trajectory", "--num-pairs", "4", "--num-pairs", "6")


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Workspace:
    """A workspace in which a sweep of two of three sizes has run once."""
    workspace = make_workspace(
        tmp_path_factory.mktemp("sweep") / "copy", (*TINY, "budgets=[4, 6, 8]")
    )
    done = workspace.flow("distill_sweep", *GRID, seconds=280)
    # prepared, embeddings, start and 2 experts; for each size random, set, gallery and 2 students;
    # a student of the full data
    assert "distill_sweep: 16 made, 0 cached" in done.stdout
    return workspace


def test_the_cells_of_the_command_line_are_scored_beside_random_selection(made):
    folders = {path.removeprefix("data/") for path in made.digests()}
    assert {path for path in folders if path.startswith("distilled")} == {
        f"distilled/toy/bi_trajectory/bi_trajectory-{size}" for size in (4, 6)
    }
    sets = {path.split("/")[2] for path in folders if path.startswith("scores")}
    assert sets == {"random-4", "random-6", "bi_trajectory-4", "bi_trajectory-6", "full"}


def test_the_second_sweep_is_all_cached(made):
    before = made.digests()
    assert "distill_sweep: 0 made, 16 cached" in made.flow("distill_sweep", *GRID).stdout
    assert made.digests() == before


def test_a_forced_sweep_makes_again_once_what_its_cells_share(made):
    scores, sets = made.folder / "data/scores/toy", made.folder / "data/distilled/toy/bi_trajectory"
    before = (scores / "full/seed_0/manifest.json").stat().st_mtime_ns
    made.flow("distill_sweep", *GRID, "--force", seconds=280)
    students, last_set = (
        (place / "manifest.json").stat().st_mtime_ns
        for place in (scores / "full/seed_0", sets / "bi_trajectory-6")
    )
    assert before < students < last_set


def test_a_sweep_is_one_run_in_mlflow_with_each_value_once(made):
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{made.folder}/.mlflow/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("toy").experiment_id])
    (parent,) = [run for run in runs if run.data.tags.get("level") == "pipeline"]
    nested = {
        run.info.run_name: run
        for run in runs
        if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id
    }
    assert set(nested) == {"random-4", "random-6", "bi_trajectory-4", "bi_trajectory-6", "full"}
    made_sets = ("bi_trajectory-4", "bi_trajectory-6")
    scores = {name: nested[name].data.metrics["test/mean_recall"] for name in made_sets}
    assert parent.info.run_name == "toy distill-sweep"
    assert parent.data.metrics["test/best_mean_recall"] == max(scores.values())
    assert scores[parent.data.tags["best_set"]] == max(scores.values())
    assert len(client.get_metric_history(nested["full"].info.run_id, "test/mean_recall")) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--method", "k_center"), "--method: received 'k_center'; allowed: bi_trajectory"),
        (("--num-pairs", "5"), "num_pairs: received 5; allowed: 4, 6, 8"),
    ],
)
def test_a_cell_that_the_parameters_do_not_name_is_refused(made, options, message):
    done = made.flow("distill_sweep", *options, check=False)
    assert done.returncode == 2 and message in done.stderr
