"""The module for notebooks gives what the pipeline made, and the notebook of docs/ runs."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace

import nbformat
import pytest
from nbclient import NotebookClient

from tasks.store import manifests
from tests.workspace import ROOT, Workspace, environment, make_workspace


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Workspace:
    """A workspace in which the pipeline has run once."""
    workspace = make_workspace(tmp_path_factory.mktemp("notebook") / "copy")
    workspace.flow("pipeline", seconds=300)
    return workspace


@pytest.fixture
def vld(made, monkeypatch):
    monkeypatch.chdir(made.folder)
    import vl_distillery

    return vl_distillery


def score_of(made, name: str) -> dict[str, float]:
    return json.loads((made.folder / f"data/scores/toy/{name}/seed_0/score.json").read_text())


@pytest.mark.parametrize("name", ["bi_trajectory-4", "herding-4"])
def test_a_student_is_the_one_of_the_pipeline(made, vld, name):
    before = made.digests()
    profile = vld.open_profile("toy")
    student = profile.train(profile.set(name))
    stored = score_of(made, name)
    assert student.outcome.test == {key: stored[key] for key in student.outcome.test}
    assert student.score("test") == student.outcome.test
    assert made.digests() == before


def test_the_student_of_full_data_is_the_one_of_the_pipeline(made, vld):
    scores = vld.open_profile("toy").train().outcome.test
    assert scores["mean_recall"] == score_of(made, "full")["mean_recall"]


@pytest.mark.parametrize("name", ["bi_trajectory-4", "herding-4"])
def test_a_set_shows_its_pairs_with_a_sentence_each(vld, name):
    found = vld.open_profile("toy").set(name)
    assert found._repr_png_().startswith(b"\x89PNG")
    assert len(found.captions) == found.pairs.num_pairs == 4
    assert all(isinstance(caption, str) and caption for caption in found.captions)


def test_real_pairs_show_their_own_captions(made, vld):
    found = vld.open_profile("toy").set("herding-4")
    import torch

    from tasks.core.data.storage import load_split

    embeddings = next(path.parent for path in made.folder.glob("data/caption*/toy/*/manifest.json"))
    train = load_split(made.folder / "data/prepared/toy", embeddings, "train")
    rows = [train.captions.index(caption) for caption in found.captions]
    torch.testing.assert_close(train.text_embeds[rows], found.pairs.text_embeds)


def test_a_set_that_is_not_made_says_how_it_is_made(vld):
    profile = vld.open_profile("toy", ["distill.matching.iterations=7"])
    assert "bi_trajectory-4" not in profile.sets
    again = r"7; run `vl-distillery pipeline --profile toy --set distill\.matching\.iterations=7`"
    with pytest.raises(FileNotFoundError, match=rf"iterations 2 -> {again}"):
        profile.set("bi_trajectory-4")


def test_a_set_whose_inputs_are_not_made_says_which_and_why(vld):
    profile = vld.open_profile("toy", ["train_experts.lr_img=0.03"])
    with pytest.raises(FileNotFoundError, match=r"expert_000 would be: changed .*lr_img"):
        profile.set("random-4")


def test_settings_are_a_list(vld):
    with pytest.raises(ValueError, match="allowed is a list"):
        vld.open_profile("toy", "budgets=[4]")


def test_what_is_printed_is_short(vld):
    profile = vld.open_profile("toy")
    shown = [profile, profile.set("herding-4"), profile.train()]
    assert max(len(repr(one)) for one in shown) < 900


def test_an_unknown_set_is_answered_with_the_nearest_one(vld):
    with pytest.raises(ValueError, match=r"did you mean 'bi_trajectory-4'"):
        vld.open_profile("toy").set("bi_trajectry-4")


def test_an_imported_set_is_opened_and_trained_on(made, vld):
    made.flow("export", "herding-4", "--to", "out/theirs")
    made.flow("import", "out/theirs", "--as", "theirs")
    profile = vld.open_profile("toy", ["methods.imported=[theirs-4]"])
    assert profile.sets == ["random-4", "herding-4", "bi_trajectory-4", "theirs-4"]
    found, own = profile.set("theirs-4"), profile.set("herding-4")
    assert found.captions == own.captions and found._repr_png_().startswith(b"\x89PNG")
    assert profile.train(found).outcome.test == profile.train(own).outcome.test
    with pytest.raises(ValueError, match=r"imported for other prepared .*image_size 32 -> 16"):
        vld.open_profile("toy", ["methods.imported=[theirs-4]", "prepare_data.image_size=16"])
    with pytest.raises(ValueError, match=r"allowed: random-4, herding-4, bi_trajectory-4; "):
        vld.open_profile("toy").set("theirs-4")


def test_the_leaderboard_has_a_row_for_each_set_best_first(made, vld):
    board = vld.leaderboard()
    assert set(board["set"]) == {"bi_trajectory-4", "herding-4", "random-4", "full"}
    assert list(board["mean_recall"]) == sorted(board["mean_recall"], reverse=True)
    for row in board.itertuples():
        assert row.mean_recall == score_of(made, row.set)["mean_recall"]
        assert row.students == 1 and row.deviation is None


def test_the_leaderboard_never_mixes_recipes_and_believes_no_edited_score(made, vld, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(made.folder / "data/scores", data / "scores")
    score = data / "scores/toy/herding-4/seed_0"
    other = score.with_name("seed_1")
    shutil.copytree(score, other)
    manifest = manifests.read(other)
    params = {**manifest.params, "seed_idx": 1}
    manifests.write(other, replace(manifest, params=params))
    board = vld.leaderboard(data).set_index("set")
    assert board.loc["herding-4", "students"] == 2
    params["recipe"] = {**params["recipe"], "num_epochs": 7}
    manifests.write(other, replace(manifest, params=params))
    board = vld.leaderboard(data)
    assert list(board["students"]) == [1] * 5 and board["made_from"].nunique() == 5
    (score / "score.json").write_text((score / "score.json").read_text().replace("1", "9"))
    with pytest.raises(manifests.DamagedArtifact, match=r"score\.json"):
        vld.leaderboard(data)


def test_a_set_of_other_settings_is_not_trained_on(made, vld):
    profile = vld.open_profile("toy")
    theirs = profile.set("herding-4")
    ours = replace(theirs, ref=replace(theirs.ref, digest="0" * 64))
    with pytest.raises(ValueError, match=r"of another profile or of other settings"):
        profile.train(ours)


@pytest.mark.parametrize("given", [("random-4", 0), (None, -1), (None, "x")])
def test_what_cannot_be_trained_is_said(vld, given):
    with pytest.raises(ValueError, match="allowed is a set"):
        vld.open_profile("toy").train(*given)


def test_an_unknown_split_is_said(vld):
    student = vld.open_profile("toy").train()
    with pytest.raises(ValueError, match="allowed: train, val, test"):
        student.score("nope")


def test_a_folder_without_scores_is_said(vld, tmp_path):
    with pytest.raises(FileNotFoundError, match="vl-distillery pipeline"):
        vld.leaderboard(tmp_path)


def test_opening_imports_no_service(made):
    code = (
        "import sys, vl_distillery as vld; vld.open_profile('toy').set('herding-4'); "
        "print({'prefect', 'mlflow', 'dvc'} & set(sys.modules))"
    )
    assert made.run(sys.executable, "-c", code).stdout.strip() == "set()"


@pytest.mark.services
def test_the_notebook_runs(made, monkeypatch):
    notebook = nbformat.read(ROOT / "docs/notebook.ipynb", as_version=4)
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    NotebookClient(notebook, resources={"metadata": {"path": made.folder}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    kinds = {kind for output in outputs for kind in output.get("data", {})}
    assert {"image/png", "text/html"} <= kinds


def test_the_notebook_is_kept_with_its_outputs():
    notebook = nbformat.read(ROOT / "docs/notebook.ipynb", as_version=4)
    assert all(cell.outputs for cell in notebook.cells[3:] if cell.cell_type == "code")


def test_the_package_has_what_its_list_names():
    code = "import vl_distillery as vld; print(all(hasattr(vld, name) for name in vld.__all__))"
    done = subprocess.run(
        (sys.executable, "-c", code), cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "True"
