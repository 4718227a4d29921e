"""Measures of sets beside random pairs and the full data, from the rows of a summary.

Some measures need further rows. HLR and LRS need
plain students (`evaluate.plain`), ARS those with augmented pictures (`evaluate.augmented`). IOR at
equal bytes needs the coreset `EQUAL_BYTES`. Encoder robustness needs further students
(`evaluate.cross_architecture`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace

import pandas as pd

from tasks import beside
from tasks.beside import Recall, measures_of
from tasks.reporting.equal_bytes import are_comparable
from tasks.reporting.tables import FULL, is_again
from tasks.reporting.text_tables import Table
from tasks.settings.sets import EQUAL_BYTES, PLAIN, SetName

Recalls = Mapping[tuple[str, str, int], float]  # by student, method and size, 0 of the full data
ALWAYS = ("recovery", "ior_pairs")
FURTHER = ("ior_bytes", *beside.FURTHER)
# Heading, factor and decimals of a column
SHOWN = {
    "recovery": ("of full data, %", 100, 1),
    "ior_pairs": ("IOR at equal pairs, points", 100, 1),
    "ior_bytes": ("IOR at equal bytes, points", 100, 1),
    "hlr": ("HLR, points", 100, 1),
    "lrs": ("LRS, %", 100, 1),
    "ars": ("ARS, %", 100, 1),
    "encoder_robustness": ("encoder robustness", 1, 2),
}
CAPTION = (
    "Measures of each set. IOR: points over random pairs; at equal bytes it is left empty where a "
    "set takes a tenth more or less than `random_equal_bytes`. "
    "HLR: points that are missing to full data with plain students. "
    "LRS: both in one number, where 100 % is the best. ARS: points over random with and without "
    "augmentation of pictures, in one number like it. Encoder robustness: mean IOR under encoders "
    "that distillation never saw, divided by that at home."
)


def measured(summary: pd.DataFrame, protocol: str, student: str) -> pd.DataFrame:
    """Return the measures of each set as fractions of 1, one row a set.

    Columns: `set`, `ALWAYS`, and those of `FURTHER` that at least one set has. NaN stands for a
    measure that a set lacks.

    Args:
        summary: `tables.summarise`, of all students.
        student: the main student, of the encoder that distils.
    """
    rows = summary[summary["protocol"] == protocol]
    recalls, num_bytes = {}, {}
    for row in rows.to_dict("records"):
        size = 0 if row["method"] == FULL else row["num_pairs"]
        recalls[row["student"], row["method"], size] = row["mean_recall"] / 100
        # Bytes are the set's, whichever student is trained on it
        num_bytes[row["method"], size] = row["num_bytes"]
    own = rows[(rows["student"] == student) & (rows["method"] != FULL) & ~is_again(rows)]
    home, *away = (
        _recall(recalls, one) for one in (student, *sorted(set(rows["student"]) - {student}))
    )
    found = []
    for row in own.to_dict("records"):
        name = SetName(row["method"], row["num_pairs"])
        real_bytes = num_bytes.get((EQUAL_BYTES, name.num_pairs))
        is_alike = are_comparable(row["num_bytes"], real_bytes)
        found.append({"set": row["set"], **measures_of(name, home, away, is_alike)})
    frame = pd.DataFrame(found).reindex(columns=["set", *ALWAYS, *FURTHER])
    return frame.drop(columns=[name for name in FURTHER if frame[name].isna().all()])


def _recall(recalls: Recalls, student: str) -> Recall:
    """Return the lookup of a set's recall under a student."""
    has_plain = any(label.endswith(PLAIN) for _, label, _ in recalls)

    def recall(name: SetName) -> float | None:
        found = recalls.get((student, name.label, name.num_pairs or 0))
        # A set that learned nothing for its students has no plain row: its own is one
        if found is None and has_plain and name.ending == PLAIN:
            return recall(replace(name, ending=""))
        return found

    return recall


def further(frame: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Return {set: {measure: value}} of `FURTHER`, four digits, without what is unknown."""
    found = {}
    for row in frame.to_dict("records"):
        values = {name: round(row[name], 4) for name in FURTHER if name in row}
        found[row["set"]] = {name: one for name, one in values.items() if not math.isnan(one)}
    return found


def listing(frame: pd.DataFrame, names: Iterable[str], where: str) -> Table | None:
    """Return rows of `measured` as a table.

    None where no set has a measure of `FURTHER`: other tables show recovery and the gain over
    random already.

    Args:
        names: the sets in their order; those without a row are left out.
        where: ends the caption.
    """
    columns = [name for name in SHOWN if name in frame]
    if not set(columns) & set(FURTHER):
        return None
    by_set = {row["set"]: row for row in frame.to_dict("records")}
    rows = []
    for row in (by_set[name] for name in names if name in by_set):
        texts = [_text(row[column], *SHOWN[column][1:]) for column in columns]
        rows.append((str(row["set"]), *texts))
    headings = tuple(SHOWN[name][0] for name in columns)
    return Table(f"{CAPTION} {where}", ("set", *headings), tuple(rows))


def _text(value: float, factor: float, decimals: int) -> str:
    return "" if math.isnan(value) else f"{factor * value:.{decimals}f}"
