"""export: a stored set as a folder that loads without this program; `card.py` writes its page.

The pictures are the images that a student sees, at the resolution that is stored (`layouts.py`).
Beside them lie `pairs.safetensors` (text embeddings, their images, weights and similarity),
`set.json` (all facts, and the digest of each file), and for a coreset `ids.csv`.
"""

from __future__ import annotations

import csv
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tasks.core.foundations.names import hint
from tasks.core.foundations.seeding import derive_seed
from tasks.core.foundations.tensor_files import save_tensors
from tasks.core.foundations.text_spans import TextSpans
from tasks.core.training.pair_files import TEXT_IMAGE_IDX
from tasks.core.training.pair_set import LOG_WEIGHTS, PairSet
from tasks.exchange import card
from tasks.exchange.layouts import LAYOUTS, Content
from tasks.exchange.pictures import PICTURES, Cost, cut, encode, to_8_bits
from tasks.exchange.source import Source
from tasks.exchange.targets import CARD, FACTS, whole
from tasks.models import ENCODER
from tasks.store.artifacts import file_digest

IDS, TENSORS, TEST = "ids.csv", "pairs.safetensors", "test.safetensors"
# Version 1: an image has one text and no weight, and its file is as large as students see it.
# Programs that read it alone refuse version 2, of which they would leave out what they do not know
FORMAT_VERSIONS = (1, 2)


@dataclass(frozen=True)
class Choice:
    """How a set is exported.

    Attributes:
        layout: one of `LAYOUTS`.
        picture: one of `PICTURES`.
        is_test_included: whether the test split and the weights of the image encoder go along. The
            card's program trains and scores with them.
        licence, allowed: of the source, and what it allows; `unknown` where nobody said.
    """

    layout: str
    picture: str
    is_test_included: bool
    licence: str
    allowed: str

    def __post_init__(self) -> None:
        for option, value, known in (
            ("--format", self.layout, LAYOUTS),
            ("--pictures", self.picture, PICTURES),
        ):
            if value not in known:
                raise ValueError(
                    f"{option}: received {value!r}{hint(value, known)}; allowed: "
                    f"{', '.join(known)}; change {option}"
                )
        for option, value in (("--licence", self.licence), ("--allows", self.allowed)):
            if not value.strip() or not value.isprintable():
                raise ValueError(
                    f"{option}: received {value!r}; allowed is one line of text; change {option}"
                )


@dataclass(frozen=True)
class Exported:
    """What was written."""

    num_pairs: int
    num_bytes: int
    cost: Cost


def export(source: Source, target: Path, choice: Choice, *, is_replaced: bool = False) -> Exported:
    """Write a set to the folder `target`, whole or not at all.

    Args:
        source: the set, see `open_source`.
        is_replaced: whether an older export in `target` may go.

    Returns:
        The size of what was written, and what 8 bits cost.

    Raises:
        ValueError: `target` exists, see `whole`.
    """
    pairs = source.pairs
    weights = None if pairs.log_weights is None else pairs.log_weights.tolist()
    with whole(target, is_replaced=is_replaced) as place:
        pictures, cost = to_8_bits(pairs.images, pairs.mean, pairs.std)
        origins = source.origins()
        content = Content(
            _encoded(cut(pictures, pairs.parts), choice.picture),
            _initial(source, choice.picture),
            choice.picture,
            pairs.text_embeds.numpy(),
            origins,
            _texts(pairs),
            weights,
        )
        LAYOUTS[choice.layout](place, content)
        _write_tensors(source, place)
        if source.is_coreset:
            _write_ids(place / IDS, origins)
        if choice.is_test_included:
            _write_test(source, place)
        # Last: the facts have the digest of every file, and the card has that of the facts
        facts = _facts(source, place, choice, cost)
        (place / FACTS).write_text(json.dumps(facts, indent=1) + "\n")
        text = card.render(source, facts, choice, file_digest(place / FACTS))
        (place / CARD).write_text(text, encoding="utf-8")
        num_bytes = sum(path.stat().st_size for path in place.rglob("*") if path.is_file())
    return Exported(pairs.num_pairs, num_bytes, cost)


def _texts(pairs: PairSet) -> list[slice] | None:
    """Return which texts belong to each image; None where text i is that of image i."""
    if pairs.text_image_idx is None:
        return None
    spans = TextSpans(pairs.text_image_idx, pairs.num_images)
    ends = spans.firsts + spans.counts
    return list(map(slice, spans.firsts.tolist(), ends.tolist()))


def _encoded(pictures: np.ndarray, kind: str) -> list[bytes]:
    # Compression holds no lock of Python's
    with ThreadPoolExecutor() as pool:
        return list(pool.map(lambda picture: encode(picture, kind), pictures))


def _initial(source: Source, kind: str) -> list[bytes]:
    if source.initial is None:
        return []
    pairs = source.pairs
    shown, _ = to_8_bits(source.initial["images"], pairs.mean, pairs.std)
    return _encoded(cut(shown, pairs.parts), kind)


def _write_tensors(source: Source, place: Path) -> None:
    pairs = source.pairs
    tensors = {"text_embeds": pairs.text_embeds}
    if source.initial is not None:
        tensors["initial_text_embeds"] = source.initial["text_embeds"]
    if pairs.text_image_idx is not None:
        tensors[TEXT_IMAGE_IDX] = pairs.text_image_idx
    if pairs.log_weights is not None:
        tensors[LOG_WEIGHTS] = pairs.log_weights
    if pairs.similarity is not None:
        tensors |= pairs.similarity.rows
    save_tensors(place / TENSORS, tensors)


def _write_ids(path: Path, origins: list[Any]) -> None:
    with path.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle)
        writer.writerow(("split", "file_name", "caption_number"))
        writer.writerows((row.split, row.file_name, row.caption_number) for row in origins)


def _write_test(source: Source, place: Path) -> None:
    test = source.split("test")
    tensors = {
        # A copy: the stored images are a memory map that may not be written to
        "images": torch.from_numpy(np.array(test.images)),
        "text_embeds": test.text_embeds,
        "caption_image_idx": test.caption_image_idx,
    }
    save_tensors(place / TEST, tensors)
    (place / ENCODER).write_bytes((source.start.folder / ENCODER).read_bytes())


def _facts(source: Source, place: Path, choice: Choice, cost: Cost) -> dict[str, Any]:
    """Return what `set.json` holds."""
    # What the set was made from is in its manifest; nothing here is read from params.yaml of today
    pairs, made = source.pairs, source.own.manifest
    parts = ("own", "prepared", "embeddings", "start")
    files = sorted(path for path in place.rglob("*") if path.is_file())
    return {
        "format_version": _version(pairs),
        "layout": choice.layout,
        "set": str(source.name),
        "dataset": source.dataset,
        "licence": choice.licence,
        "licence_allows": choice.allowed,
        "num_pairs": pairs.num_pairs,
        "num_images": pairs.num_images,
        "num_texts": pairs.num_training_pairs,
        "parts": pairs.parts,
        "picture_size": pairs.images.shape[-1],
        "image_size": _image_size(pairs),
        "num_bytes": sum(path.stat().st_size for path in files),
        "mean": pairs.mean,
        "std": pairs.std,
        "step_sizes": pairs.step_sizes,
        "loss": pairs.loss,
        "storage": pairs.storage,
        "real_bytes": pairs.real_bytes,
        "sim_alpha": pairs.similarity.alpha if pairs.similarity else None,
        "rounding": asdict(cost),
        "method": made.params["method"],
        "model": made.params["model"],
        "image_encoder": source.start.manifest.params,
        "image_encoder_sha256": source.start.manifest.files[ENCODER],
        "text_encoder": source.embeddings.manifest.params,
        "text_encoder_sha256": {
            name: digest
            for name, digest in source.embeddings.manifest.inputs.items()
            if name != "prepared"
        },
        "recipe": source.recipe,
        "student_seeds": _student_seeds(source),
        "scores": source.scores(),
        "scores_in_words": source.scores_in_words(),
        "artifacts": {name: getattr(source, name).manifest.digest for name in parts},
        "files": {str(path.relative_to(place)): file_digest(path) for path in files},
    }


def _version(pairs: PairSet) -> int:
    is_full_size = pairs.parts == 1 and pairs.images.shape[-1] == _image_size(pairs)
    is_single = pairs.text_image_idx is None and pairs.log_weights is None
    return 1 if is_full_size and is_single else 2


def _image_size(pairs: PairSet) -> int:
    """Return the side of the images that students see."""
    return pairs.image_size or int(pairs.images.shape[-1])


def _student_seeds(source: Source) -> list[dict[str, int]]:
    """Return the seeds of both projections of each student, as `build_dual_encoder` names them."""
    found = []
    # A set that was not scored tells one seed, so that the card's program can train a student
    for number in range(max(1, len(source.students))):
        seed = derive_seed(source.own.manifest.params["seed"], "student", number)
        found.append(
            {group: derive_seed(seed, f"{group}_projection") for group in ("image", "text")}
        )
    return found
