"""Embeddings of anybody score as a naive ranking does, from every kind of file; what does not fit
is refused by file and key.
"""

from __future__ import annotations

import contextlib
import json

import numpy as np
import pandas as pd
import pyarrow
import pyarrow.parquet
import pytest
import torch
from safetensors.torch import save_file

from tasks.core.foundations.seeding import make_generator
from tasks.exchange.arrays import Place, read_array, read_integers
from tasks.exchange.score import Embedded, read_embeddings, score

FLIPS = 10  # of each file; 200 were tried once
OWNERS = [0, 0, 1, 2, 2, 2, 3, 4, 4, 5, 6, 6, 6, 6]


def embeddings(dtype=torch.float32):
    images = torch.randn(7, 5, generator=make_generator(0)).to(dtype)
    texts = (images.float()[OWNERS] + torch.randn(14, 5, generator=make_generator(1))).to(dtype)
    return images, texts


def naive(images, texts, k):
    """Recall@K by sorting, both ways, in numpy."""
    images, texts = (value.double().numpy() for value in (images, texts))
    unit = [value / np.linalg.norm(value, axis=1, keepdims=True) for value in (images, texts)]
    scores = unit[0] @ unit[1].T
    owners = np.array(OWNERS)
    i2t = [image in owners[np.argsort(-row)[:k]] for image, row in enumerate(scores)]
    t2i = [owner in np.argsort(-row)[:k] for owner, row in zip(owners, scores.T, strict=True)]
    return 100 * np.mean(i2t), 100 * np.mean(t2i)


def write(place, images, texts, owners=OWNERS):
    """Write the same in every kind of file."""
    pairs = {"image_embeds": images, "text_embeds": texts}
    save_file({**pairs, "caption_image_idx": torch.tensor(owners)}, place / "all.safetensors")
    save_file(pairs, place / "pairs.safetensors")
    for name, value in pairs.items():
        np.save(place / f"{name}.npy", value.numpy())
        pd.DataFrame({"id": range(len(value)), name: list(value.numpy())}).to_parquet(
            place / f"{name}.parquet"
        )
    (place / "list.json").write_text(json.dumps(list(owners)))
    (place / "object.json").write_text(json.dumps({"caption_image_idx": list(owners)}))
    np.save(place / "owners.npy", np.array(owners, dtype=np.int32))
    shuffled = list(enumerate(owners))[::-1]
    lines = [f"{caption},{image}" for caption, image in shuffled]
    (place / "owners.csv").write_text("\n".join(["caption,image", *lines]))
    pd.DataFrame({"caption_image_idx": owners}).to_parquet(place / "owners.parquet")


@pytest.mark.parametrize(
    ("files", "mapping"),
    [
        (["all.safetensors"], None),
        (["pairs.safetensors"], "list.json"),
        (["image_embeds.npy", "text_embeds.npy"], "object.json"),
        (["image_embeds.parquet", "text_embeds.parquet"], "owners.csv"),
        (["all.safetensors", "text_embeds.npy"], "owners.npy"),
        (["image_embeds.parquet:image_embeds", "all.safetensors:text_embeds"], "owners.parquet"),
        (["image_embeds.npy", "text_embeds.npy"], "all.safetensors"),
    ],
)
def test_every_kind_of_file_scores_as_a_naive_ranking(files, mapping, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    images, texts = embeddings()
    write(tmp_path, images, texts)
    given = read_embeddings(files, mapping)
    found = score(given, "cosine").optimistic
    for k in (1, 5):
        i2t, t2i = naive(images, texts, k)
        assert found[f"i2t_r{k}"] == pytest.approx(i2t)
        assert found[f"t2i_r{k}"] == pytest.approx(t2i)
    assert given.captions_per_image == (1, 4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_every_float_type_is_read(dtype, tmp_path):
    images, texts = embeddings(dtype)
    owners = torch.tensor(OWNERS)
    tensors = {"image_embeds": images, "text_embeds": texts, "caption_image_idx": owners}
    save_file(tensors, tmp_path / "all.safetensors")
    found = score(read_embeddings([str(tmp_path / "all.safetensors")], None), "cosine").optimistic
    assert found["i2t_r1"] == pytest.approx(naive(images, texts, 1)[0])


def test_numbers_of_the_other_byte_order_are_read(tmp_path):
    images, texts = embeddings()
    write(tmp_path, images, texts)
    np.save(tmp_path / "image_embeds.npy", images.numpy().astype(">f8"))
    files = [str(tmp_path / name) for name in ("image_embeds.npy", "text_embeds.npy")]
    found = read_embeddings(files, str(tmp_path / "list.json"))
    assert torch.equal(found.images.float(), images)


def test_ties_count_as_hits_at_random_and_as_misses():
    same = torch.ones(4, 3)
    found = score(Embedded(same, same, torch.arange(4)), "cosine")
    assert found.optimistic["i2t_r1"] == 100.0
    assert found.expected["i2t_r1"] == pytest.approx(25.0)
    assert found.pessimistic["i2t_r1"] == 0.0


def test_inner_products_are_asked_for():
    images = torch.tensor([[1.0, 0.0], [3.0, 3.0]])
    texts = torch.tensor([[1.0, 0.1], [1.0, 1.0]])
    given = Embedded(images, texts, torch.arange(2))
    assert score(given, "cosine").optimistic["t2i_r1"] == 100.0
    assert score(given, "inner").optimistic["t2i_r1"] == 50.0
    with pytest.raises(ValueError, match=r"--similarity: received 'l2'; allowed: cosine, inner"):
        score(given, "l2")


@pytest.mark.parametrize("similarity", ["cosine", "inner"])
@pytest.mark.parametrize(
    ("dtype", "scale"),
    [
        (torch.float32, 1e19),
        (torch.float32, 1e37),
        (torch.float32, 1e-13),
        (torch.float32, 1e-36),
        (torch.float64, 1e200),
        (torch.float64, 1e307),
        (torch.float64, 1e-200),
        (torch.float64, 1e-306),
        (torch.float16, 2.0**10),
        (torch.float16, 2.0**-8),
        (torch.bfloat16, 2.0**120),
    ],
)
def test_recalls_are_the_same_at_every_length(dtype, scale, similarity):
    images, texts = embeddings(dtype)
    owners = torch.tensor(OWNERS)
    there = score(Embedded(images, texts, owners), similarity)
    for given in (
        (images * scale, texts * scale),
        (images * scale, texts),
        (images, texts / scale),
    ):
        if all(bool(rows.isfinite().all() & (rows != 0).any(1).all()) for rows in given):
            assert score(Embedded(*given, owners), similarity) == there
    assert there.optimistic["i2t_r1"] > 0


def test_lengths_of_rows_do_not_matter_to_cosines():
    images, texts = embeddings(torch.float64)
    owners, lengths = torch.tensor(OWNERS), torch.logspace(-300, 300, 14, dtype=torch.float64)
    there = score(Embedded(images, texts, owners), "cosine")
    given = Embedded(images * lengths[:7, None], texts * lengths[:, None], owners)
    assert score(given, "cosine") == there
    with pytest.raises(ValueError, match=r"--similarity: received 'inner' with rows of .*cosine"):
        score(given, "inner")


def test_lists_with_64_bit_offsets_are_read(tmp_path):
    images, texts = embeddings()
    write(tmp_path, images, texts)
    large = pyarrow.array(texts.tolist(), pyarrow.large_list(pyarrow.float32()))
    pyarrow.parquet.write_table(pyarrow.table({"e": large}), tmp_path / "large.parquet")
    files = [str(tmp_path / name) for name in ("image_embeds.npy", "large.parquet")]
    assert torch.equal(read_embeddings(files, str(tmp_path / "list.json")).texts, texts)


def test_a_flipped_or_cut_file_is_read_or_refused_and_nothing_else(tmp_path):
    images, texts = embeddings()
    draw = np.random.default_rng(0)
    write(tmp_path, images, texts)
    names = [path.name for path in tmp_path.iterdir()]
    for name in names * FLIPS:
        path = tmp_path / name
        whole = path.read_bytes()
        place = int(draw.integers(len(whole)))
        flipped = whole[:place] + bytes([whole[place] ^ int(draw.integers(1, 256))])
        path.write_bytes(flipped + (whole[place + 1 :] if draw.random() < 0.7 else b""))
        with contextlib.suppress(ValueError, OSError):
            if name.endswith((".json", ".csv")) or name.startswith("owners"):
                read_integers(Place(path), "caption_image_idx")
            else:
                read_array(Place(path), name.split(".")[0])
        path.write_bytes(whole)


def broken(place):
    """Files that do not fit, each beside what its message says."""
    _, texts = embeddings()
    nan, zero = texts.clone(), texts.clone()
    nan[3, 1], zero[2] = float("nan"), 0.0
    np.save(place / "nan.npy", nan.numpy())
    np.save(place / "zero.npy", zero.numpy())
    np.save(place / "flat.npy", texts.numpy().ravel())
    np.save(place / "wide.npy", torch.cat([texts, texts], 1).numpy())
    np.save(place / "whole.npy", texts.numpy().astype(np.int64))
    np.save(place / "complex.npy", texts.numpy().astype(np.complex64))
    np.save(place / "none.npy", texts.numpy()[:0])
    np.save(place / "objects.npy", np.array([{}, []], dtype=object), allow_pickle=True)
    (place / "text.npy").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    (place / "cut.npy").write_bytes((place / "text_embeds.npy").read_bytes()[:-9])
    (place / "cut.safetensors").write_bytes((place / "all.safetensors").read_bytes()[:-9])
    (place / "cut.parquet").write_bytes((place / "text_embeds.parquet").read_bytes()[:-9])
    ragged = [list(range(1 + row % 2)) for row in range(14)]
    pd.DataFrame({"text_embeds": ragged}).to_parquet(place / "ragged.parquet")
    gaps = [None, *texts.tolist()[1:]]
    pd.DataFrame({"text_embeds": gaps}).to_parquet(place / "gaps.parquet")
    pd.DataFrame({"text_embeds": texts.tolist()})[:0].to_parquet(place / "empty.parquet")
    lists = pyarrow.array([], pyarrow.list_(pyarrow.float32()))
    pyarrow.parquet.write_table(pyarrow.table({"e": lists}), place / "no_rows.parquet")
    save_file({"e": texts.to(torch.float8_e4m3fn)}, place / "float8.safetensors")
    pd.DataFrame({"a": [1.0], "b": [2.0]}).to_parquet(place / "columns.parquet")
    (place / "model.pt").write_bytes(b"PK")
    np.savez(place / "archive.npz", text_embeds=texts.numpy())
    (place / "archive.npz").rename(place / "archive.npy")
    save_file({"image_embeds": texts}, place / "images.safetensors")
    pd.DataFrame({"image_embeds": texts.tolist()}).to_parquet(place / "images.parquet")


@pytest.mark.parametrize(
    ("texts", "parts"),
    [
        ("nan.npy", ["nan.npy: text_embeds", "not finite in row 3, in 1 rows", "finite vectors"]),
        ("zero.npy", ["zero.npy: text_embeds", "nothing but zeros in row 2"]),
        ("flat.npy", ["flat.npy: text_embeds: received (70,)", "allowed is (rows, width)"]),
        ("wide.npy", ["wide.npy: received 10 numbers a caption, beside 5 an image in"]),
        ("whole.npy", ["whole.npy: text_embeds: received (14, 5) of torch.int64", "float16"]),
        ("complex.npy", ["complex.npy: received the type complex64"]),
        ("none.npy", ["none.npy: text_embeds: received (0, 5)"]),
        ("objects.npy", ["objects.npy: received pickled objects", "never a pickle"]),
        ("text.npy", ["text.npy: received pickled objects, or what is no whole npy file"]),
        ("cut.npy", ["cut.npy: received"]),
        ("cut.safetensors:text_embeds", ["cut.safetensors:text_embeds: received what cannot be"]),
        ("cut.parquet", ["cut.parquet: received what cannot be read"]),
        ("ragged.parquet", ["ragged.parquet:text_embeds: received rows of [1, 2] numbers"]),
        ("gaps.parquet", ["gaps.parquet:text_embeds: received 1 empty rows"]),
        ("empty.parquet", ["empty.parquet:text_embeds: received no rows"]),
        ("no_rows.parquet", ["no_rows.parquet:e: received no rows"]),
        ("float8.safetensors", ["received (14, 5) of torch.float8_e4m3fn; allowed"]),
        ("columns.parquet", ["columns.parquet: received no 'text_embeds'; allowed: a, b", "KEY"]),
        ("all.safetensors:txt", ["all.safetensors: received no 'txt'; allowed: caption_image_idx"]),
        ("model.pt", ["model.pt: received a file of the kind '.pt'", "never a pickle"]),
        ("absent.npy", ["absent.npy is not there"]),
        ("archive.npy", ["archive.npy: received an archive of several arrays"]),
        ("images.safetensors", ["images.safetensors: received no 'text_embeds'; allowed: image_e"]),
        ("images.parquet", ["images.parquet: received no 'text_embeds'; allowed: image_embeds"]),
    ],
)
def test_embeddings_that_do_not_fit_are_refused_by_file_and_key(texts, parts, tmp_path):
    write(tmp_path, *embeddings())
    broken(tmp_path)
    files = [str(tmp_path / name) for name in ("image_embeds.npy", texts)]
    with pytest.raises((ValueError, FileNotFoundError)) as refused:
        read_embeddings(files, str(tmp_path / "list.json"))
    assert [part for part in parts if part not in str(refused.value)] == []
    assert "unsafely" not in str(refused.value)


def table(header, *rows):
    """The text of a csv."""
    return "\n".join([header, *(",".join(map(str, row)) for row in rows)])


def test_blanks_in_the_header_of_a_mapping_are_part_of_no_name(tmp_path):
    write(tmp_path, *embeddings())
    rows = [(image, caption) for caption, image in enumerate(OWNERS)][::-1]
    (tmp_path / "m.csv").write_text(table("image, caption", *rows))
    files = [str(tmp_path / f"{kind}_embeds.npy") for kind in ("image", "text")]
    found = read_embeddings(files, str(tmp_path / "m.csv"))
    assert found.owners.tolist() == OWNERS


def test_two_files_in_the_other_order_are_not_taken_for_each_other(tmp_path):
    images, texts = embeddings()
    save_file({"image_embeds": images}, tmp_path / "i.safetensors")
    save_file({"text_embeds": texts[:7]}, tmp_path / "t.safetensors")
    save_file({"anything": images}, tmp_path / "a.safetensors")
    (tmp_path / "m.json").write_text(json.dumps(list(range(7))))
    first, second, third = (str(tmp_path / f"{name}.safetensors") for name in "ita")
    for files in ([second, first], [first, first]):
        with pytest.raises(ValueError, match=r"safetensors: received no '.*_embeds'; allowed: "):
            read_embeddings(files, str(tmp_path / "m.json"))
    # Who names the key, or has a name of another kind, says what it is
    named = read_embeddings([f"{second}:text_embeds", third], str(tmp_path / "m.json"))
    assert torch.equal(named.images, texts[:7]) and torch.equal(named.texts, images)


@pytest.mark.parametrize(
    ("name", "content", "parts"),
    [
        (
            "m.json",
            [*OWNERS[:-1], 7],
            ["m.json: caption_image_idx: received 7 for caption 13", "0 to 6"],
        ),
        ("m.json", [*OWNERS[:-1], -1], ["received -1 for caption 13"]),
        ("m.json", OWNERS[:-1], ["received 13 numbers for 14 captions"]),
        (
            "m.json",
            [0 if owner == 3 else owner for owner in OWNERS],
            ["no caption for 1 images", "image 3"],
        ),
        (
            "m.json",
            [0.5, *OWNERS[1:]],
            ["m.json: caption_image_idx: received '[0.5", "list of integers"],
        ),
        ("m.json", {"owners": OWNERS}, ["an object with one under 'caption_image_idx'"]),
        ("m.json", [10**30, *OWNERS[1:]], ["m.json: caption_image_idx: received '[1000"]),
        ("m.csv", "image\n" + "9" * 40, ["m.csv: caption_image_idx: received a number of"]),
        ("m.csv", 'image\n"' + "9" * 200_000, ["m.csv: caption_image_idx: received field"]),
        ("m.json", "{", ["m.json: received no json"]),
        (
            "m.csv",
            "img\n0\n",
            ["m.csv: caption_image_idx: received no 'image' in the header 'img'", "with `image`"],
        ),
        (
            "m.csv",
            "caption,image\n0,0\n0,1\n",
            ["m.csv: caption: received 2 rows that do not name"],
        ),
        (
            "m.csv",
            table("caption,image,caption", *enumerate(OWNERS)),
            ["'caption' twice, of which"],
        ),
        ("m.csv", table("image,image", *enumerate(OWNERS)), ["'image' twice, of which one alone"]),
        ("m.csv", table("image", *enumerate(OWNERS)), ["2 cells in line 2, beside 1 in the head"]),
        ("m.csv", table("Caption,image", *enumerate(OWNERS)), ["the column 'Caption'", "`image`"]),
        ("m.csv", "image\n1_0\n", ["received '1_0', which is no whole number; allowed"]),
        ("m.csv", "image\n\u0663\n", ["which is no whole number; allowed"]),
        (
            "m.json",
            '{"caption_image_idx": [0], "caption_image_idx": [1]}',
            ["received no json ('caption_image_idx' twice, of which one alone would be read)"],
        ),
        ("m.npy", np.array(OWNERS, dtype=float), ["m.npy: caption_image_idx: received (14,) of"]),
        ("absent.json", None, ["absent.json is not there"]),
    ],
)
def test_a_mapping_that_does_not_fit_is_refused(name, content, parts, tmp_path):
    write(tmp_path, *embeddings())
    path = tmp_path / name
    if isinstance(content, np.ndarray):
        np.save(path, content)
    elif content is not None:
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    files = [str(tmp_path / f"{kind}_embeds.npy") for kind in ("image", "text")]
    with pytest.raises((ValueError, FileNotFoundError)) as refused:
        read_embeddings(files, str(path))
    assert [part for part in parts if part not in str(refused.value)] == []


def test_what_is_missing_is_asked_for_and_not_guessed(tmp_path):
    write(tmp_path, *embeddings())
    images, texts = (str(tmp_path / f"{kind}_embeds.npy") for kind in ("image", "text"))
    with pytest.raises(ValueError, match=r"--mapping: received none; .*it is not guessed"):
        read_embeddings([images, texts], None)
    with pytest.raises(ValueError, match=r"pairs.safetensors: received image_embeds, text_embeds;"):
        read_embeddings([str(tmp_path / "pairs.safetensors")], None)
    with pytest.raises(ValueError, match=r"image_embeds.npy: received one file of another kind"):
        read_embeddings([images], None)
    with pytest.raises(ValueError, match=r"EMBEDDINGS: received 3 files"):
        read_embeddings([images, texts, texts], None)
