"""The numbers of one cell of a sweep, from what its students scored."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks.beside import FURTHER, measures_of, recalls_of
from tasks.core.evaluation import metrics
from tasks.core.evaluation.statistics import describe
from tasks.core.foundations.file_names import HISTORY, SCORE
from tasks.reporting.equal_bytes import are_comparable
from tasks.reporting.figures import PARTS
from tasks.settings.sets import EQUAL_BYTES, FULL, SetName
from tasks.settings.space import RANDOM
from tasks.store import manifests
from tasks.store.artifacts import Ref

LAST = 0.1  # share of the iterations that count as the end of a distillation
VALIDATION, MEAN = "val_mean_recall", "mean_recall"


Found = Mapping[str, Sequence[Ref]]  # scores by set


def of_cell(
    name: str, found: Found, distilled: Ref, unseen: Sequence[Found] = ()
) -> dict[str, Any]:
    """Return what a leaderboard shows of a cell.

    Args:
        name: of the distilled set.
        found: scores by set, with random selection of the same size and the full data. Random
            pairs of the set's bytes are there where the sweep has them.
        unseen: the same of each further student.

    Returns:
        A dictionary:
        n: number of students.
        first_val: validation recall of the first student.
        val, and each of `metrics.NAMES`: mean over students.
        the same with `_std`: deviation (divisor n - 1); None for one student.
        recovery: share of the full data's mean recall.
        over_random: ratio to random selection of the same size.
        over_equal_bytes: ratio to random pairs of its bytes, see `equal_bytes.py`. These three are
            None where the reference scored 0 or is not there.
        each of `beside.FURTHER`: see `measures_of`; None where it is unknown.
        seconds: of the set and its students.
        set_bytes: as stored.
        loss: mean distillation loss of the last tenth of the iterations.
        device: that the set was distilled on.
    """
    scores = {key: [_read(ref) for ref in refs] for key, refs in found.items()}
    own = scores.pop(name)
    told: dict[str, Any] = {"n": len(own), "first_val": own[0][VALIDATION]}
    for key, column in (("val", VALIDATION), *((metric, metric) for metric in metrics.NAMES)):
        values = describe(score[column] for score in own)
        told |= {key: values.mean, f"{key}_std": values.deviation}
    size = SetName.parse(name).num_pairs

    def ratio_to(key: str) -> float | None:
        mean = describe(score[MEAN] for score in scores[key]).mean if key in scores else 0.0
        return told[MEAN] / mean if mean else None

    # Seconds are those of the set and of its own students; coresets and full data are shared by
    # cells
    made, equal = [distilled, *found[name]], str(SetName(EQUAL_BYTES, size))
    beside = measures_of(
        SetName.parse(name), recalls_of(found), [recalls_of(one) for one in unseen]
    )
    real_bytes = scores[equal][0]["num_bytes"] if equal in scores else None
    is_equal = are_comparable(own[0]["num_bytes"], real_bytes)
    return {
        **told,
        **{key: beside.get(key) for key in FURTHER},
        "recovery": ratio_to(FULL),
        "over_random": ratio_to(str(SetName(RANDOM, size))),
        "over_equal_bytes": ratio_to(equal) if is_equal else None,
        "seconds": sum(manifests.read(ref.folder, "seconds").facts["seconds"] for ref in made),
        "set_bytes": own[0]["num_bytes"],
        "loss": final_loss(distilled.folder),
        "device": manifests.read(distilled.folder, "device").facts["device"],
    }


def final_loss(folder: Path) -> float:
    """Return the mean loss of the last iterations of a set, without those of its warm start."""
    import pandas as pd

    history = pd.read_parquet(folder / HISTORY)
    # A warm start minimises another loss
    if PARTS in history:
        history = history[history[PARTS] != 1.0]
    last = history.sort_values("iteration")["loss"].tail(math.ceil(len(history) * LAST))
    return float(last.mean())


def _read(ref: Ref) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ref.folder / SCORE).read_text())
    return found
