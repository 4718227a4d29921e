"""Reads what `export` wrote, in any layout, for an import.

The facts (`export_facts.py`) and the digests of all files come first. Then tensors and pictures are
read, and must fit each other.
"""

from __future__ import annotations

import io
import json
import math
import tarfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import torch
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor

from tasks.core.data.tables import Leaf, open_table
from tasks.core.foundations.tensor_files import load_tensors
from tasks.core.training.eight_bits import round_texts
from tasks.core.training.pair_files import TEXT_IMAGE_IDX
from tasks.core.training.pair_set import LEFT, LOG_WEIGHTS, PairSet, Similarity
from tasks.exchange.export import TENSORS
from tasks.exchange.export_facts import read_facts
from tasks.exchange.layouts import ROWS, TABLE
from tasks.exchange.pictures import to_images
from tasks.exchange.published import Stated
from tasks.exchange.source import Inputs
from tasks.exchange.targets import FACTS
from tasks.models import ENCODER
from tasks.settings.params import Params
from tasks.store.artifacts import file_digest

# What reading the rows, tensors and pictures of a damaged or hostile export raises
_DAMAGED = (
    *(OSError, ValueError, TypeError, KeyError, AttributeError, SyntaxError, RecursionError),
    *(EOFError, OverflowError, tarfile.TarError, pyarrow.ArrowException, SafetensorError),
    Image.DecompressionBombError,
)


@dataclass(frozen=True)
class Form:
    """How the images of an export make stored pictures.

    Attributes:
        num_images: that a student sees, a file each.
        parts: images along a side of a stored picture.
        picture_size: side of a stored picture in pixels.
        image_size: side of an image as students see it.
    """

    num_images: int
    parts: int
    picture_size: int
    image_size: int

    @property
    def num_pictures(self) -> int:
        return self.num_images // self.parts**2


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


def read_export(path: Path, stated: Stated, given: Inputs, params: Params) -> PairSet:
    """Return the set of an export: stored pictures with what students are trained with.

    Args:
        path: its folder.
        stated: nothing, since an export says all itself.

    Raises:
        ValueError: a file is damaged or missing; parts of the set do not fit each other; or it
            does not fit the profile.
    """
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
    side, most = given.prepared.manifest.params["image_size"], params.general.budgets[-1]
    try:
        return _checked(Listed(path, facts["files"]), facts, sizes, side, most)
    except _DAMAGED as error:
        raise ValueError(
            f"{path}: received {type(error).__name__}: {error}; allowed is what `export` wrote, at "
            f"prepare_data.image_size={side}; export the set again, or change the profile"
        ) from error


def _form(facts: dict[str, Any], num_texts: int, side: int, most: int) -> Form:
    """Return the form that the facts tell; refuse other images than those of `side` pixels, and
    more than `most` pictures.
    """
    # An older export has one text an image, and files of the size of an image
    image_size = facts["image_size"] or side
    picture_size, parts = facts["picture_size"] or image_size, facts["parts"]
    num_images = facts["num_images"] or num_texts
    form = Form(num_images, parts, picture_size, image_size)
    if form.num_pictures > most:
        raise ValueError(f"{form.num_pictures} pairs, more than the largest of `budgets`, {most}")
    if image_size != side:
        raise ValueError(f"image_size: {image_size}, the side of the images that students see")
    if picture_size > image_size or picture_size % parts or num_images % parts**2:
        raise ValueError(
            f"{num_images} images of pictures of {picture_size} px with {parts} x {parts} parts, "
            f"for students that see {image_size} px"
        )
    return form


def _checked(
    listed: Listed, facts: dict[str, Any], sizes: dict[str, float] | None, side: int, most: int
) -> PairSet:
    """Return the set of files that are the export's; refuse more than `most` pairs."""
    tensors = load_tensors(listed.file(TENSORS))
    texts = tensors["text_embeds"]
    form = _form(facts, len(texts), side, most)
    text_image_idx = _text_image_idx(tensors, form.num_images)
    soft = Similarity.of(tensors, facts["sim_alpha"]) if LEFT in tensors else None
    # A damaged file must not give students a similarity of rank 0, or one that is not finite
    if soft and not (math.isfinite(soft.alpha) and soft.left.numel()):
        raise ValueError(f"a similarity with alpha {soft.alpha} and rows {tuple(soft.left.shape)}")
    mean, std, kept = tuple(facts["mean"]), tuple(facts["std"]), facts["storage"]
    if kept == "uint8" and not bool((round_texts(texts) == texts).all()):
        raise ValueError(f"storage: {kept!r}, and texts that float16 does not hold")
    bodies = _READERS[facts["layout"]](listed)
    pictures = (_picture(name, body, form.picture_size // form.parts) for name, body in bodies)
    shape = form.num_pictures, form.picture_size
    image_size = form.image_size if form.picture_size < form.image_size else None
    return PairSet(
        to_images(pictures, shape, mean, std, parts=form.parts),
        texts,
        mean,
        std,
        similarity=soft,
        step_sizes=sizes,
        loss=facts["loss"],
        storage=kept,
        parts=form.parts,
        image_size=image_size,
        text_image_idx=text_image_idx,
        real_bytes=facts["real_bytes"],
        log_weights=tensors.get(LOG_WEIGHTS),
    )


def _text_image_idx(tensors: dict[str, Tensor], num_images: int) -> Tensor | None:
    """Return the image of each text; None where text i is that of image i.

    A `PairSet` checks that they ascend, and that each image has one.
    """
    found = tensors.get(TEXT_IMAGE_IDX)
    if found is None:
        return None
    if found.ndim != 1 or found.dtype != torch.int64 or not len(found):
        raise ValueError(f"{TEXT_IMAGE_IDX}: {tuple(found.shape)} of {found.dtype}")
    # Before they are counted: a number too large would take memory
    lowest, highest = map(int, found.aminmax())
    if lowest < 0 or highest >= num_images:
        raise ValueError(
            f"{TEXT_IMAGE_IDX}: {lowest} to {highest}, where images are 0 to {num_images - 1}"
        )
    return found


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
            raise ValueError(f"{picture.size} pixels, allowed is {(side, side)}")
        return np.array(picture.convert("RGB"))
    except _DAMAGED as error:
        raise ValueError(f"the picture {name}: {error}") from error
