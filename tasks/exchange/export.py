"""export: a stored set as a folder that loads without this program; `card.py` writes its page.

Beside the pictures (`layouts.py`) lie `pairs.safetensors` (text embeddings and similarity),
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

from tasks.core.foundations.seeding import derive_seed
from tasks.core.foundations.tensor_files import save_tensors
from tasks.exchange import card
from tasks.exchange.layouts import LAYOUTS, Content
from tasks.exchange.pictures import PICTURES, Rounding, encode, to_8_bits
from tasks.exchange.source import Source
from tasks.exchange.targets import CARD, FACTS, whole
from tasks.models import ENCODER
from tasks.settings.space import RANDOM
from tasks.store.artifacts import file_digest

IDS, TENSORS, TEST = "ids.csv", "pairs.safetensors", "test.safetensors"
FORMAT_VERSION = 1


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
                    f"{option}: received {value!r}; allowed: {', '.join(known)}; change {option}"
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
    rounding: Rounding


def export(source: Source, target: Path, choice: Choice, *, is_replaced: bool = False) -> Exported:
    """Write a set to the folder `target`, whole or not at all.

    Args:
        source: the set, see `open_source`.
        is_replaced: whether an older export in `target` may go.

    Returns:
        The size of what was written, and what rounding to 8 bits cost.

    Raises:
        ValueError: `target` exists, see `whole`; or a picture has several parts or texts.
    """
    _check_single(source)
    with whole(target, is_replaced=is_replaced) as place:
        pictures, rounding = to_8_bits(source.pairs.images, source.pairs.mean, source.pairs.std)
        origins = source.origins()
        content = Content(
            _encoded(pictures, choice.picture),
            _initial(source, choice.picture),
            choice.picture,
            source.pairs.text_embeds.numpy(),
            origins,
        )
        LAYOUTS[choice.layout](place, content)
        _write_tensors(source, place)
        if source.is_coreset:
            _write_ids(place / IDS, origins)
        if choice.is_test_included:
            _write_test(source, place)
        # Last: the facts have the digest of every file, and the card has that of the facts
        facts = _facts(source, place, choice, rounding)
        (place / FACTS).write_text(json.dumps(facts, indent=1) + "\n")
        text = card.render(source, facts, choice, file_digest(place / FACTS))
        (place / CARD).write_text(text, encoding="utf-8")
        num_bytes = sum(path.stat().st_size for path in place.rglob("*") if path.is_file())
    return Exported(source.pairs.num_pairs, num_bytes, rounding)


def _check_single(source: Source) -> None:
    """Refuse what the layouts, a row for each picture and its text, have no place for."""
    pairs = source.pairs
    if pairs.log_weights is not None:
        raise ValueError(
            f"{source.name}: received a set whose pairs have weights; an export has none; export a "
            "set made with `weights: none`"
        )
    if pairs.num_training_pairs == pairs.num_pairs:
        return
    if source.is_coreset:
        raise ValueError(
            f"SET: received {source.name}, a coreset of {pairs.num_pairs} pictures with "
            f"{pairs.num_training_pairs} captions; allowed are coresets with one caption a "
            f"picture, such as {RANDOM}; export one of those"
        )
    raise ValueError(
        f"{source.name}: received {pairs.num_pairs} pictures with {pairs.parts} x "
        f"{pairs.parts} parts and {pairs.num_training_pairs} texts; an export has one text a "
        "picture; export a set made with `parts: 1` and `texts_per_image: 1`"
    )


def _encoded(pictures: np.ndarray, kind: str) -> list[bytes]:
    # Compression holds no lock of Python's
    with ThreadPoolExecutor() as pool:
        return list(pool.map(lambda picture: encode(picture, kind), pictures))


def _initial(source: Source, kind: str) -> list[bytes]:
    if source.initial is None:
        return []
    shown, _ = to_8_bits(source.initial["images"], source.pairs.mean, source.pairs.std)
    return _encoded(shown, kind)


def _write_tensors(source: Source, place: Path) -> None:
    pairs = source.pairs
    tensors = {"text_embeds": pairs.text_embeds}
    if source.initial is not None:
        tensors["initial_text_embeds"] = source.initial["text_embeds"]
    if pairs.similarity is not None:
        soft = pairs.similarity
        tensors |= {
            "sim_diagonal": soft.diagonal,
            "sim_left": soft.left,
            "sim_right": soft.right,
        }
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


def _facts(source: Source, place: Path, choice: Choice, rounding: Rounding) -> dict[str, Any]:
    """Return what `set.json` holds."""
    # What the set was made from is in its manifest; nothing here is read from params.yaml of today
    pairs, made = source.pairs, source.own.manifest
    parts = ("own", "prepared", "embeddings", "start")
    files = sorted(path for path in place.rglob("*") if path.is_file())
    return {
        "format_version": FORMAT_VERSION,
        "layout": choice.layout,
        "set": str(source.name),
        "dataset": source.dataset,
        "licence": choice.licence,
        "licence_allows": choice.allowed,
        "num_pairs": pairs.num_pairs,
        "num_bytes": sum(path.stat().st_size for path in files),
        "mean": pairs.mean,
        "std": pairs.std,
        "step_sizes": pairs.step_sizes,
        "loss": pairs.loss,
        "storage": pairs.storage,
        "real_bytes": pairs.real_bytes,
        "sim_alpha": pairs.similarity.alpha if pairs.similarity else None,
        "rounding": asdict(rounding),
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
