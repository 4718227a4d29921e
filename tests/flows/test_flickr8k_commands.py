"""The commands of the pages on a slice of the user's own Flickr8k, where it is there: prepare,
distil, evaluate, export, import, score and a study.
"""

from __future__ import annotations

import json
import os
import re
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
import yaml
from safetensors.torch import load_file, save_file

from tests.workspace import ROOT, Workspace, make_workspace

SHARED = Path(os.environ.get("VL_SHARED", ROOT / ".." / "shared")).resolve()
pytestmark = [pytest.mark.services, pytest.mark.shared]
SIZES = {"train": 80, "val": 25, "test": 25}
SECONDS = 300  # of a command, on a busy machine
TINY = (
    "profile=flickr8k",
    "profiles.flickr8k.budgets=[8]",
    "methods.coresets=[random]",
    "methods.distillers=[bi_trajectory]",
    "profiles.flickr8k.prepare_data.image_size=64",
    # The profile's own text encoder comes with an extra, which a machine of tests may lack
    "profiles.flickr8k.embed_captions={text_encoder: hashed,"
    " options: {dim: 256, bigram_weight: 0.5, seed: 0}}",
    "profiles.flickr8k.train_experts.num_experts=2",
    "profiles.flickr8k.distill.matching.iterations=3",
    "profiles.flickr8k.evaluate.num_eval=1",
    "profiles.flickr8k.evaluate.decoded=true",
    "profiles.flickr8k.evaluate.small.num_epochs=10",
    "profiles.flickr8k.evaluate.full.num_epochs=2",
    "profiles.flickr8k.evaluate.full.num_validations=1",
)
HEADS = {"embed_dim": [8, 16], "hidden_layers": [1], "lr": [0.1], "tau": [0.07], "num_students": 2}


@pytest.fixture(scope="module")
def slice_of(tmp_path_factory) -> Workspace:
    """A workspace with a few pictures of each split, and the weights."""
    for needed in ("flickr8k/dataset_flickr8k.json", "weights"):
        if not (SHARED / needed).exists():
            pytest.skip(f"there is no {needed} in the folder of VL_SHARED")
    workspace = make_workspace(tmp_path_factory.mktemp("slice") / "copy", TINY)
    place = workspace.folder / "raw/flickr8k"
    place.mkdir(parents=True)
    images = json.loads((SHARED / "flickr8k/dataset_flickr8k.json").read_text())["images"]
    kept = []
    for split, count in SIZES.items():
        kept += [image for image in images if image["split"] == split][:count]
        (place / f"images-{split}.tar").symlink_to(SHARED / f"flickr8k/images-{split}.tar")
    (place / "dataset_flickr8k.json").write_text(json.dumps({"images": kept}))
    (workspace.folder / "raw/weights").symlink_to(SHARED / "weights")
    presets = workspace.folder / "presets.yaml"
    held = yaml.safe_load(presets.read_text())
    held["studies"]["architecture_search"]["profiles"] = {"flickr8k": HEADS}
    presets.write_text(yaml.safe_dump(held))
    return workspace


def test_a_set_of_flickr8k_goes_out_and_comes_back(slice_of):
    run = partial(slice_of.flow, seconds=SECONDS)
    run("prepare_data")
    assert "distill: 5 made, 1 cached" in run("distill", "--method", "bi_trajectory").stdout
    run("evaluate")
    run("export", "bi_trajectory-8", "--to", "exports/set", "--format", "huggingface")
    assert "import: 8 pairs" in run("import", "exports/set", "--as", "back").stdout
    run("evaluate", "--set", "methods.imported=[back-8]")
    run("report", "--set", "methods.imported=[back-8]")
    rows = pd.read_csv(slice_of.folder / "reports/flickr8k/tables/summary.csv").set_index("set")
    assert set(rows.index) == {
        "random-8",
        "full",
        *(f"{name}-8" for name in ("bi_trajectory", "back", "bi_trajectory-decoded")),
        "back-decoded-8",
    }
    # Equal to the 8 bits, which move few ranks of 25 pictures
    for kind in ("", "-decoded"):
        own, back = (
            rows.loc[f"{name}{kind}-8", "mean_recall"] for name in ("bi_trajectory", "back")
        )
        assert back == pytest.approx(own, abs=2.0)


def test_embeddings_of_flickr8k_are_scored(slice_of):
    slice_of.flow("embed_captions", seconds=SECONDS)
    (folder,) = (slice_of.folder / "data/caption_embeddings/flickr8k").iterdir()
    texts = load_file(folder / "embeddings.safetensors")["embeddings"][: 5 * SIZES["train"]].float()
    # A picture is told by the mean of its captions, so each caption is near its own
    pictures = texts.reshape(-1, 5, texts.shape[1]).mean(dim=1)
    owners = {"caption_image_idx": (texts[:, 0] * 0).long()}
    owners["caption_image_idx"] += pd.Series(range(len(texts))).floordiv(5).to_numpy()
    save_file(
        {"image_embeds": pictures, "text_embeds": texts, **owners},
        slice_of.folder / "own.safetensors",
    )
    found = json.loads(slice_of.flow("score", "own.safetensors", "--json").stdout)
    assert found["captions_per_image"] == {"least": 5, "most": 5}
    assert found["recall"]["mean_recall"] > 90.0


def test_a_study_of_flickr8k_has_its_pages(slice_of):
    done = slice_of.flow("study", "architecture_search", seconds=SECONDS)
    pages = re.findall(r"^reports/.*$", done.stdout, re.MULTILINE)
    scores = pd.read_csv(slice_of.folder / pages[0])
    assert {"full", "bi_trajectory-8", "random-8"} <= set(scores["set"])
    assert "ranks the 2 heads with tau" in (slice_of.folder / pages[1]).read_text()
