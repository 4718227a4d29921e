"""What MLflow is told of a sweep: a parent run named by dataset and sweep, and a nested run a cell.

A cell has means and deviations of its students, how it compares, and a tag for every parameter that
the sweep changes. It is logged once a sweep, by whoever finds it whole (spool.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tasks.core.foundations.file_names import GALLERY, SHEET
from tasks.settings.overrides import text_of
from tasks.settings.params import Params
from tasks.settings.sets import SetName
from tasks.store import artifacts, caching
from tasks.store.artifacts import Ref, canonical_digest
from tasks.tracking import runs, spool
from tasks.tracking.records import Part, Record, Run

CELL, LAST = "cell_digest", "last_cell_digest"  # of a cell's run, and of its parent
COMPARED = {
    "val": "val/chosen_mean_recall",
    "val_std": "val/chosen_mean_recall_std",
    "n": "evaluate/num_seeds",
    "recovery": "test/recovery",
    "over_random": "test/over_random",
    "seconds": "evaluate/seconds",
    "set_bytes": "distill/set_bytes",
    "loss": "distill/final_loss",
}


@dataclass(frozen=True)
class Cell:
    """Which cell of which sweep it is.

    Attributes:
        sweep: `profile`, `sweep` and `cell`, its names.
        swept: what tells the cell from others of the sweep, {section.key: value}.
    """

    sweep: Mapping[str, str]
    swept: Mapping[str, Any]
    set_name: SetName
    prepared: Ref
    distilled: Ref


def log_cell(
    params: Params,
    cell: Cell,
    students: Sequence[Ref],
    gallery: Ref,
    scores: Mapping[str, Any],
) -> None:
    """Log a cell below the run of its sweep, unless MLflow has it there.

    Args:
        students: scores of its students.
        scores: how it compares, see `tasks/reporting/cell_scores.py`.
    """
    refs = [cell.distilled, gallery, *students]
    digest = canonical_digest([dict(cell.sweep), [ref.digest for ref in refs]])

    def build() -> tuple[Record, dict[str, Path]]:
        child = _run_of(params, cell)
        files = {f"{cell.set_name}/{file}": gallery.folder / file for file in (SHEET, GALLERY)}
        values = {name: scores[key] for key, name in COMPARED.items() if scores[key] is not None}
        row = (0, {**runs.statistics_of(list(students)), **values})
        parts = [
            runs.history_of(child, cell.distilled),
            Part(child, CELL, digest, [row, *runs.curve_of(list(students))], list(files)),
            # The parent, which has the best and the mean of its cells, is marked last
            Part(None, LAST, digest),
        ]
        artifacts.confirm(refs)
        return _record(params, cell, parts), files

    spool.log(params.report.dataset, LAST, digest, build)


def _run_of(params: Params, cell: Cell) -> Run:
    """Return the nested run of a cell: that of its set, named and tagged by what is swept."""
    made = cell.distilled
    child = runs.child_of(params, cell.prepared, made, cell.set_name, made)
    swept = {name: text_of(value)[:500] for name, value in cell.swept.items()}
    own = {name: value for name, value in child.params.items() if not name.startswith("cell.")}
    return replace(
        child,
        name=cell.sweep["cell"],
        tags={**child.tags, **swept, "sweep": cell.sweep["sweep"]},
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
    invocation = canonical_digest(["sweep", params.profile, name])[:32]
    return Record(dataset, invocation, parent, parts)
