"""Reads what img2dataset logs about each URL: a table `00000.parquet` beside the shard `00000.tar`
or the folder `00000`, with a column `status`.

Source: img2dataset, `writer.py` (R. Beaumont, 2021). A URL that gave no picture has a row in the
table and nothing in the shard. So the shard alone does not tell how much of a dataset is missing.
"""

from __future__ import annotations

from pathlib import Path

from tasks.core.data.left_out import LeftOut, Unusable
from tasks.core.data.tables import Table, open_table

STATUS = "status"
_SUCCESS = "success"


def log_of(path: Path) -> Path | None:
    """Return the table beside a shard or a folder, or None where there is none."""
    # A Parquet file is no log of itself
    log = path.with_suffix(".parquet")
    return log if log != path and log.is_file() else None


def has_status(table: Table) -> bool:
    """Return whether a table has the column `status` of img2dataset, once and with text."""
    schema = table.file.schema_arrow
    found = schema.get_all_field_indices(STATUS)
    return len(found) == 1 and str(schema.field(found[0]).type) in ("string", "large_string")


def is_failed(status: object) -> bool:
    """Return whether a status says that there is no picture."""
    return status != _SUCCESS


def failed(where: str, status: object) -> Unusable:
    """Return the fault of a row without a picture."""
    return Unusable(
        where,
        "failed download",
        f"its status is {str(status)[:60]!r}, allowed is {_SUCCESS!r}; download it again with "
        "img2dataset, or remove the row",
    )


def refuse_failed(log: Path, left_out: LeftOut) -> None:
    """Refuse each row of a log without success. A table without `status` is no log and is skipped.

    Raises:
        ValueError: the table is damaged.
    """
    table, row = open_table(log), 0
    if not has_status(table):
        return
    for group in range(table.file.num_row_groups):
        for entry in table.entries(group, [STATUS]):
            if is_failed(entry[STATUS]):
                left_out.refuse(failed(f"{log}: row {row}", entry[STATUS]))
            row += 1
