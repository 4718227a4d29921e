"""A run that logs units to MLflow and does nothing else, for `test_tracking_*.py`: all values
follow from its number, so that what MLflow has can be checked to the last one.

It writes `ready` when it begins, and at the end for how many seconds MLflow kept it.
"""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path

from flows.services import session
from tasks.tracking import client, spool
from tasks.tracking.records import Input, Part, Record, Run

DATASET, STEPS = "units", 5
READY = "ready"


def name_of(run: int, number: int) -> str:
    return f"method_{run}-{number + 1}"


def values(run: int, number: int) -> list[float]:
    """Losses of a unit, step by step."""
    return [100.0 * run + number + step / 8 for step in range(STEPS)]


def digest_of(run: int, number: int) -> str:
    return f"digest of {run}, {number}"


def unit(run: int, number: int, folder: Path) -> tuple[Record, spool.Files]:
    """Return one logged unit: a nested run, and the parent that has the unit's mark."""
    data = Input(DATASET, "d" * 64, '{"uri": "data"}')
    name, digest = name_of(run, number), digest_of(run, number)
    file = folder / f"{name}.txt"
    file.write_text(name)
    child = Run(name, {client.SET_KIND: client.MADE}, {"number": str(number)}, [data])
    losses = values(run, number)
    rows = [(step, {"loss": value}) for step, value in enumerate(losses)]
    rows.append((0, {client.MEAN: losses[0]}))
    parts = [
        Part(child, "unit", digest, rows, [f"{name}/{file.name}"]),
        Part(None, f"all.{number}", digest),
    ]
    parent = Run(f"{DATASET} run {run}", {}, {"run": str(run)}, [data])
    return Record(DATASET, f"run {run}", parent, parts), {parts[0].files[0]: file}


def log(run: int, num_units: int) -> None:
    """Log the units of a run, into the folder where it stands."""
    place = Path(f"made_{run}")
    place.mkdir(exist_ok=True)
    for number in range(num_units):
        tag, digest = f"all.{number}", digest_of(run, number)
        spool.log(DATASET, tag, digest, lambda number=number: unit(run, number, place))


def main(run: int, num_units: int) -> None:
    """Log, as a flow would."""
    logging.basicConfig(format="%(message)s", force=True)
    logging.getLogger("vl_distillery").setLevel(logging.INFO)
    session.switch_offline()
    write(READY)
    began = time.monotonic()
    log(run, num_units)
    write(f"{time.monotonic() - began:.2f}")


def make_raw(path: Path) -> None:
    """Make a database as MLflow itself does in a folder where nobody has been."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    write(READY)
    SqlAlchemyStore(f"sqlite:///{path}", "artifacts")


def write(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
