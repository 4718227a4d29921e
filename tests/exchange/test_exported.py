"""An export comes back only where its facts, tensors and pictures fit each other."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load, save

from tasks.core.training.pair_files import load_pairs
from tasks.exchange.imports import import_set
from tasks.exchange.published import Stated
from tests.exchange.test_imports import rewritten
from tests.exchange.test_several import exported

NAN = float("nan")
IDX = torch.arange(16).repeat_interleave(2)


def changed(place, **tensors):
    """Write tensors into an export, and drop those that are None."""
    found = load((place / "pairs.safetensors").read_bytes()) | tensors
    rewritten(
        place,
        "pairs.safetensors",
        save({name: value for name, value in found.items() if value is not None}),
    )


@pytest.mark.parametrize(
    ("tensors", "match"),
    [
        ({"text_image_idx": IDX + 1}, r"text_image_idx: 1 to 16, where images are 0 to 15"),
        ({"text_image_idx": IDX - 1}, r"text_image_idx: -1 to 14, where images are 0 to 15"),
        ({"text_image_idx": IDX.flip(0)}, r"text_image_idx: received 32 numbers .* ascending"),
        ({"text_image_idx": IDX[1:]}, r"text_image_idx: received 31 numbers for 32 texts"),
        ({"text_image_idx": IDX.clamp(max=14)}, r"received an image without a text"),
        ({"text_image_idx": IDX.clamp(min=1)}, r"received an image without a text"),
        ({"text_image_idx": IDX.double()}, r"text_image_idx: \(32,\) of torch.float64"),
        ({"text_image_idx": IDX[None]}, r"text_image_idx: \(1, 32\) of torch.int64"),
        ({"text_image_idx": IDX[:0]}, r"text_image_idx: \(0,\) of torch.int64"),
        ({"text_image_idx": None}, r"received 16 and 32"),
        ({"log_weights": torch.full((16,), NAN)}, r"log_weights has non-finite values"),
        ({"log_weights": torch.zeros(4)}, r"log_weights: received \(4,\).*one an image"),
        ({"text_embeds": torch.full((32, 256), NAN)}, r"out: received ValueError"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(tensors, match, several, tmp_path):
    exported(several, "bi_trajectory-4", tmp_path / "out")
    changed(tmp_path / "out", **tensors)
    with pytest.raises(ValueError, match=match):
        import_set(several, tmp_path / "out", "theirs", Stated())
    assert not (tmp_path / "data/imported").exists()


@pytest.mark.parametrize(
    ("facts", "match"),
    [
        ({"num_images": 15}, r"15 images of pictures of 32 px with 2 x 2 parts"),
        ({"num_images": 12}, r"text_image_idx: 0 to 15, where images are 0 to 11"),
        ({"num_images": 20}, r"fewer or more pictures than 20"),
        ({"num_images": 4000}, r"1000 pairs, more than the largest of `budgets`, 19"),
        ({"num_images": 0}, r"num_images: 0"),
        ({"parts": 1}, r"\(16, 16\) pixels, allowed is \(32, 32\)"),
        ({"parts": 0}, r"parts: 0"),
        ({"parts": "2"}, r"parts: '2'"),
        ({"picture_size": 33}, r"pictures of 33 px with 2 x 2 parts, for students that see 32 px"),
        ({"picture_size": 16}, r"\(16, 16\) pixels, allowed is \(8, 8\)"),
        ({"image_size": 64}, r"image_size: 64, .*prepare_data.image_size=32"),
        ({"parts": None}, r"parts: None"),
        ({"format_version": 3}, r"received version 3, .*of version 1 or 2"),
    ],
)
def test_facts_that_do_not_fit_are_refused(facts, match, several, tmp_path):
    exported(several, "bi_trajectory-4", tmp_path / "out")
    told = json.loads((tmp_path / "out/set.json").read_text())
    assert told["format_version"] == 2
    (tmp_path / "out/set.json").write_text(json.dumps({**told, **facts}))
    with pytest.raises(ValueError, match=match):
        import_set(several, tmp_path / "out", "theirs", Stated())
    assert not (tmp_path / "data/imported").exists()


def test_facts_that_are_missing_are_named(several, tmp_path):
    exported(several, "bi_trajectory-4", tmp_path / "out")
    told = json.loads((tmp_path / "out/set.json").read_text())
    del told["parts"], told["image_size"]
    (tmp_path / "out/set.json").write_text(json.dumps(told))
    with pytest.raises(ValueError, match=r"received version None, without parts, image_size"):
        import_set(several, tmp_path / "out", "theirs", Stated())


def test_a_picture_too_few_is_refused(several, tmp_path):
    place = tmp_path / "out"
    exported(several, "bi_trajectory-4", place)
    rows = json.loads((place / "pairs.json").read_text())
    rewritten(place, "pairs.json", json.dumps(rows[:-1]).encode())
    with pytest.raises(ValueError, match=r"fewer or more pictures than 16"):
        import_set(several, place, "theirs", Stated())


def test_an_export_of_an_older_version_is_read(made, folder):
    place = folder / "out"
    source = exported(made[1], "herding-4", place)
    facts = json.loads((place / "set.json").read_text())
    assert facts["format_version"] == 1 and facts["image_size"] == 32
    for name in ("num_images", "num_texts", "parts", "picture_size", "image_size"):
        del facts[name]
    (place / "set.json").write_text(json.dumps(facts))
    after = load_pairs(import_set(made[1], place, "theirs", Stated())[1].folder)
    assert torch.equal(after.images, source.pairs.images)
    assert (after.parts, after.image_size, after.text_image_idx) == (1, None, None)
