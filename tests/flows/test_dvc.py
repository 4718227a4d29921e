"""DVC and the flows serve each other; push and pull carry the artifacts; metrics, plots and
experiments say something.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time

import psutil
import pytest

from tests.flows.test_flows import left_behind
from tests.workspace import Workspace, environment, make_workspace

pytestmark = pytest.mark.services
GIT = ("git", "-c", "user.name=test", "-c", "user.email=test@example.org")


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Workspace:
    """A workspace in which `dvc repro` has run once and was committed to git."""
    workspace = make_workspace(tmp_path_factory.mktemp("dvc") / "copy")
    workspace.run("dvc", "repro", seconds=500)
    assert left_behind(workspace) == []
    workspace.run("git", "add", ".")
    workspace.run(*GIT, "commit", "--quiet", "-m", "made")
    return workspace


def test_stages_need_no_server_and_share_the_parent_run(made):
    from mlflow.tracking import MlflowClient

    assert list((made.folder / ".prefect").rglob("*.*")) == []
    client = MlflowClient(f"sqlite:///{made.folder}/.mlflow/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("toy").experiment_id])
    (parent,) = [run for run in runs if run.data.tags.get("level") == "pipeline"]
    assert parent.info.run_name == "toy dvc repro"


def test_nothing_changed_is_a_no_op_that_starts_no_server(made):
    assert "up to date" in made.run("dvc", "repro").stdout
    assert list((made.folder / ".prefect").rglob("*.*")) == []


def test_pipeline_and_dvc_take_what_the_other_made(made):
    made.set("distill.matching.iterations=3")
    done = made.flow("pipeline")
    assert "pipeline: 4 made" in done.stdout  # the set, its student, its gallery and the report
    before = made.digests()
    done = made.run("dvc", "repro", seconds=400)
    assert "distill: 0 made" in done.stdout
    assert "report: 0 made" in done.stdout
    assert "Stage 'prepare_data' didn't change" in done.stdout
    assert made.digests() == before


def test_artifacts_come_back_from_the_remote(made):
    made.run("dvc", "push")
    before = made.digests()
    shutil.rmtree(made.folder / "data")
    shutil.rmtree(made.folder / ".dvc/cache")
    made.run("dvc", "pull")
    assert made.digests() == before


def test_a_colleagues_clone_has_the_run_by_git_and_dvc(made, tmp_path):
    """In git are dvc.lock and the settings, in the remote what the stages made; the report is
    written again.
    """
    made.run("dvc", "remote", "modify", "local", "url", str(tmp_path / "remote"))
    made.run("dvc", "push")
    made.run("git", "add", ".")
    made.run(*GIT, "commit", "--quiet", "-m", "pushed")
    made.run("git", "clone", "--quiet", ".", str(tmp_path / "clone"))
    colleague = Workspace(tmp_path / "clone")
    colleague.run("dvc", "pull")
    assert colleague.digests() == made.digests()
    assert "pipeline: 1 made" in colleague.flow("pipeline").stdout
    report = "reports/toy/metrics.json"
    assert (colleague.folder / report).read_bytes() == (made.folder / report).read_bytes()
    done = colleague.run("dvc", "repro", seconds=400)
    assert "Stage 'evaluate' didn't change" in done.stdout and "report: 0 made" in done.stdout


def test_metrics_plots_and_experiments_show_the_recall(made):
    assert "mean_recall" in made.run("dvc", "metrics", "show").stdout
    made.run("dvc", "metrics", "diff")
    shown = made.run("dvc", "plots", "show", "--json").stdout
    for name in ("recall.csv", "learning_curves.csv", "distillation.csv"):
        assert name in shown
    assert "mean_recall" in made.run("dvc", "exp", "show", "--csv").stdout


def test_an_experiment_overrides_one_value_and_runs_what_it_touches(made):
    done = made.run(
        "dvc",
        "exp",
        "run",
        "-n",
        "short",
        "-S",
        "profiles.toy.distill.matching.iterations=1",
        "distill@bi_trajectory",
        seconds=400,
    )
    assert "Running stage 'distill@bi_trajectory'" in done.stdout
    assert "Running stage 'train_experts'" not in done.stdout
    assert "short" in made.run("dvc", "exp", "show", "--csv").stdout


def test_a_repro_that_is_killed_goes_on_with_the_same_command(made):
    """kill -9 of dvc and all that it started, in the middle of distillation: no lock stays, and the
    second run ends what was begun.
    """
    made.set("distill.matching.iterations=60", "distill.matching.checkpoint_every=2")

    def is_distilling():
        return any(made.folder.glob("data/.work/*/.checkpoint.safetensors"))

    assert made.kill_when(is_distilling, "dvc", "repro")
    assert is_distilling()
    done = made.run("dvc", "repro", seconds=400)
    assert "distill: 1 made" in done.stdout
    assert not is_distilling() and left_behind(made) == []
    assert "up to date" in made.run("dvc", "status").stdout


@pytest.mark.parametrize("seconds", [0, 5])
def test_a_stage_ends_with_its_dvc_even_when_that_is_killed_before_it_looks(workspace, seconds):
    """After five seconds the stage cannot find its `dvc` any more; drawing the pictures would take
    minutes.
    """
    workspace.set("prepare_data.options.num_train=100000")
    stages = workspace.folder / "dvc.yaml"
    command = "cmd: python -m flows.cli prepare_data"
    late = f'cmd: "sleep {seconds}; python -m flows.cli prepare_data"'
    assert command in stages.read_text()
    stages.write_text(stages.read_text().replace(command, late))
    dvc = subprocess.Popen(
        ("dvc", "repro", "prepare_data"),
        cwd=workspace.folder,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    limit = time.monotonic() + 90
    while not psutil.Process(dvc.pid).children():
        assert time.monotonic() < limit and dvc.poll() is None
        time.sleep(0.01)
    os.kill(dvc.pid, signal.SIGKILL)
    dvc.wait()
    assert left_behind(workspace) == []
    assert not (workspace.folder / "data/prepared").exists()


def test_a_stage_that_a_program_runs_through_dvc_goes_on(workspace):
    program = "from dvc.repo import Repo; Repo().reproduce('prepare_data')"
    workspace.run("python", "-c", program)
    assert (workspace.folder / "data/prepared/toy/manifest.json").exists()
