"""The table of a preset: every cell x method x size with its spread, published numbers of the same
setting beside it.

It is written as CSV, Markdown and a page. Random selection of the same size and cell is in every
table; a set that several cells share stands there once. Each further student
(`evaluate.cross_architecture`) has a table of its own. The same input gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from tasks.reporting.measures import FURTHER, listing, measured
from tasks.reporting.published import FOLDER, same_budget
from tasks.reporting.recall_table import beside, groups_by_size
from tasks.reporting.rendering import environment, write_all
from tasks.reporting.tables import (
    PROTOCOLS,
    VALUES,
    check_scores,
    notes,
    order,
    summarise,
)
from tasks.reporting.text_tables import Table
from tasks.settings.sets import SetName

COLUMNS = ("cell", "method", "num_pairs", "student", "protocol", "source", *VALUES)


@dataclass(frozen=True)
class CellScores:
    """What one cell of a preset scored.

    Attributes:
        scores: one row a trained student, with `tables.COLUMNS` and `folder`. Two cells with one
            folder share the students there.
        student: the main student, of the encoder that distils; others are further students.
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
        costs: what the sets cost to make; None where nothing was distilled.
    """

    name: str
    title: str
    dataset: str
    ours: pd.DataFrame
    others: dict[str, pd.DataFrame]
    published: pd.DataFrame
    distilled: frozenset[str]
    facts: dict[str, str]
    costs: Table | None = None


def build_table(
    name: str,
    title: str,
    dataset: str,
    cells: Mapping[str, CellScores],
    published: pd.DataFrame,
    facts: dict[str, str],
    costs: Table | None = None,
) -> PresetTable:
    """Return the table of a preset from the scores of all its cells.

    Args:
        cells: by name, in the order of the preset.
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
    # Lists which published row has the setting of which cell
    setting = pd.read_csv(FOLDER / "presets.csv")
    setting = setting[(setting["preset"] == name) & setting["cell"].isin(comparable)]
    cited = own.merge(setting[["cell", "source", "method"]], on=["source", "method"], how="inner")
    return PresetTable(name, title, dataset, ours, others, cited, distilled, facts, costs)


def _joined(cells: Mapping[str, CellScores]) -> pd.DataFrame:
    """Return one summary row for each set and student of all cells.

    `cell` names the cells that share the set. It is empty where all cells with that student do.
    `label` is what the page calls the row.
    """
    # Two cells share a set exactly where both scored it in the same folder
    place, parts = ["folder", "student"], []
    for cell, found in cells.items():
        folders = found.scores.groupby(["set", "student"])["folder"].first()
        summary = summarise(check_scores(found.scores))
        rows = summary[summary["protocol"] == found.protocol].join(folders, on=["set", "student"])
        # `summary` has a recovery too, so that the merge would name both otherwise
        own = measured(summary, found.protocol, found.student).drop(columns="recovery")
        rows = rows.merge(own.assign(student=found.student), on=["set", "student"], how="left")
        parts.append(rows.assign(cell=cell, is_further=rows["student"] != found.student))
    rows = pd.concat(parts, ignore_index=True)
    # Cells have the student of their own encoder each, whatever its name
    rows["kind"] = rows["student"].where(rows["is_further"], "")
    # A further student may be missing in some cells; those do not count as cells that lack a set
    every = {kind: list(found["cell"].unique()) for kind, found in rows.groupby("kind")}
    sharing = rows.groupby(place)["cell"].agg(list)
    rows["cell"] = [
        _named(sharing[folder, student], every[kind])
        for folder, student, kind in zip(rows["folder"], rows["student"], rows["kind"], strict=True)
    ]
    base = [SetName.parse(name).method for name in rows["set"]]
    # A cell that is called as its method would say the name twice
    is_named = (rows["cell"] != "") & (rows["cell"] != base)
    rows["label"] = rows["method"].mask(is_named, rows["method"] + " (" + rows["cell"] + ")")
    return rows.drop_duplicates(place).assign(source="")


def _named(sharing: Sequence[str], every: Sequence[str]) -> str:
    """Name the cells that share a set, or the others where these are fewer; nothing for all."""
    # Twenty of twenty-one cells are named by the one that is missing
    others = [cell for cell in every if cell not in sharing]
    if others and len(others) < len(sharing):
        return f"all but {', '.join(others)}"
    return ", ".join(sharing) if others else ""


def write_table(table: PresetTable, folder: Path) -> list[Path]:
    """Write `<name>.csv`, `.md` and `.html` below `folder`, each whole or not at all; returns their
    paths.
    """
    texts, shown = {"csv": _csv(table)}, _shown(table)
    for ending in ("md", "html"):
        texts[ending] = environment().get_template(f"preset.{ending}.j2").render(shown)
    return write_all(folder, table.name, texts)


def _csv(table: PresetTable) -> str:
    columns = [*COLUMNS, *(name for name in FURTHER if name in table.ours)]
    cited = table.published.rename(columns={"budget": "num_pairs"}).assign(student="")
    parts = [
        frame.reindex(columns=columns)
        for frame in (table.ours, *table.others.values(), cited)
        if len(frame)
    ]
    text: str = pd.concat(parts).to_csv(index=False, float_format="%.10g", lineterminator="\n")
    return text


def _shown(table: PresetTable) -> dict[str, Any]:
    """What both templates show: our rows, those of each further student, and published ones."""
    captions = {"": table.ours}
    for student, rows in table.others.items():
        caption = (
            f"The same sets under another student, {student}, beside random selection and full "
            "data under that student."
        )
        captions[caption] = rows
    parts = []
    for caption, rows in captions.items():
        groups = groups_by_size(rows, table.distilled)
        parts.append({"caption": caption, "rows": rows, "groups": groups, "note": notes(rows)})
    protocols = sorted(set(table.ours["protocol"]))
    measures = _measures(table.ours, f"Protocol {', '.join(protocols)}.")
    named = "; ".join(f"{name} ({PROTOCOLS[name]})" for name in protocols)
    return {
        "table": table,
        "caption": f"Dataset {table.dataset}, test recall in percent, mean +- standard deviation "
        f"over students. Protocol {named}. Ratios are to random selection of the same size, and to "
        "full data, of the same cell.",
        "parts": parts,
        "beside": beside(table.published, table.ours, table.distilled),
        "distilled": table.distilled,
        "further": {"Measures": measures, "Costs": table.costs},
    }


def _measures(ours: pd.DataFrame, where: str) -> Table | None:
    named = ours.assign(set=ours["label"] + "-" + ours["num_pairs"].astype(str))
    known = named[named["ior_pairs"].notna()]
    return listing(known, known["set"], where)
