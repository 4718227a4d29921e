"""Preparing: what lands on disk, that all checks come before the first picture, and what a bad
picture says.
"""

import io
import itertools
import struct
import tracemalloc
import zlib

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file

from tasks.core.data import image_files, images
from tasks.core.data.datasets import toy
from tasks.core.data.left_out import LeftOut
from tasks.core.data.preparation import check_free_space, prepare, required_bytes, tensor_header
from tasks.core.data.storage import load_split
from tasks.core.foundations.records import ImageCaptions
from tasks.core.foundations.seeding import make_generator
from tasks.core.foundations.tensor_files import save_tensors
from tests.core.data.caption_samples import read

TOY = toy.Config(seed=1, num_train=7, num_val=3, num_test=5, image_size=40, captions_per_image=2)


def _example(name="a.png", split="train", captions=("x",), load=None):
    return ImageCaptions(
        name, split, captions, load or (lambda: Image.new("RGB", (5, 3), (9, 8, 7)))
    )


def _three(**changes):
    return [_example(**changes), _example("b.png", "val"), _example("c.png", "test")]


def _prepare(examples, folder, image_size=8, max_pixels=1_000_000, **more):
    options = {"image_size": image_size, "max_pixels": max_pixels, "left_out": LeftOut(0.0)}
    return prepare(examples, folder, **{**options, **more})


def _stored(tmp_path, data, name="bad.jpg"):
    """Return the loader of a file, as the readers make it."""
    path = tmp_path / name
    path.write_bytes(data)
    return image_files.StoredImage(
        image_files.StoredFile(name, path, 0, len(data)), "dataset.json: images[4]"
    )


def _bytes(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_splits_are_contiguous_and_captions_ragged_and_ascending(tmp_path):
    examples = [
        _example("t", "test", ("1", "2", "3")),
        _example("r1", "train", ("4",)),
        _example("v", "val", ("5", "6")),
        _example("r2", "train", ("7", "8")),
    ]
    facts = _prepare(examples, tmp_path)
    names, captions = (
        pd.read_parquet(tmp_path / "images.parquet"),
        pd.read_parquet(tmp_path / "captions.parquet"),
    )
    assert list(names["name"]) == ["r1", "r2", "v", "t"] and list(names["split"]) == [
        "train",
        "train",
        "val",
        "test",
    ]
    assert (
        list(captions["image_idx"]) == [0, 1, 1, 2, 2, 3, 3, 3]
        and captions["image_idx"].dtype == np.int64
    )
    assert list(captions["text"]) == ["4", "7", "8", "5", "6", "1", "2", "3"]
    assert facts == {
        "image_size": 8,
        "num_images": {"train": 2, "val": 1, "test": 1},
        "num_captions": {"train": 3, "val": 2, "test": 3},
        "captions_per_image": {"min": 1, "max": 3},
        "left_out": {},
    }


def test_stored_pictures_are_the_drawn_ones_and_safetensors_reads_them(tmp_path):
    examples = read(toy, TOY)
    _prepare(examples, tmp_path, image_size=40)
    stored = load_file(tmp_path / "images.safetensors")["images"]
    assert stored.shape == (15, 40, 40, 3) and stored.dtype == np.uint8
    assert all(
        np.array_equal(pixels, np.asarray(example.load()))
        for pixels, example in zip(stored, examples, strict=True)
    )


def test_another_size_is_a_bicubic_resize_to_the_square(tmp_path):
    noise = torch.randint(
        0, 256, (21, 33, 3), dtype=torch.uint8, generator=make_generator(0)
    ).numpy()
    _prepare(_three(load=lambda: Image.fromarray(noise)), tmp_path, image_size=16)
    expected = np.asarray(Image.fromarray(noise).resize((16, 16), Image.Resampling.BICUBIC))
    assert np.array_equal(load_file(tmp_path / "images.safetensors")["images"][0], expected)


def test_preparing_twice_gives_the_same_bytes(tmp_path):
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
        _prepare(read(toy, TOY), folder, image_size=24)
    for name in ("images.safetensors", "images.parquet", "captions.parquet"):
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()


def test_load_split_returns_what_was_prepared(tmp_path):
    examples = read(toy, TOY)
    _prepare(examples, tmp_path, image_size=40)
    embeds = torch.randn(30, 6, generator=make_generator(2))
    save_tensors(tmp_path / "embeddings.safetensors", {"embeddings": embeds})
    val = load_split(tmp_path, tmp_path, "val")
    own = [example for example in examples if example.split == "val"]
    assert val.num_images == 3 and val.caption_image_idx.tolist() == [0, 0, 1, 1, 2, 2]
    assert val.captions == tuple(text for example in own for text in example.captions)
    assert torch.equal(val.text_embeds, embeds[14:20])
    assert np.array_equal(val.images[2], np.asarray(own[2].load()))


def test_header_is_padded_so_that_data_are_aligned():
    header = tensor_header("images", (3, 5, 5, 3))
    assert len(header) % 8 == 0 and struct.unpack("<Q", header[:8])[0] == len(header) - 8


def test_progress_is_called_at_least_at_every_percent_and_ends_complete(tmp_path):
    calls = []
    examples = [
        _example(f"{number}", split)
        for number, split in enumerate(["train"] * 248 + ["val", "test"])
    ]
    _prepare(
        examples, tmp_path, image_size=2, progress=lambda done, total: calls.append((done, total))
    )
    assert calls[0] == (0, 250) and calls[-1] == (250, 250) and len(calls) == 101
    assert max(after[0] - before[0] for before, after in itertools.pairwise(calls)) <= 3


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ([_example(captions=())], "captions of 'a.png': the image has no captions"),
        (
            [_example(captions="text")],
            "captions of 'a.png': received str 'text', allowed is a list",
        ),
        (
            [_example(captions=("x", "  "))],
            r"captions of 'a.png'\[1\]: received caption '  '",
        ),
        (
            [_example(split="dev")],
            "split of 'a.png': received split 'dev', allowed is one of train, val, test",
        ),
        (
            [_example("../a.png")],
            r"name: received image name '../a.png', allowed is a relative path without `..`",
        ),
        ([_example("/a.png")], "name: received image name '/a.png'"),
        (
            [_example(), _example(split="val")],
            "example 3: received the image name 'a.png' a second time, first at example 2",
        ),
        ([_example("b.png", "test")], "the image name 'b.png' a second time"),
    ],
)
def test_bad_metadata_is_named_and_leaves_nothing_behind(tmp_path, bad, message):
    with pytest.raises(ValueError, match=message):
        _prepare([_example("b.png", "val"), _example("c.png", "test"), *bad], tmp_path)
    assert list(tmp_path.iterdir()) == []


def _never():
    raise AssertionError("a picture was opened before the checks were done")


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_split_without_images_is_refused(tmp_path, missing):
    examples = [_example(split, split, load=_never) for split in ("train", "val", "test")]
    name = examples.pop(missing).split
    with pytest.raises(
        ValueError, match=f"split '{name}' has no images .*{name} 0.* at least one in each"
    ):
        _prepare(examples, tmp_path)


def test_too_little_space_says_what_is_needed_and_free(tmp_path):
    with pytest.raises(OSError, match=r"1,204,224,000 bytes are needed, 5,000 are free"):
        check_free_space(1_204_224_000, 5_000, tmp_path)
    check_free_space(5_000, 5_000, tmp_path)


def test_required_bytes_covers_what_is_written(tmp_path):
    examples = read(toy, TOY)
    _prepare(examples, tmp_path, image_size=40)
    written = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert written <= required_bytes(examples, 40) < written + 80_000


def test_memory_does_not_grow_with_the_number_of_pictures(tmp_path):
    def peak(count):
        examples = [
            _example(f"{number}", split)
            for number, split in enumerate(["train"] * count + ["val", "test"])
        ]
        tracemalloc.start()
        _prepare(examples, tmp_path, image_size=128)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(4)
    # 49 kB a picture: 100 more would be 4.9 MB, had they been kept.
    assert peak(150) - peak(50) < 500_000


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA", "CMYK", "I;16"])
def test_other_modes_are_converted_to_rgb(tmp_path, mode):
    if mode == "I;16":
        picture = Image.fromarray(np.full((6, 4), 204 * 256, np.uint16))
    else:
        picture = Image.new(
            "RGB", (4, 6), (204, 204, 204) if mode != "1" else (255, 255, 255)
        ).convert(mode)
    data = _bytes(picture, "TIFF" if mode == "CMYK" else "PNG")
    _prepare(_three(load=_stored(tmp_path, data)), tmp_path, image_size=4)
    pixels = load_file(tmp_path / "images.safetensors")["images"][0].astype(int)
    assert abs(pixels - (255 if mode == "1" else 204)).max() <= 2


@pytest.mark.parametrize("kind", images.FORMATS)
def test_every_allowed_format_is_read(tmp_path, kind):
    picture = images.open_image(_bytes(Image.new("RGB", (6, 6), (40, 40, 40)), kind), "x")
    assert abs(images.decode(picture, "x", image_size=6, max_pixels=36).astype(int) - 40).max() <= 2


def test_palette_with_transparency_and_exif_orientation(tmp_path):
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    loader = _stored(tmp_path, _bytes(palette, transparency=b"\x80\x40"), "p.png")
    assert images.decode(loader(), "p", image_size=4, max_pixels=16)[0, 0].tolist() == [10, 20, 30]
    turned = Image.fromarray(np.array([[[255, 0, 0], [0, 0, 255]]], np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # stored turned: show it rotated by 90 degrees clockwise
    pixels = images.decode(
        _stored(tmp_path, _bytes(turned, exif=exif), "e.png")(), "e", image_size=9, max_pixels=100
    )
    assert pixels[0].mean(0)[0] > 200 > 50 > pixels[-1].mean(0)[0] and pixels[-1].mean(0)[2] > 200


def _bomb():
    """Return a PNG that says 12,000 x 12,000 pixels and has none."""
    data = _bytes(Image.new("L", (1, 1)))
    header = data[12:16] + struct.pack(">II", 12_000, 12_000) + data[24:29]
    return data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            _bytes(Image.effect_noise((99, 99), 50), "JPEG")[:-2000],
            "the image cannot be decoded .* truncated or damaged, replace the file",
        ),
        (_bytes(Image.effect_noise((99, 99), 50), "PNG")[:-2000], "the image cannot be decoded"),
        (_bytes(Image.new("L", (9, 9)))[:20], r"not an image \(20 bytes"),
        (
            b"<html>404</html>",
            r"not an image \(16 bytes beginning with b'<html>40'\); allowed are JPEG",
        ),
        (b"", "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
        (
            _bomb(),
            "the image has 12000 x 12000 = 144,000,000 pixels, allowed are 1,000,000; "
            ".*prepare_data.max_pixels",
        ),
        (_bytes(Image.new("F", (3, 3)), "TIFF"), "mode F has no defined range"),
    ],
)
def test_bad_picture_names_file_and_field_and_leaves_nothing_behind(tmp_path, data, message):
    work = tmp_path / "work"
    work.mkdir()
    examples = [
        _example(),
        _example("b.png", "val"),
        _example("bad.jpg", "test", load=_stored(tmp_path, data)),
    ]
    with pytest.raises(ValueError, match=rf"bad\.jpg \(dataset\.json: images\[4\]\): {message}"):
        _prepare(examples, work)
    assert list(work.iterdir()) == []


def test_picture_that_went_away_names_file_and_field(tmp_path):
    loader = _stored(tmp_path, b"x")
    (tmp_path / "bad.jpg").unlink()
    with pytest.raises(
        ValueError, match=r"bad\.jpg \(dataset\.json: images\[4\]\): cannot be read"
    ):
        _prepare(_three(load=loader), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_pixels_at_the_limit_are_decoded(tmp_path):
    picture = Image.new("RGB", (30, 10))
    assert images.decode(picture, "x", image_size=5, max_pixels=300).shape == (5, 5, 3)
    with pytest.raises(ValueError, match="30 x 10 = 300 pixels, allowed are 299"):
        images.decode(picture, "x", image_size=5, max_pixels=299)
