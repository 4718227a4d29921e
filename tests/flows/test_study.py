"""A study run for real on a tiny toy: it trains heads and nothing else, and goes on where it
stopped.
"""

from __future__ import annotations

import re
import shutil
import sqlite3
from contextlib import closing

import pandas as pd
import pytest
import yaml

from tests.workspace import make_workspace

SEARCH = {"embed_dim": [4, 6], "hidden_layers": [0, 2], "lr": [0.1], "tau": [0.07]}
COMPUTE = {"embed_dim": [4, 9], "random_pairs": [12], "gigaflops": [0.0004, 0.002]}
NUM_STUDENTS = 2


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    made = make_workspace(tmp_path_factory.mktemp("study") / "copy")
    made.set("methods.coresets=[random]")
    place = made.folder / "presets.yaml"
    held = yaml.safe_load(place.read_text())
    for name, values in (("architecture_search", SEARCH), ("fixed_compute", COMPUTE)):
        values = {**values, "num_students": NUM_STUDENTS}
        held["studies"][name]["profiles"] = {"toy": values}
    place.write_text(yaml.safe_dump(held))
    made.flow("distill")
    return made


def numbers(done):
    """Return how many artifacts a command made and how many were there."""
    made, cached = re.search(r"study: (\d+) made, (\d+) cached", done.stdout).groups()
    return int(made), int(cached)


def own(workspace, study):
    return {
        folder: digests
        for folder, digests in workspace.digests().items()
        if f"+{study}/" not in folder
    }


def test_a_search_trains_heads_on_every_set_and_goes_on_where_it_stopped(workspace):
    before = own(workspace, "architecture_search")
    done = workspace.flow("study", "architecture_search")
    after = own(workspace, "architecture_search")
    assert {folder: after[folder] for folder in before} == before
    same, equal = sorted(set(after) - set(before))
    same, equal = same.rpartition("/")[2], equal.rpartition("/")[2]
    # 50,684 bytes of a set, and about a thousand of a picture and its caption
    assert same == "random-4" and 40 <= int(equal.removeprefix("random-")) <= 48
    pages = [line for line in done.stdout.splitlines() if line.startswith("reports/")]
    assert [page.rpartition(".")[2] for page in pages] == ["csv", "md", "html"]
    scores = pd.read_csv(workspace.folder / pages[0])
    sets = ["full", "bi_trajectory-4", same, equal]
    assert list(scores["set"].unique()) == sets and len(scores) == 4 * 4 * NUM_STUDENTS
    assert set(scores["protocol"]) == {"strict"}
    text = (workspace.folder / pages[1]).read_text()
    assert "bi_trajectory-4 ranks the 4 heads with tau" in text and f"of {equal} " in text
    shutil.rmtree(
        workspace.folder / "data/scores/toy+architecture_search/full/w4-h2-lr0.1-tau0.07/seed_1"
    )
    again = workspace.flow("study", "architecture_search")
    made, cached = numbers(again)
    assert made == 1 and cached > len(scores)
    # Files of a study, and its four rows, in MLflow once a set of scores: the same, here
    with closing(sqlite3.connect(workspace.folder / ".mlflow/mlflow.db")) as database:
        names = [name for (name,) in database.execute("select name from runs")]
    assert names.count("toy study architecture_search") == 1 and set(sets) <= set(names)
    after = pd.read_csv(workspace.folder / pages[0])
    # The new student takes other seconds for the same scores
    pd.testing.assert_frame_equal(after.drop(columns="seconds"), scores.drop(columns="seconds"))


def test_levels_of_compute_are_epochs_of_each_width(workspace):
    done = workspace.flow("study", "fixed_compute")
    (page,) = [line for line in done.stdout.splitlines() if line.endswith("fixed_compute.csv")]
    scores = pd.read_csv(workspace.folder / page)
    assert set(scores["set"]) == {"full", "random-12", "bi_trajectory-4"}
    (features,) = workspace.folder.glob("data/scores/toy+fixed_compute/start/*/manifest.json")
    out_dim, text_dim = yaml.safe_load(features.read_text())["facts"]["out_dim"], 256
    for row in scores.itertuples():
        weights = row.embed_dim * (out_dim + text_dim) + 2 * row.embed_dim**2
        epochs = row.gigaflops * 1e9 / (6 * weights * row.num_pairs)
        assert row.num_epochs == round(epochs) >= 1 and abs(row.num_epochs / epochs - 1) <= 0.15
    html = (workspace.folder / page).with_suffix(".html").read_text()
    assert html.count('<svg viewBox="0 0 400') == 3 and "Best cell of each level" in html


def test_a_study_selects_coresets_where_no_method_reads_experts(workspace):
    settings = ("--set", "methods.distillers=[cov_match]")
    done = workspace.flow("study", "fixed_compute", *settings)
    (page,) = [line for line in done.stdout.splitlines() if line.endswith("fixed_compute.csv")]
    assert set(pd.read_csv(workspace.folder / page)["set"]) == {"full", "random-12", "cov_match-4"}


def test_an_unknown_study_ends_with_one_message(workspace):
    done = workspace.flow("study", "architecture_serch", check=False)
    assert done.returncode == 2
    assert "did you mean 'architecture_search'?" in done.stderr
