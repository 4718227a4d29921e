"""The page of a study: what the numbers say, charts and tables, as CSV, Markdown and HTML. The same
input gives the same bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from tasks.reporting.charts import Chart, Style
from tasks.reporting.rendering import environment, write_all
from tasks.reporting.text_tables import Table


@dataclass(frozen=True)
class Figure:
    """A chart with its legend, {name: style}; none where the chart names its lines."""

    chart: Chart
    legend: dict[str, Style]


@dataclass(frozen=True)
class StudyPage:
    """Everything that the pages of a study show.

    Attributes:
        lead: what was done, in a few sentences.
        reading: what the numbers say, one sentence or two an entry.
        cautions: what they do not say.
        scores: one row a trained student, for the CSV.
        facts: shown below, {name: text}.
        numbers: what MLflow is told of the rows of the first table, {row: {metric: value}}.
    """

    name: str
    title: str
    dataset: str
    lead: str
    reading: tuple[str, ...]
    cautions: tuple[str, ...]
    figures: tuple[Figure, ...]
    tables: tuple[Table, ...]
    scores: pd.DataFrame
    facts: dict[str, str]
    numbers: dict[str, dict[str, float]]


def write_pages(page: StudyPage, folder: Path) -> list[Path]:
    """Write `<name>.csv`, `.md` and `.html` below `folder`, each whole or not at all; returns their
    paths.
    """
    texts = {"csv": page.scores.to_csv(index=False, float_format="%.10g", lineterminator="\n")}
    for ending in ("md", "html"):
        texts[ending] = environment().get_template(f"study.{ending}.j2").render(page=page)
    return write_all(folder, page.name, texts)


def told(**values: float | None) -> dict[str, float]:
    """Return the numbers that MLflow is told of a row, {metric: value}, without those that are
    None, such as the deviation of one student.
    """
    return {f"study/{name}": value for name, value in values.items() if value is not None}
