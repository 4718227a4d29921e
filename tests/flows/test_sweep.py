"""distill-sweep for real on a tiny toy set: the cells that the command line names, random selection
beside each, nothing twice.
"""

from __future__ import annotations

import csv
import shlex

import pytest

from tasks.settings import params
from tests.workspace import TINY, Workspace, make_workspace

pytestmark = pytest.mark.services
GRID = ("--method", "bi_trajectory", "--num-pairs", "4", "--num-pairs", "6")


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Workspace:
    """A workspace in which a sweep of two of three sizes has run once."""
    settings = (*TINY, "budgets=[4, 6, 8]", "evaluate.num_eval=2")
    workspace = make_workspace(tmp_path_factory.mktemp("sweep") / "copy", settings)
    done = workspace.flow("distill_sweep", *GRID, seconds=280)
    # prepared, embeddings, start and 2 experts; for each size random, set, gallery and 4 students;
    # 2 students of the full data
    assert "distill_sweep: 21 made, 0 cached" in done.stdout
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
    assert "distill_sweep: 0 made, 21 cached" in made.flow("distill_sweep", *GRID).stdout
    assert made.digests() == before


def test_a_forced_sweep_makes_again_once_what_its_cells_share(made):
    before = made.digests()
    name = ("--name", "forced", "--workers", "2")
    made.flow("distill_sweep", *GRID, *name, "--force", seconds=280)
    logs = (made.folder / "data/sweeps/toy/forced").glob("worker_*.log")
    told = "".join(log.read_text() for log in logs)
    again = [path for path in before if f"rebuilding {path}:" in told]
    # Of both cells random, set, gallery and 4 students; 2 students of the full data
    assert len(again) == 16 and made.digests() == before
    assert all(told.count(f"rebuilding {path}:") == 1 for path in again)


def test_a_changed_parameter_makes_what_builds_on_it_and_shares_the_rest(made):
    own = params.load(path=made.folder / "params.yaml").distillers["bi_trajectory"].config.lr_img
    axis = f"sweep.grid={{distill.matching.lr_img: [{own}, 0.5]}}"
    done = made.flow("distill_sweep", *GRID[:4], "--set", axis, "--name", "lr", "--workers", "2")
    # A set, its gallery and its two students; the other cell is that of the profile
    assert "distill_sweep: 4 made, 14 cached" in done.stdout
    board = made.folder / "reports/toy/sweeps"
    with (board / "lr.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    assert {row["distill.matching.lr_img"] for row in rows} == {str(own), "0.5"}
    recalls = [float(row["val"]) for row in rows]
    assert recalls == sorted(recalls, reverse=True) and all(row["state"] == "done" for row in rows)
    assert rows[0]["cell"] in (board / "lr.html").read_text()
    again = next(line for line in done.stdout.splitlines() if line.startswith("again: "))
    command = shlex.split(again.removeprefix("again: "))
    assert command[:2] == ["vl-distillery", "evaluate"]
    assert "evaluate: 0 made" in made.flow(*command[1:]).stdout
    states = made.flow("sweep", "status").stdout
    assert "lr: finished; cells: 2 done" in states and "grid-" in states


def test_a_sweep_is_a_run_in_mlflow_and_each_cell_a_run_below_it(made):
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{made.folder}/.mlflow/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("toy").experiment_id])
    parents = {run.info.run_name: run for run in runs if run.data.tags.get("level") == "pipeline"}
    parent = parents["toy sweep lr"]
    nested = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert len(nested) == 2
    for run in nested:
        swept = run.data.tags["distill.matching.lr_img"]
        assert run.info.run_name == f"bi_trajectory-4 lr_img={swept}"
        assert run.data.tags["budgets"] == "4" and run.data.metrics["evaluate/num_seeds"] == 2
        assert {"test/mean_recall", "test/mean_recall_std", "val/chosen_mean_recall"} < set(
            run.data.metrics
        )
        assert len(run.data.metrics) <= 40
        assert len(client.get_metric_history(run.info.run_id, "test/mean_recall")) == 1
    best = max(run.data.metrics["test/mean_recall"] for run in nested)
    assert parent.data.metrics["test/best_mean_recall"] == best
    (grid,) = [name for name in parents if name.startswith("toy sweep grid-")]
    assert parents[grid].data.tags["best_set"] in ("bi_trajectory-4", "bi_trajectory-6")


def test_a_search_leaves_poor_cells_and_goes_on_with_those_that_it_asked_for(made):
    over = "over: {distill.matching.lr_img: {low: 0.001, high: 9.0, log: true}}"
    axis = f"sweep={{search: {{count: 5, num_startup: 2, {over}}}}}"
    done = made.flow("distill_sweep", *GRID[:4], "--set", axis, "--name", "search")
    assert "best: bi_trajectory-4 lr_img=" in done.stdout
    with (made.folder / "reports/toy/sweeps/search.csv").open() as handle:
        before = list(csv.DictReader(handle))
    states = [row["state"] for row in before]
    assert len(states) == 5 and set(states) <= {"done", "pruned"} and states.count("done") >= 2
    assert "distill_sweep: 0 made" in made.flow("sweep", "resume", "search").stdout
    with (made.folder / "reports/toy/sweeps/search.csv").open() as handle:
        assert list(csv.DictReader(handle)) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--method", "k_center"), "--method: received 'k_center'; allowed: bi_trajectory"),
        (("--num-pairs", "5"), "num_pairs: received 5; allowed: 4, 6, 8"),
    ],
)
def test_a_cell_that_the_parameters_do_not_name_is_refused(made, options, message):
    before = sorted((made.folder / "data/sweeps/toy").iterdir())
    done = made.flow("distill_sweep", *options, check=False)
    assert done.returncode == 2 and message in done.stderr
    # Nothing was begun, so no sweep is there to go on with
    assert sorted((made.folder / "data/sweeps/toy").iterdir()) == before
