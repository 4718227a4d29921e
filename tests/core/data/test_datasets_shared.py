"""The user's own Flickr8k and Flickr30K captions, when they are there."""

import itertools
import os
from collections import Counter
from pathlib import Path

import pytest

from tasks.core.data.datasets import karpathy
from tasks.core.data.left_out import LeftOut
from tasks.core.data.preparation import prepare
from tests.core.data.caption_samples import read
from tests.workspace import ROOT

SHARED = Path(os.environ.get("VL_SHARED", ROOT / ".." / "shared"))
pytestmark = pytest.mark.shared


def _need(path: Path) -> Path:
    if not path.exists():
        pytest.skip(f"there is no {path.name} in the folder of VL_SHARED")
    return path


@pytest.fixture(scope="module")
def flickr8k():
    folder = _need(SHARED / "flickr8k")
    config = karpathy.Config(
        path=str(folder),
        annotations="dataset_flickr8k.json",
        images=["images-*.tar"],
        restval_is_train=False,
    )
    return read(karpathy, config)


def test_flickr8k_has_its_published_counts_and_prepares(flickr8k, tmp_path):
    assert Counter(example.split for example in flickr8k) == {
        "train": 6000,
        "val": 1000,
        "test": 1000,
    }
    assert {len(example.captions) for example in flickr8k} == {5}
    first = [
        e
        for split in ("test", "train", "val")
        for e in itertools.islice((x for x in flickr8k if x.split == split), 20)
    ]
    facts = prepare(first, tmp_path, image_size=96, max_pixels=10_000_000, left_out=LeftOut(0.0))
    assert facts["num_images"] == {"train": 20, "val": 20, "test": 20}
    assert facts["num_captions"] == {"train": 100, "val": 100, "test": 100}


def test_flickr30k_captions_have_their_published_counts():
    path = _need(SHARED / "captions" / "dataset_flickr30k_multi30k.json.gz")
    left_out = LeftOut(0.0)
    annotations = karpathy.read_annotations(path, restval_is_train=False, left_out=left_out)
    left_out.check(len(annotations))
    assert Counter(annotation.split for annotation in annotations) == {
        "train": 29000,
        "val": 1014,
        "test": 1000,
    }
    assert {len(annotation.captions) for annotation in annotations} == {5}
    assert len({annotation.name for annotation in annotations}) == 31014
