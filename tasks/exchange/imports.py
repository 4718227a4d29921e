"""import: a set of somebody else becomes an artifact, `data/imported/<profile>/<name>-<pairs>`.

It may be an export of this program (`exported.py`), or a .pt file as published code saves it
(`published.py`). It may be a list of ids of real pairs, or real pairs themselves (`real_pairs.py`).
What a file does not say is stated by the user, never guessed.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from tasks.core.data.storage import load_split
from tasks.core.foundations.file_names import NAMES
from tasks.core.networks.encoders import ImageEncoder
from tasks.core.selection.real_bytes import RealBytes
from tasks.core.training import pair_files
from tasks.core.training.pair_files import save_pairs
from tasks.core.training.pair_set import PairSet
from tasks.exchange.arrays import read_json, read_rows, whole_number
from tasks.exchange.asked import FITS, FITTED, WORDS, Made, differences
from tasks.exchange.export import IDS
from tasks.exchange.exported import read_export
from tasks.exchange.pair_rows import TABLES, TEXT
from tasks.exchange.pictures import to_images
from tasks.exchange.published import PUBLISHED, Stated, read_published
from tasks.exchange.real_pairs import LEFT_OUT, SOURCE, read_pairs
from tasks.exchange.source import Inputs, part
from tasks.exchange.targets import FACTS
from tasks.settings import steps
from tasks.settings.params import Params
from tasks.settings.sets import SetName
from tasks.settings.validation import imported_of
from tasks.shared_pictures import held_out
from tasks.store import artifacts, caching
from tasks.store.artifacts import Key, Ref, file_digest

ID = ("split", "file_name", "caption_number")
# Kinds of what is imported; the last two are real pairs
EXPORT, PUBLISHED_FILE, LIST, PAIRS = "export", "published", "ids", "pairs"


def import_set(
    params: Params, path: Path, name: str, stated: Stated, *, is_replaced: bool = False
) -> tuple[SetName, Ref]:
    """Store a set, and return its name with its reference.

    Args:
        path: the file or folder of the set.
        name: how the set is called here, without its size.
        stated: what the file does not say itself.
        is_replaced: whether a set of that name may be replaced.

    Raises:
        ValueError: it is none of the four kinds, does not fit the profile, or is there already;
            or `methods.imported` does not take its name or size.
        FileNotFoundError: it is not there, or the profile's dataset is not prepared.
    """
    if not path.exists():
        raise FileNotFoundError(f"PATH: {path} is not there; change PATH")
    given = Inputs(
        part(steps.preparation(params).folder),
        part(steps.embedding(params).folder),
        part(steps.start(params).folder),
    )
    made = {item: Made.of(getattr(given, item).manifest) for item in FITTED}
    for item, words in differences(params, made).items():
        raise ValueError(
            f"{getattr(given, item).folder}: received an artifact of other parameters ({words}); "
            "allowed is that of the present ones, which the set has to fit; run `vl-distillery "
            "train_experts` first"
        )
    kind, read = _kind(path, stated)
    pairs = _fitting(read(path, stated, given, params), path, given)
    set_name = SetName(name, pairs.num_pairs)
    imported_of([str(set_name)], params.general.budgets, "--as")
    folder = steps.imported(params, set_name)
    if folder.exists() and not is_replaced:
        raise ValueError(
            f"--as: received {name!r}, and {folder} exists; allowed is a name that is free; choose "
            "another, or replace it with --replace"
        )
    if kind == PAIRS:
        read_from = {"source": pairs.provenance[SOURCE]}
    else:
        # The facts of an export name the digest of each of its files, so that one file is enough
        file = path if path.is_file() else path / FACTS
        read_from = {f"source/{file.name}": file_digest(file)}
    inputs = {item: one.digest for item, one in made.items()}
    # Without code: an import runs whenever it is asked for, and no lookup compares this key
    key = Key("import", {"kind": kind, **asdict(stated)}, {**inputs, **read_from}, "")

    def build(place: Path) -> dict[str, Any]:
        provenance = {"method": name, "profile": params.profile, "imported": kind}
        save_pairs(place, pairs.with_provenance({**provenance, **pairs.provenance}))
        fits = {item: asdict(one) for item, one in made.items()}
        return {"num_pairs": pairs.num_pairs, FITS: fits, WORDS: _has_words(kind, path)}

    with artifacts.lock(folder):
        manifest = artifacts.write(folder, key, build, {"git": dict(caching.git_state())})
    return set_name, Ref(str(folder), manifest.digest)


def left_out_of(folder: Path) -> dict[str, Any]:
    """Return what an import left out, by reason: how many, and the first of them."""
    provenance = json.loads((folder / pair_files.FACTS).read_text())["provenance"]
    return dict(provenance.get(LEFT_OUT, {}))


def _has_words(kind: str, path: Path) -> bool:
    """Whether the texts of a set stand for sentences. An export has ids only of a coreset."""
    return kind in (LIST, PAIRS) or (kind == EXPORT and (path / IDS).is_file())


def _kind(path: Path, stated: Stated) -> tuple[str, Callable[..., PairSet]]:
    if path.is_dir() and (path / FACTS).is_file():
        return EXPORT, read_export
    # A csv holds ids or real pairs; who states its columns says that it holds pairs
    has_columns = (stated.picture_column, stated.caption_column) != (None, None)
    if path.is_dir() or (path.suffix in TABLES and (path.suffix != ".csv" or has_columns)):
        return PAIRS, _pairs
    if path.suffix in (".pt", ".pth"):
        return PUBLISHED_FILE, _published
    if path.suffix in (".csv", ".json"):
        return LIST, _ids
    raise ValueError(
        f"PATH: received {path}; allowed is an export (a folder with {FACTS}), a .pt file with "
        f"{', '.join(PUBLISHED)}, a .csv or .json with {', '.join(ID)}, or real pairs: a folder of "
        f"pictures beside {TEXT} files, or a {', '.join(TABLES)}; change PATH"
    )


def _published(path: Path, stated: Stated, given: Inputs, params: Params) -> PairSet:
    return read_published(path, stated, params.text_encoder.label)


def _pairs(path: Path, stated: Stated, given: Inputs, params: Params) -> PairSet:
    return read_pairs(path, stated, params, _encoder(given), held_out(given.prepared.folder))


def _ids(path: Path, stated: Stated, given: Inputs, params: Params) -> PairSet:
    """Return the real pairs that a list names, as a coreset holds them."""
    try:
        rows = _rows(path)
        wanted = [(str(row[ID[0]]), str(row[ID[1]]), whole_number(str(row[ID[2]]))) for row in rows]
        if not rows:
            raise ValueError("no rows")
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        told = f"rows without {error}" if isinstance(error, KeyError) else f"{error!r:.120}"
        raise ValueError(
            f"{path}: received {told}; allowed are rows with {', '.join(ID)}, the last a "
            "whole number; change the file, or state --picture-column and --caption-column of a "
            "table of real pairs"
        ) from error
    stated.only("a list of ids")
    names = pd.read_parquet(given.prepared.folder / NAMES)
    train = load_split(given.prepared.folder, given.embeddings.folder, "train")
    places = {name: row for row, name in enumerate(names.loc[names["split"] == "train", "name"])}
    counts = train.caption_image_idx.bincount()
    images, captions = [], []
    for row, (split, name, caption) in enumerate(wanted):
        image = places.get(name) if split == "train" else None
        if image is None or not 0 <= caption < int(counts[image]):
            raise ValueError(
                f"{path}: row {row}: received {split}, {name}, {caption}; allowed is a training "
                "picture of the profile and the number of one of its captions, from 0; change the "
                "file"
            )
        images.append(image)
        captions.append(int(torch.searchsorted(train.caption_image_idx, image)) + caption)
    encoder = _encoder(given)
    side = train.images.shape[1]
    pictures = (train.images[row] for row in images)
    shown = to_images(pictures, (len(images), side), encoder.mean, encoder.std)
    # A picture is kept once, however many of its captions are listed
    taken = RealBytes(train).total(torch.tensor(images).unique(), torch.tensor(captions))
    texts = train.text_embeds[captions]
    return PairSet(shown, texts, encoder.mean, encoder.std, real_bytes=taken)


def _rows(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".csv":
        return read_rows(path)[1]
    rows: list[dict[str, Any]] = read_json(path)
    return rows


def _fitting(pairs: PairSet, path: Path, given: Inputs) -> PairSet:
    """Return the set in the normalisation of the profile's encoder; its images change in place.

    Step sizes stay, unlike in `transfer` to another encoder: only the scale of the images changes.

    Raises:
        ValueError: images of another size, texts of another width or of zeros, or a single pair.
    """
    side = given.prepared.manifest.params["image_size"]
    width = given.embeddings.manifest.facts["dim"]  # type: ignore[typeddict-item]
    channels, *sides = pairs.images.shape[1:]
    if pairs.image_size is not None:
        sides = [pairs.image_size] * 2
    found = (channels, *sides, pairs.text_embeds.shape[1])
    if found != (3, side, side, width) or pairs.num_pairs < 2:
        raise ValueError(
            f"{path}: received {pairs.num_pairs} images of {found[:3]} and texts of {found[3]} "
            f"numbers; allowed are at least 2, of {(3, side, side)} and {width}, as the profile "
            "has them; change prepare_data.image_size or embed_captions"
        )
    empty = (~(pairs.text_embeds != 0).any(1)).nonzero()
    if len(empty):
        raise ValueError(
            f"{path}: received a text of zeros alone in row {int(empty[0])}, {len(empty)} in all; "
            "allowed are embeddings, which are not zero; change the file"
        )
    encoder = _encoder(given)
    if (pairs.mean, pairs.std) != (encoder.mean, encoder.std):
        # With the set's m, s and the encoder's M, S: (s x + m - M) / S, in place, since sets are
        # large
        here, there = (
            torch.tensor([one.mean, one.std]).view(2, 3, 1, 1) for one in (pairs, encoder)
        )
        pairs.images.mul_(here[1] / there[1]).add_((here[0] - there[0]) / there[1])
        pairs = replace(pairs, storage="float32")  # the values are no longer those of 8 bits
    return replace(pairs, mean=encoder.mean, std=encoder.std)


def _encoder(given: Inputs) -> ImageEncoder:
    """Return the normalisation of the profile's encoder."""
    # The normalisation alone is needed, so that no network is built
    facts = json.loads((given.start.folder / "encoder.json").read_text())
    return ImageEncoder(nn.Identity(), 0, tuple(facts["mean"]), tuple(facts["std"]))
