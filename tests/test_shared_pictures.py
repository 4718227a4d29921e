"""Pictures that two splits have are said when the data are prepared."""

from __future__ import annotations

import io
import json
import logging

import pytest
from PIL import Image

from flows.prepare_data import prepare_data
from tests.workspace import ROOT

# Names and colours of the pictures of each split; the names within a split differ, and no file is
# a link to another
SPLITS = {"train": {"a": 10, "b": 60, "c": 60}, "val": {"d": 110}, "test": {"e": 160, "f": 210}}


def raw(place, colours):
    """A folder of pictures beside texts, and the settings that read it."""
    for split, pictures in colours.items():
        (place / split).mkdir(parents=True)
        for name, colour in pictures.items():
            buffer = io.BytesIO()
            Image.new("RGB", (16, 16), (colour, 9, 9)).save(buffer, "PNG")
            (place / split / f"{name}.png").write_bytes(buffer.getvalue())
            (place / split / f"{name}.txt").write_text(f"picture {name}")
    options = {split: [split] for split in SPLITS} | {"path": str(place), "shares": None}
    return [
        "budgets=[2]",
        "prepare_data.image_size=8",
        "prepare_data.dataset=folder",
        f"prepare_data.options={json.dumps(options)}",
    ]


@pytest.fixture
def prepared(tmp_path, monkeypatch, caplog):
    """A function that prepares colours, and returns what it said, warnings alone or more."""
    for name in ("params.yaml", "presets.yaml"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    monkeypatch.chdir(tmp_path)

    def run(colours, level=logging.WARNING):
        settings = raw(tmp_path / "raw" / "mine", colours)
        told = []
        for _ in range(2):
            caplog.clear()
            with caplog.at_level(level, "vl_distillery"):
                prepare_data.fn(settings)
            own = [one for one in caplog.records if one.name == "vl_distillery"]
            told.append([record.getMessage() for record in own if record.levelno >= level])
        assert told[1] == []  # nothing was made, so nothing is told again
        return told[0]

    return run


def test_a_picture_of_train_and_of_test_is_told_with_both_names(prepared):
    copies = {**SPLITS, "val": {"d": 110, "g": 210}, "test": {"e": 10, "f": 210}}
    (said,) = prepared(copies)
    assert "2 pictures of val or test are those of another split too, and are used: " in said
    assert "test test/e.png = train train/a.png, test test/f.png = val val/g.png; " in said


def test_copies_within_a_split_are_told_by_nobody(prepared):
    assert prepared(SPLITS) == []


def test_images_and_captions_of_each_split_are_told(prepared):
    (told,) = prepared(SPLITS, logging.INFO)
    counts = [(split, len(pictures)) for split, pictures in SPLITS.items()]
    words = [f"{split} {number} images with {number} captions" for split, number in counts]
    assert told.endswith(": " + ", ".join(words))
