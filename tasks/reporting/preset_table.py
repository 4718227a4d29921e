"""The table of a preset: every cell x method x size with its spread, published numbers of the same
setting beside it.

As CSV, Markdown and a page. Random selection of the same size and cell is in every table; a set
that several cells share stands there once. What further students scored
(`evaluate.cross_architecture`) stands in a table of its own for each of them. Same input, same
bytes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from tasks.core.evaluation.metrics import LISTED
from tasks.reporting.page import environment
from tasks.reporting.published import FOLDER, same_budget
from tasks.reporting.recall_table import beside, groups_by_size
from tasks.reporting.tables import (
    DERIVED,
    METRICS,
    PROTOCOLS,
    check_scores,
    note_above_full,
    order,
    primary,
    summarise,
)

VALUES = ("n", *(part for name in METRICS for part in (name, f"{name}_std")), *DERIVED)
COLUMNS = ("cell", "method", "num_pairs", "student", "protocol", "source", *VALUES)
LABELS = tuple(metric.label for metric in LISTED)


@dataclass(frozen=True)
class CellScores:
    """What one cell of a preset scored.

    Attributes:
        scores: one row a trained student, `tables.COLUMNS` and `folder`, its place: two cells with
            one folder share what is there.
        student: that of the encoder that distils; others are further students.
        protocol: the one that the table shows.
        distilled: names of the distilled sets.
        is_as_published: whether model, encoders and methods are those of params.yaml, so that
            published numbers are comparable.
    """

    scores: pd.DataFrame
    student: str
    protocol: str
    distilled: frozenset[str]
    is_as_published: bool


@dataclass(frozen=True)
class PresetTable:
    """The rows of a preset in order, ours and the published ones.

    Attributes:
        others: rows of further students, by their names.
        facts: shown below, {name: text}.
    """

    name: str
    title: str
    dataset: str
    ours: pd.DataFrame
    others: dict[str, pd.DataFrame]
    published: pd.DataFrame
    distilled: frozenset[str]
    facts: dict[str, str]


def build_table(
    name: str,
    title: str,
    dataset: str,
    cells: Mapping[str, CellScores],
    published: pd.DataFrame,
    facts: dict[str, str],
) -> PresetTable:
    """Arrange the scores of all cells.

    Args:
        published: `published.load_published()`.

    Raises:
        ValueError: the scores of a cell are not as `tables.check_scores` wants them.
    """
    distilled = frozenset[str]().union(*(cell.distilled for cell in cells.values()))
    joined = _joined(cells)
    ours = order(joined[~joined["is_further"]], distilled)
    further = joined[joined["is_further"]]
    others = {
        str(student): order(rows, distilled)
        for student, rows in further.groupby("student", sort=True)
    }
    own = same_budget(published, dataset, ours, has_mean=False)
    comparable = {cell for cell, scores in cells.items() if scores.is_as_published}
    setting = pd.read_csv(FOLDER / "presets.csv")
    setting = setting[(setting["preset"] == name) & setting["cell"].isin(comparable)]
    cited = own.merge(setting[["cell", "source", "method"]], on=["source", "method"], how="inner")
    return PresetTable(name, title, dataset, ours, others, cited, distilled, facts)


def _joined(cells: Mapping[str, CellScores]) -> pd.DataFrame:
    """One summary row a set and student; `cell` names the cells that share it, and is empty where
    all that have the student do.
    """
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    owners: dict[tuple[str, str], list[str]] = {}
    trained: dict[tuple[str, bool], list[str]] = {}
    for cell, found in cells.items():
        folders = found.scores.groupby(["set", "student"])["folder"].first()
        summary = summarise(check_scores(found.scores))
        for student in sorted(set(found.scores["student"])):
            is_further = student != found.student
            trained.setdefault((student if is_further else "", is_further), []).append(cell)
            for row in primary(summary, found.protocol, student).to_dict("records"):
                at = (str(folders[row["set"], student]), student)
                rows.setdefault(at, {**row, "is_further": is_further})
                owners.setdefault(at, []).append(cell)
    for at, row in rows.items():
        everyone = trained[at[1] if row["is_further"] else "", bool(row["is_further"])]
        row["cell"] = "" if len(owners[at]) == len(everyone) else ", ".join(owners[at])
        row["label"] = str(row["method"]) + (
            f" ({row['cell']})" if row["cell"] not in ("", row["method"]) else ""
        )
    return pd.DataFrame(list(rows.values())).assign(source="")


def write_table(table: PresetTable, folder: Path) -> list[Path]:
    """Write `<name>.csv`, `.md` and `.html` below `folder`, each whole or not at all; returns their
    paths.
    """
    folder.mkdir(parents=True, exist_ok=True)
    texts = {"csv": _csv(table), "md": _markdown(table), "html": _page(table)}
    paths = []
    for ending, text in texts.items():
        path = folder / f"{table.name}.{ending}"
        partial = path.with_name(f".{path.name}")
        partial.write_text(text, encoding="utf-8", newline="\n")
        paths.append(partial.replace(path))
    return paths


def _csv(table: PresetTable) -> str:
    cited = table.published.rename(columns={"budget": "num_pairs"}).assign(student="")
    parts = [
        frame.reindex(columns=list(COLUMNS))
        for frame in (table.ours, *table.others.values(), cited)
        if len(frame)
    ]
    text: str = pd.concat(parts).to_csv(index=False, float_format="%.10g", lineterminator="\n")
    return text


def _markdown(table: PresetTable) -> str:
    lines = [f"# {table.title}", "", _caption(table), ""]
    headings = ["method", "pairs", *LABELS, "over random", "of full data", "students"]
    lines += _ours(headings, table.ours)
    for student, rows in table.others.items():
        lines += ["", _other_caption(student), "", *_ours(headings, rows)]
    if len(table.published):
        lines += [
            "",
            "Published numbers of the same setting; the protocol is that of the source.",
            "",
        ]
        headings = ["method", "pairs", *LABELS, "over random", "source", "protocol"]
        lines += _lines(headings, map(_cited_cells, _records(table.published)))
    return (
        "\n".join([*lines, "", *(f"* {name}: {text}" for name, text in table.facts.items())]) + "\n"
    )


def _page(table: PresetTable) -> str:
    context = {
        "table": table,
        "caption": _caption(table),
        "groups": groups_by_size(table.ours, table.distilled),
        "note": note_above_full(table.ours),
        "others": [
            (_other_caption(student), groups_by_size(rows, table.distilled), note_above_full(rows))
            for student, rows in table.others.items()
        ],
        "beside": beside(table.published, table.ours, table.distilled),
        "distilled": table.distilled,
    }
    return environment().get_template("preset.html.j2").render(context)


def _caption(table: PresetTable) -> str:
    protocols = sorted(set(table.ours["protocol"]))
    named = "; ".join(f"{name} ({PROTOCOLS[name]})" for name in protocols)
    return (
        f"Dataset {table.dataset}, test recall in percent, mean +- standard deviation over "
        f"students. Protocol {named}. "
        "Ratios are to random selection of the same size, and to full data, of the same cell."
    )


def _other_caption(student: str) -> str:
    return (
        f"The same sets under another student, {student}, beside random selection and full data "
        "under that student."
    )


def _records(frame: pd.DataFrame) -> list[dict[Any, Any]]:
    return frame.to_dict("records")


def _ours(headings: list[str], rows: pd.DataFrame) -> list[str]:
    note = note_above_full(rows)
    return [*_lines(headings, map(_our_cells, _records(rows))), *(["", note] if note else [])]


def _lines(headings: list[str], rows: Any) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (headings, ["---"] * len(headings), *rows)]


def _our_cells(row: dict[Any, Any]) -> list[str]:
    values = [_number(row[one.name], row[f"{one.name}_std"], one.decimals) for one in LISTED]
    ratio = "" if math.isnan(row["over_random"]) else f"{row['over_random']:.2f}x"
    recovery = "" if math.isnan(row["recovery"]) else f"{100 * row['recovery']:.0f} %"
    return [str(row["label"]), str(row["num_pairs"]), *values, ratio, recovery, str(row["n"])]


def _cited_cells(row: dict[Any, Any]) -> list[str]:
    ratio = "" if math.isnan(row["over_random"]) else f"{row['over_random']:.2f}x"
    values = [_number(row[one.name], math.nan, one.decimals) for one in LISTED]
    return [
        str(row["method"]),
        str(row["budget"]),
        *values,
        ratio,
        str(row["source"]),
        str(row["protocol"]),
    ]


def _number(value: float, std: float, decimals: int) -> str:
    if math.isnan(value):
        return ""
    spread = "" if math.isnan(std) else f" +- {std:.{decimals}f}"
    return f"{value:.{decimals}f}{spread}"
