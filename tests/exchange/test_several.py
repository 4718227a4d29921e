"""Sets of pictures with several parts, images with several texts, and pairs with weights go out
and come back whole, and the card's program trains the students of the pipeline on them.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import interpolate

from tasks.core.evaluation.statistics import describe
from tasks.core.foundations.seeding import derive_seed, make_generator
from tasks.core.training.embedding import embed_split
from tasks.core.training.losses import info_nce
from tasks.core.training.pair_files import PAIRS, load_pairs, num_bytes
from tasks.core.training.pair_set import Similarity
from tasks.core.training.student_losses import HARD, SOFT
from tasks.exchange import card
from tasks.exchange.export import Choice, export
from tasks.exchange.imports import import_set
from tasks.exchange.published import Stated
from tasks.exchange.source import open_source
from tasks.settings import steps
from tasks.student_models import train_student
from tests.exchange.conftest import inputs_of
from tests.exchange.test_card import program, run_alone
from tests.exchange.test_export import normalised, read_folder, read_huggingface, read_webdataset

LAYOUTS = ("huggingface", "webdataset", "folder")
SETS = ("bi_trajectory-4", "random_equal_bytes-4")


def exported(chosen, name, place, layout="folder", *, test=False, **changes):
    source = open_source(chosen, name)
    source = replace(source, pairs=replace(source.pairs, **changes))
    export(source, place, Choice(layout, "png", test, "unknown", "unknown"))
    return source


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", SETS)
def test_the_libraries_of_others_read_what_a_student_sees(
    name, layout, opened, tmp_path, monkeypatch
):
    place = tmp_path / "out"
    source = exported(opened, name, place, layout)
    pairs, tensors = source.pairs, load_file(place / "pairs.safetensors")
    if layout == "folder":
        pictures, initial, rows, _ = read_folder(place)
        embeds = tensors["text_embeds"].split([len(row["captions"]) for row in rows])
    elif layout == "webdataset":
        pictures, initial, rows, embeds = read_webdataset(place, "png", "text_embeds.npy")
    else:
        pictures, initial, rows, embeds = read_huggingface(place, monkeypatch, "text_embeds")
    assert len(pictures) == pairs.num_images
    shown = interpolate(normalised(pictures, pairs), size=32, mode="bilinear", align_corners=False)
    torch.testing.assert_close(shown, pairs.student_images(), atol=1e-5, rtol=0)
    counts = torch.tensor([len(own) for own in embeds])
    owners = torch.arange(len(rows)).repeat_interleave(counts)
    assert torch.equal(owners, pairs.text_image_idx)
    assert torch.equal(torch.cat(list(embeds)), pairs.text_embeds)
    assert torch.equal(tensors["text_image_idx"], owners)
    origins = source.origins()
    for field in ("caption", "caption_number", "nearest_sentence", "cosine"):
        told = list(itertools.chain.from_iterable(row[f"{field}s"] for row in rows))
        assert told == [getattr(origin, field) for origin in origins]
    assert len(initial) == (0 if source.is_coreset else len(pictures))
    if pairs.log_weights is not None:
        assert [row["log_weight"] for row in rows] == pairs.log_weights.tolist()


def test_ids_name_every_caption_of_a_coreset(opened, tmp_path):
    source = exported(opened, "random_equal_bytes-4", tmp_path / "out")
    train = source.split("train")
    names = [f"train/{image:06d}.png" for image in source.pairs.provenance["image_idx"]]
    expected = ["split,file_name,caption_number"]
    for name, image in zip(names, source.pairs.provenance["image_idx"], strict=True):
        own = int((train.caption_image_idx == image).sum())
        expected += [f"train,{name},{number}" for number in range(own)]
    assert (tmp_path / "out/ids.csv").read_text().splitlines() == expected


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", SETS)
def test_a_set_comes_back_as_the_same_bytes(name, layout, several, tmp_path):
    source = exported(several, name, tmp_path / "out", layout)
    ref = import_set(several, tmp_path / "out", "theirs", Stated())[1]
    before, after = source.pairs, load_pairs(ref.folder)
    assert (ref.folder / PAIRS).read_bytes() == (source.own.folder / PAIRS).read_bytes()
    for field in ("parts", "image_size", "storage", "loss", "step_sizes", "real_bytes", "mean"):
        assert getattr(before, field) == getattr(after, field)
    assert torch.equal(before.student_images(), after.student_images())
    assert num_bytes(before) == num_bytes(after)


@pytest.mark.parametrize("parts", [1, 2])
def test_pictures_that_are_enlarged_come_back_as_small(parts, several, tmp_path):
    pairs, place, rows = (
        open_source(several, "bi_trajectory-4").pairs,
        tmp_path / "out",
        4 * parts**2,
    )
    small = pairs.images[..., 5:17, 5:17].contiguous()
    changes = {
        "images": small,
        "parts": parts,
        "image_size": 32,
        "log_weights": pairs.log_weights[:rows],
        "text_embeds": pairs.text_embeds[: 2 * rows],
        "text_image_idx": pairs.text_image_idx[: 2 * rows],
        "provenance": {"caption_idx": pairs.provenance["caption_idx"][: 2 * rows]},
    }
    source = exported(several, "bi_trajectory-4", place, **changes)
    pictures = read_folder(place)[0]
    assert {picture.shape for picture in pictures} == {(12 // parts, 12 // parts, 3)}
    facts = json.loads((place / "set.json").read_text())
    assert (facts["picture_size"], facts["image_size"], facts["format_version"]) == (12, 32, 2)
    after = load_pairs(import_set(several, place, "theirs", Stated())[1].folder)
    assert torch.equal(after.images, small) and after.image_size == 32
    assert torch.equal(after.student_images(), source.pairs.student_images())


@pytest.mark.parametrize("name", SETS)
def test_the_program_trains_the_students_of_the_set_that_comes_back(
    name, several, made_several, tmp_path
):
    place, chosen = tmp_path / "out", made_several[1]
    source = exported(several, name, place, test=True)
    code = with_our_draws(program(place), source)
    ref = import_set(several, place, "theirs", Stated())[1]
    student = train_student(steps.evaluation(chosen, source.name), inputs_of(chosen), ref, 1)
    shown = embed_split(
        student.model, student.splits["test"], student.encoder, device=torch.device("cpu")
    )
    expected = shown[0] @ shown[1].T
    # The program ends with its last student, the second one
    torch.testing.assert_close(similarities(code, place), expected, atol=1e-4, rtol=0)
    if source.pairs.log_weights is not None:
        unweighted = similarities(code.replace(" + w)", ")"), place)
        assert float((unweighted - expected).abs().max()) > 1e-3


def test_the_program_alone_scores_as_the_pipeline_does(opened, tmp_path):
    place = tmp_path / "out"
    source = exported(opened, "bi_trajectory-4", place, "huggingface", test=True)
    ours = describe(score["mean_recall"] for score in source.scores()).mean
    code = with_our_draws(program(place), source)
    assert run_alone(place, code) == pytest.approx(ours, abs=1e-6)


def with_our_draws(code, source):
    """A program with the order of pairs and the draws of texts that the pipeline has."""
    told = source.students[0].manifest.params
    seeds = {}
    for number, epoch in itertools.product(range(2), range(told["recipe"]["num_epochs"])):
        seed = derive_seed(told["seed"], "student", number)
        seeds[number, epoch] = [derive_seed(seed, name, epoch) for name in ("order", "captions")]
    for ours, theirs in (
        ("for seeds in facts", "for number, seeds in enumerate(facts"),
        ('["student_seeds"]:', '["student_seeds"]):'),
        (
            "        for rows in",
            "        order, captions = map(make, made[number, epoch])\n        for rows in",
        ),
        ("torch.randperm(len(images))", "torch.randperm(len(images), generator=order)"),
        ("(len(rows))", "(len(rows), generator=captions, dtype=torch.float64)"),
    ):
        assert code.count(ours) == 1
        code = code.replace(ours, theirs)
    start = f"made = {seeds}\nmake = lambda seed: torch.Generator().manual_seed(seed)\n"
    return start + code


def similarities(code, place):
    """Of test images and captions, under the last student of a program."""
    names = {}
    with contextlib.chdir(place):
        exec(code, names)
    return names["z"]


def test_a_text_is_drawn_of_the_images_own_each_as_likely(opened, tmp_path):
    place = tmp_path / "out"
    exported(opened, "bi_trajectory-4", place, test=True)
    drawn = re.search(r'pairs\["text_embeds"\]\[(.*)\]\)\.T', program(place))[1]
    owners = torch.tensor([0, 0, 1, 2, 2, 2, 2, 2])
    names = {
        "torch": torch,
        "counts": owners.bincount(),
        "rows": torch.tensor([2, 0, 1]).repeat(3000),
    }
    torch.manual_seed(0)
    texts = eval(drawn, names)
    assert torch.equal(owners[texts], names["rows"])
    shares = texts.bincount(minlength=8) / 3000
    # Five standard deviations of a share of 3000 draws
    expected = torch.tensor([0.5, 0.5, 1.0, *[0.2] * 5])
    assert bool(((shares - expected).abs() <= 5 * (expected * (1 - expected) / 3000).sqrt()).all())


@pytest.mark.parametrize("loss", HARD)
def test_the_weighted_loss_in_a_card_is_that_of_the_set(loss, opened, tmp_path):
    place = tmp_path / "out"
    exported(opened, "bi_trajectory-4", place, test=True, loss=loss)
    lines = re.search(r"            z = .*\n((?:.*\n)*?)            optimiser", program(place))[1]
    img, txt = (
        torch.nn.functional.normalize(torch.randn(7, 5, generator=make_generator(seed)), dim=1)
        for seed in (1, 2)
    )
    weights, rows = torch.randn(9, generator=make_generator(3)), torch.tensor([8, 1, 2, 5, 4, 3, 0])
    names = {
        "torch": torch,
        "np": np,
        "z": img @ txt.T / 0.07,
        "pairs": {"log_weights": weights},
        "rows": rows,
    }
    exec("\n".join(line.strip() for line in lines.splitlines()), names)
    ours = HARD[loss](img, txt, tau=0.07, log_weights=weights[rows])
    assert float(names["loss"]) == pytest.approx(float(ours), rel=1e-5)
    assert float(ours) != pytest.approx(float(info_nce(img, txt, tau=0.07)), rel=1e-2)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_program_has_at_most_30_lines(layout, opened, tmp_path):
    place = tmp_path / "out"
    source = exported(opened, "bi_trajectory-4", place, layout)
    facts = json.loads((place / "set.json").read_text()) | {"sim_alpha": 1.0}
    choice = Choice(layout, "png", True, "unknown", "unknown")
    similarity = Similarity(torch.ones(16), torch.ones(16, 2), torch.ones(16, 2), 1.0)
    pairs = replace(source.pairs, log_weights=None, similarity=similarity)
    soft = replace(source, pairs=pairs)
    for loss, trainable in itertools.product((*HARD, *SOFT), ("full", "heads", "text_head")):
        facts["loss"], facts["model"]["trainable"] = loss, trainable
        shown = source if loss in HARD else soft
        text = card.render(shown, facts, choice, "0")
        code = re.findall(r"```python\n(.*?)```", text, re.S)[-1]
        compile(code, "card", "exec")
        assert len(code.splitlines()) <= 30


def test_a_rest_of_one_pair_trains_no_student(inside, tmp_path):
    place = tmp_path / "out"
    source = exported(inside, "bi_trajectory-4", place, test=True)
    facts = json.loads((place / "set.json").read_text())
    facts["loss"], facts["recipe"]["batch_size"] = "info_nce_without_positive", 3
    text = card.render(source, facts, Choice("folder", "png", True, "a", "b"), "0")
    code = re.findall(r"```python\n(.*?)```", text, re.S)[-1]
    assert bool(similarities(code, place).isfinite().all())


def test_a_card_tells_images_parts_texts_and_weights(opened, tmp_path):
    source = exported(opened, "bi_trajectory-4", tmp_path / "out")
    text = (tmp_path / "out/README.md").read_text()
    assert "16 synthetic images with 32 texts, distilled from toy" in text
    assert (
        "| images that a student sees | 16, the 2 x 2 parts of each of 4 stored pictures |" in text
    )
    assert (
        "| pictures | 16 x 16, 8 bits, png without loss; a student sees them resized to 32" in text
    )
    assert "| texts | 32 embeddings of 256 float32; no tokens; at every visit a student" in text
    assert "| weights | one an image" in text and "w_j exp(z_ij)" in text
    assert f"| bytes of the set as uint8 | {num_bytes(source.pairs):,} |" in text
    assert "With the embeddings of `nearest_sentences` in place of the texts" in text
    assert text.isascii()
    source = exported(opened, "random_equal_bytes-4", tmp_path / "real")
    text = (tmp_path / "real/README.md").read_text()
    images, captions = source.pairs.num_images, source.pairs.num_training_pairs
    assert f"{images} real images with {captions} captions of toy" in text
    assert f"| images that a student sees | {images} |" in text
    assert "| weights |" not in text and "resized" not in text
