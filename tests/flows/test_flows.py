"""The whole pipeline on a tiny toy set, as a user runs it: caching, repair, servers, errors."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from tasks.stages import STAGES
from tests.workspace import Workspace, environment, make_workspace

pytestmark = pytest.mark.services
# Each takes seconds of a process that imports it
HEAVY = (
    "timm",
    "torchvision",
    "transformers",
    "peft",
    "mlflow",
    "prefect",
    "faiss",
    "torch._dynamo",
)
FLOW = """
import sys
from flows.cli import main
main({name!r}, [])
print("imported", *[library for library in {libraries!r} if library in sys.modules])
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Workspace:
    """A workspace in which the pipeline has run once."""
    workspace = make_workspace(tmp_path_factory.mktemp("made") / "copy")
    done = workspace.flow("pipeline")
    assert ", 0 cached" in done.stdout
    assert "report: reports/toy/index.html\n" in done.stdout
    return workspace


def left_behind(workspace: Workspace) -> list[str]:
    """Command lines of processes that still work in the workspace, after a moment to end."""
    for _ in range(300):
        found = [
            process.info["cmdline"]
            for process in psutil.process_iter(["cmdline", "cwd", "status"])
            if process.info["cwd"] == str(workspace.folder)
            and process.info["status"] != psutil.STATUS_ZOMBIE
        ]
        if not found:
            return []
        time.sleep(0.1)
    return [" ".join(words or ()) for words in found]


def imported(workspace: Workspace, name: str, num_made: int) -> list[str]:
    """Return the heavy libraries that a process has imported when a flow of it has ended."""
    done = workspace.run("python", "-c", FLOW.format(name=name, libraries=HEAVY))
    assert f"{name}: {num_made} made" in done.stdout
    return done.stdout.splitlines()[-1].split()[1:]


def test_the_second_pipeline_is_all_cached_imports_little_and_leaves_no_process(made):
    before = made.digests()
    assert imported(made, "pipeline", 0) == []
    assert made.digests() == before
    assert left_behind(made) == []


def test_a_decoded_set_is_a_row_of_its_own_and_changes_no_artifact(made):
    """So are those with augmented pictures; an encoder that is trained has no ceilings."""
    before = made.digests()
    asked = [f"evaluate.{name}=true" for name in ("decoded", "augmented", "ceilings")]
    settings = [part for one in asked for part in ("--set", one)]
    done = made.flow("pipeline", *settings)
    assert "pipeline: 4 made" in done.stdout  # the scores and the report
    assert "trains its image encoder: it has no ceilings" in done.stdout
    folder = "data/scores/toy/bi_trajectory-decoded-4/seed_0"
    further = {f"data/scores/toy/{name}-augmented-4/seed_0" for name in ("bi_trajectory", "random")}
    new = made.digests()
    assert {name: new[name] for name in before} == before
    assert set(new) - set(before) == {folder, *further}
    score = json.loads((made.folder / folder / "score.json").read_text())
    assert (score["set"], score["method"]) == ("bi_trajectory-decoded-4", "bi_trajectory-decoded")
    page = (made.folder / "reports/toy/index.html").read_text()
    assert "bi_trajectory-decoded</th>" in page and "what words are worth" in page
    assert "random-augmented</th>" in page and "ARS, %" in page
    plan = json.loads(made.flow("plan", "--json", *settings).stdout)
    cells = {cell["name"]: cell for cell in plan["cells"]}
    for name in ("bi_trajectory-decoded-4 seed 0", "random-augmented-4 seed 0", "report"):
        assert cells[name]["is_cached"]
    assert "pipeline: 1 made" in made.flow("pipeline").stdout
    assert "decoded" not in (made.folder / "reports/toy/index.html").read_text()


def test_the_report_says_how_long_every_stage_took(made):
    page = (made.folder / "reports/toy/index.html").read_text()
    _, times = page.split("<h3>Time by stage</h3>")
    named = re.findall(r"<dt>(\w+)</dt>", times.partition("</dl>")[0])
    assert named == [stage for stage in STAGES if stage != "report"]


def test_a_corrupt_artifact_alone_is_rebuilt_with_a_message_that_names_it(made):
    before = made.digests()
    victim = made.folder / "data/coresets/toy/herding-4"
    next(victim.glob("*.safetensors")).write_bytes(b"damaged")
    done = made.flow("pipeline")
    assert "pipeline: 1 made" in done.stdout
    assert "data/coresets/toy/herding-4" in done.stdout + done.stderr
    assert made.digests() == before


def test_a_changed_option_of_one_method_runs_that_method_and_what_follows(made):
    times = {path: path.stat().st_mtime_ns for path in made.folder.glob("data/**/manifest.json")}
    made.flow("pipeline", "--set", "distill.options.bi_trajectory.iterations=3")
    changed = {
        str(path.relative_to(made.folder / "data"))
        for path, stamp in times.items()
        if path.stat().st_mtime_ns != stamp
    }
    assert changed == {
        "distilled/toy/bi_trajectory/bi_trajectory-4/manifest.json",
        "scores/toy/bi_trajectory-4/gallery/manifest.json",
        "scores/toy/bi_trajectory-4/seed_0/manifest.json",
    }


def test_a_run_is_compared_in_mlflow_by_nested_runs_with_curves_inputs_and_gallery(
    made, monkeypatch
):
    from mlflow.tracking import MlflowClient

    monkeypatch.chdir(made.folder)
    client = MlflowClient(f"sqlite:///{made.folder}/.mlflow/mlflow.db")
    experiment = client.get_experiment_by_name("toy")
    runs = client.search_runs([experiment.experiment_id])
    parents = [run for run in runs if run.data.tags.get("level") == "pipeline"]
    first = min(parents, key=lambda run: run.info.start_time)
    nested = {
        run.info.run_name: run
        for run in runs
        if run.data.tags.get("mlflow.parentRunId") == first.info.run_id
    }
    assert set(nested) == {"random-4", "herding-4", "bi_trajectory-4", "full"}
    cell = nested["bi_trajectory-4"]
    assert len(client.get_metric_history(cell.info.run_id, "distill/loss")) == 2
    assert {
        "test/mean_recall",
        "val/mean_recall",
        "distill/step_size_img",
    } <= set(cell.data.metrics)
    # One student has no deviation.
    assert "test/mean_recall_std" not in cell.data.metrics
    assert len(cell.data.metrics) <= 40
    assert len(cell.inputs.dataset_inputs) == 2
    assert {file.path for file in client.list_artifacts(cell.info.run_id)} == {
        "gallery.png",
        "gallery.json",
    }
    assert {run.info.status for run in runs} == {"FINISHED"}
    # Its page says what was run
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"
    score = cell.data.metrics["test/mean_recall"]
    assert first.info.run_name == "toy pipeline"
    assert first.data.metrics == {"test/mean_recall": score, "test/best_mean_recall": score}
    assert first.data.tags["best_set"] == "bi_trajectory-4"
    assert [one.dataset.name for one in first.inputs.dataset_inputs] == ["toy"]
    assert not list((made.folder / ".mlflow/spool/local").iterdir())


def test_the_demo_is_recorded_by_prefect_and_dvc_and_a_second_one_computes_nothing(made):
    made.flow("pipeline")  # other tests leave sets of other settings
    shutil.rmtree(made.folder / "reports")
    demo = ("python", "-m", "flows.demo")
    shown = made.run(*demo, seconds=300).stdout
    assert "pipeline: 1 made" in shown and "orchestration" in shown
    assert "up to date" in made.run("dvc", "repro").stdout
    assert "nothing had to be computed" in made.run(*demo, seconds=300).stdout
    with contextlib.closing(sqlite3.connect(made.folder / ".prefect/prefect.db")) as database:
        runs = database.execute(
            "select flow.name, flow_run.state_type, count(*) from flow_run"
            " join flow on flow.id = flow_run.flow_id group by 1, 2"
        ).fetchall()
    assert sorted(runs) == sorted((name, "COMPLETED", 2) for name in (*STAGES, "pipeline"))
    assert left_behind(made) == []


def test_preparing_pictures_imports_no_network_and_no_service(workspace):
    assert imported(workspace, "prepare_data", 1) == []


def test_a_report_of_what_is_there_imports_no_network_and_no_service(made):
    (made.folder / "reports/toy/manifest.json").unlink()
    assert imported(made, "report", 1) == []


@pytest.mark.parametrize(
    ("setting", "word"),
    [
        ("train_experts.num_experts=none", "num_experts"),
        ("distill.options=1", "options"),
        ("nothing.here=1", "nothing"),
    ],
)
def test_a_wrong_parameter_is_one_message_and_code_2(workspace, setting, word):
    done = workspace.flow("pipeline", "--set", setting, check=False)
    assert done.returncode == 2
    assert word in done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert not (workspace.folder / "data").exists()


def test_an_interrupted_run_stops_at_once_and_leaves_no_process(workspace):
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "flows.train_experts",
        "--set",
        "train_experts.num_epochs=2000",
    ]
    run = subprocess.Popen(
        command,
        cwd=workspace.folder,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    for _ in range(900):
        if list(workspace.folder.glob("data/experts/toy/*/start/manifest.json")):
            break
        time.sleep(0.1)
    time.sleep(2)
    run.send_signal(signal.SIGINT)
    assert run.wait(30) == 130
    assert "interrupted" in run.stderr.read()
    assert left_behind(workspace) == []


def test_two_first_runs_at_once_make_each_artifact_once(workspace):
    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(workspace.flow, ["pipeline", "pipeline"]))
    made = [int(run.stdout.split("pipeline: ")[1].split()[0]) for run in done]
    assert sum(made) == 14


def test_a_killed_run_leaves_no_server(workspace):
    command = [sys.executable, "-W", "ignore", "-m", "flows.demo"]
    run = subprocess.Popen(
        command,
        cwd=workspace.folder,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    states = Path(workspace.folder / ".prefect/sessions")
    for _ in range(600):
        if list(states.glob("*.json")):
            break
        time.sleep(0.05)
    state = json.loads(next(states.glob("*.json")).read_text())
    assert psutil.pid_exists(state["pid"])
    run.kill()
    run.wait()
    assert left_behind(workspace) == []
