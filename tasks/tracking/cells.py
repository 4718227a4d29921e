"""What MLflow is told of a sweep: a parent run named by dataset and sweep, and a nested run a cell.

A cell has means and deviations of its students, how it compares, and a tag for every parameter that
the sweep changes. It is logged once a sweep, by the process that finds it whole (spool.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tasks import beside
from tasks.core.foundations.file_names import GALLERY, SHEET
from tasks.settings.overrides import word_of
from tasks.settings.params import Params
from tasks.settings.sets import SetName
from tasks.store import artifacts, caching
from tasks.store.artifacts import Ref, canonical_digest
from tasks.tracking import client, runs, spool, views
from tasks.tracking.records import Part, Record, Row, Run

CELL, LAST = "cell_digest", "last_cell_digest"  # of a cell's run, and of its parent
LEVEL = {"level": "cell"}
# Keys of `cell_scores.of_cell` -> names of metrics
COMPARED = {
    "val": views.BEST,
    "val_std": f"{views.BEST}_std",
    "n": "evaluate/num_seeds",
    **{key: f"test/{key}" for key in beside.COMPARED},
    "seconds": "evaluate/seconds",
    "set_bytes": "distill/set_bytes",
    "loss": "distill/final_loss",
}


@dataclass(frozen=True)
class Pages:
    """Addresses in MLflow; None where no server stands, or while it has not heard of the cell.

    Attributes:
        cell: the page of its run.
        sweep: the table of all cells of its sweep, sorted by validation recall.
    """

    cell: str | None
    sweep: str | None


@dataclass(frozen=True)
class Cell:
    """Which cell of which sweep it is.

    Attributes:
        sweep: `profile`, `sweep` and `cell`, its names.
        swept: what tells the cell from others of the sweep, {section.key: value}.
        samples: of the machine while it was made, see system.py.
    """

    sweep: Mapping[str, str]
    swept: Mapping[str, Any]
    set_name: SetName
    prepared: Ref
    distilled: Ref
    samples: Sequence[Row]


def log_cell(
    params: Params,
    cell: Cell,
    students: Sequence[Ref],
    gallery: Ref,
    scores: Mapping[str, Any],
) -> Pages:
    """Log a cell below the run of its sweep, unless MLflow has it there.

    Args:
        students: scores of its students.
        scores: how it compares, see `tasks/reporting/cell_scores.py`.
    """
    refs = [cell.distilled, gallery, *students]
    # Other rows than the cell's own, which may come later, say how it compares
    compared = {key: scores[key] for key in beside.COMPARED}
    digest = canonical_digest([dict(cell.sweep), [ref.digest for ref in refs], compared])

    def build() -> tuple[Record, dict[str, Path]]:
        child = replace(_run_of(params, cell), seconds=scores["seconds"])
        files = {f"{cell.set_name}/{file}": gallery.folder / file for file in (SHEET, GALLERY)}
        values = {name: scores[key] for key, name in COMPARED.items() if scores[key] is not None}
        row = (0, {**runs.statistics_of(list(students)), **values})
        curve = runs.curve_of(list(students))
        parts = [
            runs.history_of(child, cell.distilled),
            Part(child, CELL, digest, [row, *curve, *cell.samples], list(files)),
            # The parent, which has the best and the mean of its cells, is marked last
            Part(None, LAST, digest),
        ]
        artifacts.confirm(refs)
        return _record(params, cell, parts), files

    run = spool.log(params.report.dataset, LAST, digest, build)
    view = views.key_of(cell.sweep["profile"], cell.sweep["sweep"])
    return Pages(client.page_of(run), client.table_of(run, view))


def _query(cell: Cell) -> str:
    """Return what finds the cells of a sweep, in MLflow's words. Its parent is not among them:
    MLflow's table would fold them up below it.
    """
    named = {key: cell.sweep[key] for key in ("profile", "sweep")} | LEVEL
    return " and ".join(f"tags.{key} = '{value}'" for key, value in named.items())


def _run_of(params: Params, cell: Cell) -> Run:
    """Return the nested run of a cell: that of its set, named and tagged by what is swept."""
    made = cell.distilled
    child = runs.child_of(params, cell.prepared, made, cell.set_name, made)
    swept = {name: word_of(value)[:500] for name, value in cell.swept.items()}
    own = {name: value for name, value in child.params.items() if not name.startswith("cell.")}
    # The tree has the cell as the variant of a preset that is called sweep
    tags = {name: text for name, text in child.tags.items() if name != "preset"}
    return replace(
        child,
        name=cell.sweep["cell"],
        tags={**tags, **swept, "sweep": cell.sweep["sweep"], **LEVEL},
        params={**own, **swept},
    )


def _record(params: Params, cell: Cell, parts: list[Part]) -> Record:
    dataset, name = params.report.dataset, cell.sweep["sweep"]
    git = caching.git_state()
    tags = {
        "profile": params.profile,
        "sweep": name,
        "dataset": dataset,
        "git_is_dirty": str(git["is_dirty"]).lower(),
        "prepared_digest": cell.prepared.digest,
        **runs.source_of(git["commit"], f"sweep {name}"),
    }
    told = {"profile": params.profile, "sweep": name}
    inputs = [runs.input_of(dataset, cell.prepared)]
    parent = Run(f"{dataset} sweep {name}", tags, told, inputs)
    # One for the sweep, so that cells of all its workers get one parent run
    invocation = canonical_digest(["sweep", params.profile, name])[:32]
    shown = views.view_of(params.profile, name, _query(cell), cell.swept)
    return Record(dataset, invocation, parent, parts, dict(shown))
