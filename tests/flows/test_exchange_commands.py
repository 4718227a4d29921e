"""export and score as commands, by real processes."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.exchange.test_imports import published
from tests.workspace import Workspace, make_workspace

pytestmark = pytest.mark.services


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Workspace:
    """A workspace with one coreset, not scored."""
    workspace = make_workspace(tmp_path_factory.mktemp("made") / "copy")
    workspace.flow("select_coresets", "--method", "herding")
    return workspace


def test_export_says_what_it_wrote_and_what_8_bits_cost(made):
    done = made.flow("export", "herding-4", "--to", "out/set", "--format", "folder")
    assert "export: herding-4, 4 pairs, " in done.stdout and " bytes to out/set" in done.stdout
    assert (
        "All 12,288 values lie within what a picture can show, so none is clipped." in done.stdout
    )
    assert (made.folder / "out/set/README.md").is_file()
    again = made.flow("export", "herding-4", "--to", "out/set", check=False)
    assert again.returncode == 2 and again.stdout == ""
    (line,) = again.stderr.splitlines()
    assert line.startswith("error: --to: received") and "--replace" in line
    assert "herding-4" in made.flow("export", "herding-4", "--to", "out/set", "--replace").stdout
    assert [path.name for path in (made.folder / "out").iterdir()] == ["set"]


def test_a_killed_export_leaves_a_whole_target_or_none(made):
    out = made.folder / "out/killed"
    partial = out.with_name(".killed.partial")
    command = ("python", "-m", "flows.cli", "export", "herding-4", "--to", "out/killed")
    was_running = made.kill_when(partial.exists, *command)
    assert out.exists() != was_running or (out / "README.md").is_file()
    made.flow("export", "herding-4", "--to", "out/killed", *(["--replace"] * out.exists()))
    assert (out / "README.md").is_file() and not partial.exists()


def test_a_set_that_is_not_made_is_one_message(made):
    done = made.flow("export", "bi_trajectory-4", "--to", "out/none", check=False)
    assert done.returncode == 2 and "bi_trajectory-4 is not there" in done.stderr
    assert not (made.folder / "out/none").exists()


def test_score_prints_a_table_and_json(made):
    unit = torch.eye(3)
    tensors = {"image_embeds": unit, "text_embeds": unit[[0, 0, 1, 2]]}
    owners = torch.tensor([0, 0, 1, 2])
    save_file({**tensors, "caption_image_idx": owners}, made.folder / "all.safetensors")
    table = made.flow("score", "all.safetensors").stdout.splitlines()
    assert table[0] == "3 images, 4 captions (1 to 2 an image), cosine similarity, percent"
    assert table[2].split() == ["TR", "R@1", "100.00", "100.00", "100.00"]
    found = json.loads(made.flow("score", "all.safetensors", "--json").stdout)
    assert found["recall"]["mean_recall"] == 100.0
    assert found["captions_per_image"] == {"least": 1, "most": 2}
    done = made.flow("score", "all.pt", check=False)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    # A mistyped option is told before a file is read
    done = made.flow("score", "not-there.npy", "--similarity", "cosin", check=False)
    assert "received 'cosin' (did you mean 'cosine'?)" in done.stderr


def test_an_imported_set_stands_in_plan_scores_and_report(made):
    made.flow("export", "herding-4", "--to", "out/theirs", "--format", "webdataset")
    done = made.flow("import", "out/theirs", "--as", "theirs")
    assert "import: 4 pairs to data/imported/toy/theirs-4" in done.stdout
    assert "add theirs-4 to methods.imported" in done.stdout
    torch.save(published(), made.folder / "vectors.pt")
    scale = ("--mean", "0.5,0.5,0.5", "--std", "0.5,0.5,0.5", "--text-encoder", "hashed_256")
    made.flow("import", "vectors.pt", "--as", "vectors", *scale)
    settings = ("--set", "methods.imported=[theirs-4, vectors-4]", "--set", "methods.distillers=[]")
    settings = (*settings, "--set", "evaluate.decoded=true", "--set", "evaluate.plain=true")
    made.flow("pipeline", *settings)
    table = (made.folder / "reports/toy/tables/summary.csv").read_text()
    assert "theirs-4" in table and "random-4" in table
    # The sentences of a coreset are its own
    assert "vectors-decoded-4" in table and "theirs-decoded" not in table
    assert "vectors-plain-4" in table and "theirs-plain" not in table
    assert "hlr,lrs" in (made.folder / "reports/toy/tables/measures.csv").read_text()
    same = [
        json.loads((made.folder / f"data/scores/toy/{name}-4/seed_0/score.json").read_text())
        for name in ("theirs", "herding")
    ]
    assert same[0]["mean_recall"] == same[1]["mean_recall"] and same[0]["method"] == "theirs"
    plan = json.loads(made.flow("plan", "--json", *settings).stdout)
    cells = {cell["name"]: cell for cell in plan["cells"]}
    assert cells["theirs-4 seed 0"]["is_cached"] and cells["vectors-decoded-4 seed 0"]["is_cached"]
    again = made.flow("pipeline", *settings)
    assert "pipeline: 0 made" in again.stdout


def test_a_table_of_real_pairs_is_the_coreset_that_it_is_of(made):
    made.flow("export", "herding-4", "--to", "out/table")
    table = "out/table/data/train-00000-of-00001.parquet"
    columns = ("--picture-column", "image", "--caption-column", "caption")
    words = ("import", table, "--as", "table", "--text-encoder", "hashed_256", *columns)
    assert "import: 4 pairs to data/imported/toy/table-4\n" in made.flow(*words).stdout
    own, theirs = (
        load_file(made.folder / f"data/{name}-4/pairs.safetensors")
        for name in ("coresets/toy/herding", "imported/toy/table")
    )
    assert all(torch.equal(own[name], theirs[name]) for name in ("images", "text_embeds"))
    photos = made.folder / "photos"
    photos.mkdir()
    (photos / "alone.png").write_bytes(b"")
    done = made.flow("import", "photos", "--as", "mine", *words[4:6], check=False)
    assert done.returncode == 2 and "received 0 pairs (left out: 1 x file without" in done.stderr


@pytest.mark.parametrize(
    "command",
    [("pipeline",), ("evaluate",), ("report",), ("distill_sweep",), ("preset", "text_encoders")],
)
def test_an_imported_set_that_is_missing_is_told_before_anything_is_made(command, made):
    before = made.digests()
    settings = ("--set", "seed=7", "--set", "methods.imported=[nope-4]")
    done = made.flow(*command, *settings, check=False)
    assert done.returncode == 2 and "nope-4 is not there; run" in done.stderr
    assert made.digests() == before


def test_an_imported_set_that_does_not_fit_is_told_before_anything_is_made(made):
    made.flow("export", "herding-4", "--to", "out/fit", "--format", "folder")
    made.flow("import", "out/fit", "--as", "fit")
    before = made.digests()
    for value, item, words in (
        ("model.options.mean=[0.1, 0.1, 0.1]", "start", "options.mean null -> [0.1, 0.1, 0.1]"),
        ("prepare_data.image_size=16", "prepared", "image_size 32 -> 16"),
        ("embed_captions.options.dim=64", "embeddings", "options.dim 256 -> 64"),
    ):
        settings = ("--set", "methods.imported=[fit-4]", "--set", value)
        done = made.flow("pipeline", *settings, check=False)
        assert done.returncode == 2 and f"'fit-4', imported for other {item}" in done.stderr
        assert words in done.stderr
    assert made.digests() == before
