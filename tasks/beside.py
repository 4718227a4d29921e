"""Measures of a set beside random pairs and the full data, for reports, leaderboards and MLflow.

The formulas are in `core/evaluation/measures.py`; docs/measures.md says what each is for. Whoever
shows measures says how recalls are looked up, and which measures it shows.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from tasks.core.evaluation import measures
from tasks.core.evaluation.statistics import mean
from tasks.core.foundations.file_names import SCORE
from tasks.settings.sets import AUGMENTED, EQUAL_BYTES, FULL, PLAIN, RANDOM, SetName
from tasks.store.artifacts import Ref

FURTHER = ("hlr", "lrs", "ars", "encoder_robustness")  # measures that need further students
# How a cell of a sweep compares, by the keys of `cell_scores.of_cell`
COMPARED = ("recovery", "over_random", "over_equal_bytes", *FURTHER)

# The mean recall of a set as a fraction of 1; None where it was not scored
Recall = Callable[[SetName], float | None]


def recalls_of(found: Mapping[str, Sequence[Ref]]) -> Recall:
    """Return the lookup in scores by set, of one kind of student: the mean over students."""

    def recall(name: SetName) -> float | None:
        texts = [(ref.folder / SCORE).read_text() for ref in found.get(str(name), ())]
        return mean(json.loads(text)["mean_recall"] for text in texts) / 100 if texts else None

    return recall


def measures_of(
    name: SetName, recall: Recall, unseen: Sequence[Recall] = (), has_alike_bytes: bool = False
) -> dict[str, float]:
    """Return the measures of a set that are known, by name, as fractions of 1.

    `recovery` needs the full data, `ior_pairs` random pairs, and `ior_bytes` random pairs of equal
    bytes. `hlr` and `lrs` need plain students, `ars` augmented ones, and `encoder_robustness`
    further ones. A set that is scored a further time (`name.ending`) has the first two alone.

    Args:
        recall: of students with the encoder that distils.
        unseen: of each further student.
        has_alike_bytes: whether `EQUAL_BYTES` of this size takes as many bytes as the set.
    """
    r_set, r_full = recall(name), recall(SetName(FULL))
    if name.num_pairs is None or r_set is None:
        return {}
    found: dict[str, float | None] = {}
    if r_full is not None:
        found["recovery"] = measures.recovery(r_set, r_full)
    # `random_equal_bytes-100` holds far more than 100 pairs: points over 100 of them say nothing
    if name.method != EQUAL_BYTES:
        found["ior_pairs"] = _gain(recall, name, RANDOM)
    if not name.ending:
        found |= _further(name, recall, found.get("ior_pairs"), r_full)
        if has_alike_bytes and name.method not in (RANDOM, EQUAL_BYTES):
            found["ior_bytes"] = _gain(recall, name, EQUAL_BYTES)
        away = [_gain(one, name, RANDOM) for one in unseen]
        found["encoder_robustness"] = _robustness(found.get("ior_pairs"), away)
    return {key: value for key, value in found.items() if value is not None}


def _further(
    name: SetName, recall: Recall, ior: float | None, r_full: float | None
) -> dict[str, float | None]:
    """Return the measures that need plain or augmented students."""
    found: dict[str, float | None] = {}
    r_plain = recall(replace(name, ending=PLAIN))
    if r_plain is not None and r_full is not None:
        found["hlr"] = hlr = measures.hard_label_recovery(r_plain, r_full)
        found["lrs"] = None if ior is None else measures.label_robust_score(ior, hlr)
    # Random pairs in crops as well: alike students on both sides
    ior_augmented = _gain(recall, replace(name, ending=AUGMENTED), RANDOM, AUGMENTED)
    if ior is not None and ior_augmented is not None:
        found["ars"] = measures.augmentation_robust_score(ior, ior_augmented)
    return found


def _robustness(ior: float | None, away: Sequence[float | None]) -> float | None:
    known = [one for one in away if one is not None]
    return None if ior is None else measures.encoder_robustness(ior, known)


def _gain(recall: Recall, name: SetName, method: str, ending: str = "") -> float | None:
    """Return the points of a set over that of another method and its size; None: one is unknown."""
    r_set, r_beside = recall(name), recall(SetName(method, name.num_pairs, ending))
    if r_set is None or r_beside is None:
        return None
    return measures.improvement_over_random(r_set, r_beside)
