"""An imported set takes the bytes that it took where it was made."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from tasks.core.training.eight_bits import round_images, round_texts
from tasks.core.training.pair_files import PAIRS, load_pairs, num_bytes, save_pairs
from tasks.exchange.export import Choice, export
from tasks.exchange.imports import import_set
from tasks.exchange.published import Stated
from tasks.exchange.source import open_source

CHOICE = Choice("folder", "png", False, "unknown", "unknown")


def eight_bit(chosen, folder):
    """An export of a set of 8-bit pictures and float16 texts, with the set."""
    source = open_source(chosen, "bi_trajectory-4")
    pairs = source.pairs
    images = round_images(pairs.images, pairs.mean, pairs.std)
    texts = round_texts(pairs.text_embeds)
    pairs = replace(pairs, images=images, text_embeds=texts, storage="uint8")
    export(replace(source, pairs=pairs), folder / "out", CHOICE)
    return pairs


def test_a_set_of_8_bits_comes_back_as_the_same_bytes(made, folder):
    before = eight_bit(made[1], folder)
    ref = import_set(made[1], folder / "out", "theirs", Stated())[1]
    after = load_pairs(ref.folder)
    assert after.storage == "uint8" and num_bytes(after) == num_bytes(before)
    save_pairs(folder, before)
    assert (ref.folder / PAIRS).read_bytes() == (folder / PAIRS).read_bytes()


def test_a_set_of_8_bits_in_another_normalisation_becomes_one_of_float32(made, folder):
    before = eight_bit(made[1], folder)
    facts = json.loads((folder / "out/set.json").read_text())
    (folder / "out/set.json").write_text(json.dumps({**facts, "std": [0.2, 0.3, 0.4]}))
    ref = import_set(made[1], folder / "out", "theirs", Stated())[1]
    after = load_pairs(ref.folder)
    assert after.storage == "float32" and after.std == (0.5, 0.5, 0.5)
    torch.testing.assert_close(after.images, before.images)


def test_an_export_without_a_storage_is_of_float32(made, folder):
    place = folder / "out"
    export(open_source(made[1], "bi_trajectory-4"), place, CHOICE)
    facts = json.loads((place / "set.json").read_text())
    assert facts.pop("storage") == "float32"
    (place / "set.json").write_text(json.dumps(facts))
    ref = import_set(made[1], place, "theirs", Stated())[1]
    assert load_pairs(ref.folder).storage == "float32"


def test_8_bits_that_do_not_hold_the_values_are_refused_and_nothing_is_written(made, folder):
    place = folder / "out"
    export(open_source(made[1], "bi_trajectory-4"), place, CHOICE)
    facts = json.loads((place / "set.json").read_text())
    (place / "set.json").write_text(json.dumps({**facts, "storage": "uint8"}))
    with pytest.raises(ValueError, match=r"out: received ValueError: storage: 'uint8', and texts"):
        import_set(made[1], place, "theirs", Stated())
    assert not (folder / "data/imported").exists()
