"""Reads what the stages stored into the frames and galleries that `build.py` takes."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from tasks.core.foundations.file_names import CURVE, GALLERY, HISTORY, INITIAL, SCORE
from tasks.core.foundations.tensor_files import load_tensors
from tasks.core.training.pair_files import load_pairs
from tasks.reporting.gallery import Gallery, GalleryRow, to_pictures
from tasks.store import manifests


def load_gallery(decoded: Path, pairs: Path, num_rows: int) -> Gallery:
    """Return the first `num_rows` pairs of a distilled set.

    Args:
        decoded: folder with `gallery.json` of the evaluate stage.
        pairs: distilled artifact, with the set and its `initial.safetensors`.
    """
    content = json.loads((decoded / GALLERY).read_text())
    stored = load_pairs(pairs)
    initial = load_tensors(pairs / INITIAL)["images"]
    befores = to_pictures(initial[:num_rows], stored.mean, stored.std)
    afters = to_pictures(stored.images[:num_rows], stored.mean, stored.std)
    rows = []
    for before, after, row in zip(befores, afters, content["rows"], strict=False):
        texts = (row["initial_caption"], row["nearest_sentence"], row["similarity"])
        rows.append(GalleryRow(before, after, *texts))
    return Gallery(content["set"], tuple(rows))


def load_scores(folders: Iterable[Path]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the scores (one row per student, with its `seconds`) and the learning curves of score
    artifacts.
    """
    rows, curves = [], []
    for folder in folders:
        seconds = manifests.read(folder, "seconds").facts["seconds"]
        score = json.loads((folder / SCORE).read_text())
        rows.append({**score, "seconds": seconds})
        # A curve is drawn only beside the scores of its own student and protocol
        shown = {name: score[name] for name in ("student", "protocol")}
        curves.append(pd.read_parquet(folder / CURVE).assign(**shown))
    return pd.DataFrame(rows), pd.concat(curves, ignore_index=True)


def load_histories(folders: Iterable[Path]) -> pd.DataFrame:
    """Return the histories of distilled artifacts, one row per iteration, with the name of the
    set.
    """
    frames = [pd.read_parquet(folder / HISTORY).assign(set=folder.name) for folder in folders]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()
