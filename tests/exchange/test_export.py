"""An export loads with the libraries of others and holds what the set holds, to 8 bits; it is
written whole or not at all.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from tasks.core.foundations.tensor_files import load_tensors
from tasks.core.training.pair_files import load_pairs
from tasks.exchange import layouts
from tasks.exchange.export import Choice, export
from tasks.exchange.pictures import PICTURES, encode, to_8_bits
from tasks.exchange.source import open_source
from tasks.exchange.targets import whole
from tasks.reporting.gallery import to_pictures
from tasks.settings import steps
from tasks.settings.sets import SetName

KINDS = ("huggingface", "webdataset", "folder")


def choice(layout="folder", picture="png", *, test=False):
    return Choice(layout, picture, test, "unknown", "unknown")


def normalised(pictures, pairs):
    """The formula of the card, in numpy."""
    shown = (np.stack(pictures) / 255 - np.array(pairs.mean)) / np.array(pairs.std)
    return torch.tensor(shown.transpose(0, 3, 1, 2), dtype=torch.float32)


def read_folder(place):
    rows = json.loads((place / "pairs.json").read_text())
    pictures = [np.asarray(Image.open(place / row["file_name"])) for row in rows]
    initial = [
        np.asarray(Image.open(place / row["initial_file_name"]))
        for row in rows
        if "initial_file_name" in row
    ]
    return pictures, initial, rows, load_file(place / "pairs.safetensors")["text_embeds"]


def read_huggingface(place, monkeypatch, embed="text_embed"):
    monkeypatch.setenv("HF_HOME", str(place.parent / "hub"))
    import datasets

    found = datasets.load_dataset(str(place), cache_dir=str(place.parent / "cache"))["train"]
    pictures = [np.asarray(row["image"]) for row in found]
    initial = [np.asarray(row["initial_image"]) for row in found if "initial_image" in row]
    embeds = [torch.tensor(row[embed], dtype=torch.float32) for row in found]
    return pictures, initial, list(found), embeds


def read_webdataset(place, suffix, embed="text_embed.npy"):
    import webdataset

    shards = sorted(str(path) for path in place.glob("*.tar"))
    rows = list(webdataset.WebDataset(shards, shardshuffle=False).decode("rgb8"))
    pictures = [row[suffix] for row in rows]
    initial = [row[f"initial.{suffix}"] for row in rows if f"initial.{suffix}" in row]
    embeds = [torch.tensor(row[embed]) for row in rows]
    return pictures, initial, [row["json"] for row in rows], embeds


@pytest.mark.parametrize("picture", ["png", "webp"])
@pytest.mark.parametrize("layout", KINDS)
@pytest.mark.parametrize("name", ["bi_trajectory-4", "herding-4"])
def test_a_set_is_read_back_by_the_libraries_of_others(
    name, layout, picture, inside, tmp_path, monkeypatch
):
    monkeypatch.setattr(layouts, "SHARD_PAIRS", 3)
    source, place = open_source(inside, name), tmp_path / "out"
    done = export(source, place, choice(layout, picture))
    if layout == "folder":
        found = read_folder(place)
    elif layout == "webdataset":
        found = read_webdataset(place, picture)
    else:
        found = read_huggingface(place, monkeypatch)
    pictures, initial, rows, embeds = found
    pairs, embeds = source.pairs, torch.stack(list(embeds))
    assert torch.equal(embeds, pairs.text_embeds)
    assert torch.equal(load_file(place / "pairs.safetensors")["text_embeds"], embeds)
    error = (normalised(pictures, pairs) - pairs.images).abs()
    assert float(error.max()) <= done.cost.largest + 1e-6
    assert float(error.mean()) == pytest.approx(done.cost.mean, abs=1e-6)
    assert [row["caption"] for row in rows] == [origin.caption for origin in source.origins()]
    if name == "herding-4":
        assert done.cost.largest < 1e-6 and initial == []
        assert [row["nearest_sentence"] for row in rows] == [row["caption"] for row in rows]
    else:
        begun = load_tensors(source.own.folder / "initial.safetensors")["images"]
        assert torch.allclose(normalised(initial, pairs), begun, atol=1e-6)


def test_the_cost_of_8_bits_is_counted_by_hand(inside, tmp_path):
    source = open_source(inside, "bi_trajectory-4")
    cost = export(source, tmp_path / "out", choice()).cost
    pixels = source.pairs.images.double() * 0.5 + 0.5  # the toy encoder's mean and std
    levels = torch.round(pixels * 255)
    error = (levels.clamp(0, 255) / 255 - pixels).abs() / 0.5
    assert cost.num_clipped == int(((levels < 0) | (levels > 255)).sum())
    assert cost.num_values == pixels.numel()
    assert cost.largest == pytest.approx(float(error.max()), abs=1e-6)
    assert cost.mean == pytest.approx(float(error.mean()), abs=1e-6)


def test_pictures_are_those_of_the_report(inside):
    for name in ("bi_trajectory-4", "lors-4"):
        pairs = open_source(inside, name).pairs
        shown, _ = to_8_bits(pairs.images * 3, pairs.mean, pairs.std)
        assert np.array_equal(shown, to_pictures(pairs.images * 3, pairs.mean, pairs.std))


def test_ids_name_the_captions_of_a_coreset(inside, tmp_path):
    source, place = open_source(inside, "herding-4"), tmp_path / "out"
    export(source, place, choice())
    with (place / "ids.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    assert list(rows[0]) == ["split", "file_name", "caption_number"]
    prepared = steps.preparation(inside).folder
    names = pd.read_parquet(prepared / "images.parquet")["name"]
    captions = pd.read_parquet(prepared / "captions.parquet")
    for row, embed in zip(rows, source.pairs.text_embeds, strict=True):
        assert row["split"] == "train"
        own = captions.index[captions["image_idx"] == names[names == row["file_name"]].index[0]]
        stored = source.split("train").text_embeds[own[int(row["caption_number"])]]
        assert torch.equal(stored, embed)
    distilled = tmp_path / "distilled"
    export(open_source(inside, "bi_trajectory-4"), distilled, choice())
    assert not (distilled / "ids.csv").exists()


def test_similarity_and_step_sizes_go_along(inside, tmp_path):
    place = tmp_path / "out"
    export(open_source(inside, "lors-4"), place, choice("webdataset"))
    pairs = load_pairs(steps.distillation(inside, SetName("lors", 4)).folder)
    tensors, facts = (
        load_file(place / "pairs.safetensors"),
        json.loads((place / "set.json").read_text()),
    )
    for part in ("diagonal", "left", "right"):
        assert torch.equal(tensors[f"sim_{part}"], getattr(pairs.similarity, part))
    assert facts["sim_alpha"] == pairs.similarity.alpha
    assert facts["step_sizes"] == pairs.step_sizes and facts["loss"] == pairs.loss


def test_set_json_holds_the_digest_of_every_other_file(inside, tmp_path):
    place = tmp_path / "out"
    export(open_source(inside, "herding-4"), place, choice(test=True))
    told = json.loads((place / "set.json").read_text())["files"]
    files = {str(path.relative_to(place)) for path in place.rglob("*") if path.is_file()}
    assert files == {*told, "README.md", "set.json"}
    for name, digest in told.items():
        assert hashlib.sha256((place / name).read_bytes()).hexdigest() == digest


def test_the_same_set_gives_the_same_bytes(inside, tmp_path):
    for layout in KINDS:
        for number in (1, 2):
            target = tmp_path / f"{layout}-{number}"
            export(open_source(inside, "lors-4"), target, choice(layout))
        one, two = (tmp_path / f"{layout}-{number}" for number in (1, 2))
        files = [path.relative_to(one) for path in one.rglob("*") if path.is_file()]
        assert all((one / name).read_bytes() == (two / name).read_bytes() for name in files)


def test_what_exists_is_replaced_on_demand_alone_and_only_an_export(inside, tmp_path):
    source, place = open_source(inside, "herding-4"), tmp_path / "out"
    export(source, place, choice("huggingface"))
    with pytest.raises(ValueError, match=r"--to: received .*out, which exists; .*--replace"):
        export(source, place, choice())
    assert (place / "data").is_dir()
    export(source, place, choice(), is_replaced=True)
    assert (place / "images").is_dir() and not (place / "data").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"holds no set.json"):
        export(source, tmp_path / "mine", choice(), is_replaced=True)
    assert (tmp_path / "mine/notes.txt").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "out"]


def test_a_failure_leaves_the_older_export_and_nothing_else(inside, tmp_path, monkeypatch):
    source, place = open_source(inside, "herding-4"), tmp_path / "out"
    export(source, place, choice())
    before = (place / "set.json").read_bytes()

    with pytest.raises(OSError, match="full"), whole(place, is_replaced=True) as work:
        (work / "half").write_text("half")
        raise OSError("the disk is full")
    with pytest.raises(KeyboardInterrupt), whole(tmp_path / "new", is_replaced=False):
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (place / "set.json").read_bytes() == before


@pytest.mark.parametrize("name", [".git/HEAD", "NOTES.md", "images/mine.png", "link"])
def test_a_replacement_spares_what_is_not_the_exports(name, inside, tmp_path):
    source, place = open_source(inside, "herding-4"), tmp_path / "out"
    export(source, place, choice())
    mine = place / name
    mine.parent.mkdir(exist_ok=True)
    if name == "link":
        mine.symlink_to(tmp_path)
    else:
        mine.write_text("mine")
    with pytest.raises(ValueError, match=rf"which holds {name}, 1 in all, .* move them"):
        export(source, place, choice(), is_replaced=True)
    mine.unlink()
    export(source, place, choice(), is_replaced=True)


@pytest.mark.parametrize("text", ["{", "[]", '{"files": 3}', "{}"])
def test_an_export_that_names_no_files_is_not_replaced(text, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/set.json").write_text(text)
    (tmp_path / "out/mine.txt").write_text("mine")
    with (
        pytest.raises(ValueError, match=r"which holds mine.txt, 1 in all"),
        whole(tmp_path / "out", is_replaced=True),
    ):
        raise AssertionError("it is not to begin")
    assert (tmp_path / "out/mine.txt").read_text() == "mine"


@pytest.mark.parametrize("target", ["data", "data/out", "reports/toy/out", "data/../reports"])
def test_what_the_pipeline_writes_is_no_target(target, inside):
    with (
        pytest.raises(ValueError, match=r"--to: received .*, inside of (data|reports)/"),
        whole(Path(target), is_replaced=False),
    ):
        raise AssertionError("it is not to begin")


@pytest.mark.parametrize("number", [1, 2])
def test_an_interrupt_at_a_rename_leaves_an_export(number, inside, tmp_path, monkeypatch):
    source, place = open_source(inside, "herding-4"), tmp_path / "out"
    export(source, place, choice())
    before, calls, rename = (place / "set.json").read_bytes(), [], os.replace

    def interrupted(*paths):
        calls.append(paths)
        if len(calls) == number:
            raise KeyboardInterrupt
        rename(*paths)

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export(source, place, choice("huggingface"), is_replaced=True)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (place / "set.json").read_bytes() == before and (place / "images").is_dir()


def test_a_kill_between_the_renames_leaves_the_older_export(inside, tmp_path):
    source, place = open_source(inside, "herding-4"), tmp_path / "out"
    export(source, place, choice())
    place.rename(tmp_path / ".out.old")
    (tmp_path / ".out.partial").mkdir()
    with pytest.raises(ValueError, match=r"out, which exists"):
        export(source, place, choice("huggingface"))
    assert (place / "images").is_dir() and not (tmp_path / ".out.old").exists()


def test_what_a_kill_left_goes_with_the_next_export(inside, tmp_path):
    (tmp_path / ".out.partial").mkdir()
    (tmp_path / ".out.partial/half.png").write_bytes(b"half")
    export(open_source(inside, "herding-4"), tmp_path / "out", choice())
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert not (tmp_path / "out/half.png").exists()


def test_wrong_words_say_what_is_allowed(inside):
    with pytest.raises(ValueError, match=r"SET: received 'herdin-4' \(did you mean 'herding-4'"):
        open_source(inside, "herdin-4")
    with pytest.raises(FileNotFoundError, match=r"random-4 is not there; .*vl-distillery pipeline"):
        open_source(inside, "random-4")
    with pytest.raises(ValueError, match="--format: received 'zip'; allowed: huggingface"):
        choice("zip")
    with pytest.raises(ValueError, match="--pictures: received 'jpeg'; allowed: png, webp"):
        choice(picture="jpeg")
    with pytest.raises(ValueError, match=r"--licence: received .*one line of text"):
        Choice("folder", "png", False, "mit\nlicense: other", "unknown")


def test_a_dataset_that_the_set_was_not_made_from_is_refused(made, tmp_path, monkeypatch):
    folder, chosen = made
    shutil.copytree(folder / "data", tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    shutil.rmtree(steps.embedding(chosen).folder)
    with pytest.raises(FileNotFoundError, match=r"hashed_256 is not there"):
        open_source(chosen, "herding-4")
    shutil.copytree(steps.start(chosen).folder, steps.embedding(chosen).folder)
    with pytest.raises(ValueError, match=r"hashed_256: received the artifact .* allowed is"):
        open_source(chosen, "herding-4")


def test_a_damaged_set_is_refused_by_its_file(made, tmp_path, monkeypatch):
    folder, chosen = made
    shutil.copytree(folder / "data", tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    path = steps.selection(chosen, SetName("herding", 4)).folder / "pairs.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    with pytest.raises(ValueError, match=r"file pairs.safetensors does not match its sha256"):
        open_source(chosen, "herding-4")


def test_pictures_are_without_loss(inside, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (31, 31, 3), dtype=np.uint8)
    for kind in PICTURES:
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(encode(noise, kind)))), noise)
