"""An imported set takes the bytes that it took where it was made."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from tasks.core.selection.real_bytes import jpeg_bytes
from tasks.core.training.eight_bits import round_images, round_texts
from tasks.core.training.pair_files import PAIRS, load_pairs, num_bytes, save_pairs, size_of
from tasks.exchange.export import Choice, export
from tasks.exchange.imports import import_set
from tasks.exchange.published import Stated
from tasks.exchange.source import open_source
from tests.exchange.test_real_pairs import CAPTIONS, picture, sources

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


@pytest.mark.parametrize("file", ["", "ids.csv"])
def test_a_coreset_takes_the_bytes_that_it_was_selected_with(file, made, folder):
    before = open_source(made[1], "herding-4")
    export(before, folder / "out", CHOICE)
    ref = import_set(made[1], folder / "out" / file, "theirs", Stated())[1]
    assert size_of(load_pairs(ref.folder)) == size_of(before.pairs)


def test_a_picture_that_a_list_names_twice_is_counted_once(made, folder):
    train = open_source(made[1], "herding-4").split("train")
    rows = "".join(f"train,train/{image:06d}.png,0\n" for image in (0, 0, 1, 1))
    (folder / "ids.csv").write_text(f"split,file_name,caption_number\n{rows}")
    ref = import_set(made[1], folder / "ids.csv", "mine", Stated())[1]
    firsts = [train.caption_image_idx.tolist().index(image) for image in (0, 1)]
    texts = sum(2 * len(train.captions[row].encode()) for row in firsts)
    pictures = sum(jpeg_bytes(train.images[image]) for image in (0, 1))
    assert load_pairs(ref.folder).real_bytes == pictures + texts


@pytest.mark.parametrize("kind", ["folder", "struct"])
def test_real_pairs_take_their_pictures_as_jpeg_and_their_captions(kind, made, folder):
    path, stated = sources(folder)[kind]
    ref = import_set(made[1], path, "mine", stated)[1]
    pictures = sum(jpeg_bytes(picture(number)) for number in (0, 1, 2))
    size = size_of(load_pairs(ref.folder))
    assert size.num_bytes == pictures + sum(map(len, CAPTIONS)) and size.bits == 8
