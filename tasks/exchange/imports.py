"""import: a set of somebody else becomes an artifact, `data/imported/<profile>/<name>-<pairs>`.

It may be an export of this program, a .pt file as published code saves it (`published.py`), or a
list of ids of real pairs. It may also be real pairs themselves (`real_pairs.py`). What a file does
not say is stated by the user, never guessed.
"""

from __future__ import annotations

import io
import json
import math
import tarfile
from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow
import torch
from PIL import Image
from safetensors import SafetensorError
from torch import nn

from tasks.core.data.storage import load_split
from tasks.core.data.tables import Leaf, open_table
from tasks.core.foundations.file_names import NAMES
from tasks.core.foundations.tensor_files import load_tensors
from tasks.core.networks.encoders import ImageEncoder
from tasks.core.selection.real_bytes import RealBytes
from tasks.core.training import pair_files
from tasks.core.training.eight_bits import round_texts
from tasks.core.training.pair_files import save_pairs
from tasks.core.training.pair_set import LEFT, PairSet, Similarity
from tasks.exchange.asked import FITS, FITTED, WORDS, Made, differences
from tasks.exchange.export import IDS, TENSORS
from tasks.exchange.export_facts import read_facts
from tasks.exchange.layouts import ROWS, TABLE
from tasks.exchange.pair_rows import TABLES, TEXT
from tasks.exchange.pictures import to_images
from tasks.exchange.published import PUBLISHED, Stated, read_published
from tasks.exchange.real_pairs import LEFT_OUT, SOURCE, read_pairs
from tasks.exchange.source import Part, part
from tasks.exchange.targets import FACTS
from tasks.models import ENCODER
from tasks.settings import steps
from tasks.settings.params import Params
from tasks.settings.sets import SetName
from tasks.settings.validation import imported_of
from tasks.store import artifacts, caching
from tasks.store.artifacts import Key, Ref, file_digest

# What reading the rows, tensors and pictures of a damaged or hostile export raises
_DAMAGED = (
    *(OSError, ValueError, TypeError, KeyError, AttributeError, SyntaxError, RecursionError),
    *(EOFError, OverflowError, tarfile.TarError, pyarrow.ArrowException, SafetensorError),
    Image.DecompressionBombError,
)
ID = ("split", "file_name", "caption_number")
# Kinds of what is imported; the last two are real pairs
EXPORT, PUBLISHED_FILE, LIST, PAIRS = "export", "published", "ids", "pairs"


@dataclass(frozen=True)
class Inputs:
    """The artifacts of the profile that a set has to fit."""

    prepared: Part
    embeddings: Part
    start: Part


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
        return EXPORT, _export
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


def _export(path: Path, stated: Stated, given: Inputs, params: Params) -> PairSet:
    """Read what `export` wrote, in any layout."""
    stated.only("an export")
    facts = read_facts(path / FACTS)
    # All digests before anything is parsed: what is read below is what the export's facts name
    for name, digest in facts["files"].items():
        file = path / name
        if not file.resolve().is_relative_to(path.resolve()):
            raise ValueError(
                f"{path / FACTS}: files: received {name!r}; allowed is the name of a file below "
                f"{path}; get the export again"
            )
        if not file.is_file() or file_digest(file) != digest:
            raise ValueError(
                f"{file}: received a file that is missing or not that of {FACTS}; allowed "
                "is the export as it was written; get it again"
            )
    told = given.embeddings.manifest
    weights = {name: digest for name, digest in told.inputs.items() if name != "prepared"}
    ours, theirs = (told.params, weights), (facts["text_encoder"], facts["text_encoder_sha256"])
    if ours != theirs:
        raise ValueError(
            f"{path / FACTS}: text_encoder: received {theirs}; allowed is that of the profile, "
            f"{ours}; change embed_captions of the profile"
        )
    # Learned step sizes are of one encoder; another one takes those of its own recipe
    is_same = facts["image_encoder_sha256"] == given.start.manifest.files[ENCODER]
    sizes = facts["step_sizes"] if is_same else None
    side = given.prepared.manifest.params["image_size"]
    try:
        listed, most = Listed(path, facts["files"]), params.general.budgets[-1]
        return _checked(listed, facts, sizes, side, most)
    except _DAMAGED as error:
        raise ValueError(
            f"{path}: received {type(error).__name__}: {error}; allowed is what `export` wrote, at "
            f"prepare_data.image_size={side}; export the set again, or change the profile"
        ) from error


@dataclass(frozen=True)
class Listed:
    """The files that the facts of an export name; their digests have been compared."""

    folder: Path
    names: Collection[str]

    def file(self, name: str) -> Path:
        """Return where a file lies."""
        if name not in self.names:
            raise ValueError(f"{name!r}, which `files` of {FACTS} does not name")
        return self.folder / name


def _checked(
    listed: Listed, facts: dict[str, Any], sizes: dict[str, float] | None, side: int, most: int
) -> PairSet:
    """Return the set of files that are the export's; refuse more than `most` pairs."""
    tensors = load_tensors(listed.file(TENSORS))
    texts = tensors["text_embeds"]
    if len(texts) > most:
        raise ValueError(f"{len(texts)} pairs, more than the largest of `budgets`, {most}")
    soft = Similarity.of(tensors, facts["sim_alpha"]) if LEFT in tensors else None
    # A damaged file must not give students a similarity of rank 0, or one that is not finite
    if soft and not (math.isfinite(soft.alpha) and soft.left.numel()):
        raise ValueError(f"a similarity with alpha {soft.alpha} and rows {tuple(soft.left.shape)}")
    mean, std = tuple(facts["mean"]), tuple(facts["std"])
    bodies = _READERS[facts["layout"]](listed)
    pictures = (_picture(name, body, side) for name, body in bodies)
    images = to_images(pictures, (len(texts), side), mean, std)
    kept = facts["storage"]
    if kept == "uint8" and not bool((round_texts(texts) == texts).all()):
        raise ValueError(f"storage: {kept!r}, and texts that float16 does not hold")
    found = PairSet(images, texts, mean, std, soft, sizes, facts["loss"], storage=kept)
    return replace(found, real_bytes=facts["real_bytes"])


Bodies = Iterator[tuple[str, bytes]]  # names and encoded pictures, one held at a time


def _folder(listed: Listed) -> Bodies:
    for row in json.loads(listed.file(ROWS).read_text()):
        yield row["file_name"], listed.file(row["file_name"]).read_bytes()


def _huggingface(listed: Listed) -> Bodies:
    table, row = open_table(listed.file(TABLE)), 0
    # A row group at a time, since the pictures of all may not fit into memory
    for group in range(table.file.num_row_groups):
        for bodies in table.arrays(group, Leaf("image", "bytes")):
            for body in bodies.to_pylist():
                yield f"row {row}", body
                row += 1


def _webdataset(listed: Listed) -> Bodies:
    for shard in sorted(name for name in listed.names if name.endswith(".tar")):
        with tarfile.open(listed.file(shard)) as tar:
            for member in tar:
                # `00001.png` is the picture; `00001.initial.png` and `00001.text_embed.npy` have
                # two dots
                if member.name.count(".") == 1 and not member.name.endswith(".json"):
                    body = tar.extractfile(member)
                    if body is None:
                        raise ValueError(f"{member.name} of {shard}, which is no file")
                    yield member.name, body.read()


_READERS = {"folder": _folder, "huggingface": _huggingface, "webdataset": _webdataset}


def _picture(name: str, body: bytes, side: int) -> np.ndarray:
    try:
        picture = Image.open(io.BytesIO(body))
        if picture.size != (side, side):  # before it is decoded
            raise ValueError(f"{picture.size} pixels")
        return np.array(picture.convert("RGB"))
    except _DAMAGED as error:
        raise ValueError(f"the picture {name}: {error}") from error


def _published(path: Path, stated: Stated, given: Inputs, params: Params) -> PairSet:
    return read_published(path, stated, params.text_encoder.label)


def _pairs(path: Path, stated: Stated, given: Inputs, params: Params) -> PairSet:
    return read_pairs(path, stated, params, _encoder(given))


def _ids(path: Path, stated: Stated, given: Inputs, params: Params) -> PairSet:
    """Return the real pairs that a list names, as a coreset holds them."""
    try:
        rows = _rows(path)
        wanted = [(str(row[ID[0]]), str(row[ID[1]]), int(str(row[ID[2]]))) for row in rows]
        if not rows:
            raise ValueError("no rows")
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(
            f"{path}: received {error!r:.120}; allowed are rows with {', '.join(ID)}, the last a "
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
        # As text: pandas would read a picture called `007` as 7, and `NA` as missing
        found = pd.read_csv(path, dtype=str, keep_default_na=False).to_dict("records")
        return [{str(name): value for name, value in row.items()} for row in found]
    rows: list[dict[str, Any]] = json.loads(path.read_text())
    return rows


def _fitting(pairs: PairSet, path: Path, given: Inputs) -> PairSet:
    """Return the set in the normalisation of the profile's encoder; its images change in place.

    Step sizes stay, unlike in `transfer` to another encoder: only the scale of the images changes.

    Raises:
        ValueError: images of another size, texts of another width or of zeros, or a single pair.
    """
    side = given.prepared.manifest.params["image_size"]
    width = given.embeddings.manifest.facts["dim"]  # type: ignore[typeddict-item]
    found = (*pairs.images.shape[1:], pairs.text_embeds.shape[1])
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
