"""Reads the rows of delimited text, csv and tsv, and finds the faults that programs leave in them.

Quotes follow RFC 4180: a cell in quotes may hold the delimiter, line breaks, and doubled quotes.
Blanks around a cell are removed, also those before its quotes.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tasks.core.data.annotations import check_caption, read_text
from tasks.core.data.left_out import Unusable

_MISSING = ("nan", "null", "none")
_DELIMITERS = (";", "\t", "|", ",")
# Most lines of a row: a quote that is never closed would take all lines that follow.
_MAX_LINES = 20


def text_rows(
    path: Path, delimiter: str, refuse: Callable[[Unusable], None]
) -> Iterator[tuple[str, list[str]]]:
    """Yield (place, cells) for the header and for each row with as many cells. Blank rows are
    skipped.

    Args:
        path: a text file, which may end in `.gz`.
        delimiter: one character.
        refuse: takes the rows that cannot be used.

    Raises:
        ValueError: a quote stays open for more lines than a row may have.
    """
    reader = csv.reader(
        io.StringIO(read_text(path), newline=""),
        delimiter=delimiter,
        # Otherwise quotes behind a blank would be text, and commas inside them would end a cell
        skipinitialspace=delimiter != " ",
        strict=True,
    )
    num_cells = 0
    while True:
        first = reader.line_num + 1
        where = f"{path}: line {first}"
        try:
            row = next(reader, None)
        except csv.Error as error:
            # After an error inside a quote, the lines that it took would be lost uncounted
            if reader.line_num > first:
                raise _open_quote(where, reader.line_num - first) from error
            refuse(_malformed(where, f"cannot be read ({error})"))
            continue
        if row is None:
            return
        if reader.line_num - first >= _MAX_LINES:
            raise _open_quote(where, reader.line_num - first)
        cells = [cell.strip() for cell in row]
        if not any(cells):
            continue
        num_cells = num_cells or len(cells)
        if len(cells) != num_cells:
            problem = f"received {len(cells)} cells, allowed are the {num_cells} of the header"
            refuse(_malformed(where, problem))
        elif _has_rows(cells, delimiter):
            refuse(
                Unusable(
                    where,
                    "row that holds other rows",
                    "a cell in quotes has line breaks, and a line of it is a row by its number of "
                    "cells; allowed is a quote that is closed in its row; close it, or write the "
                    "text of the cell into one line",
                )
            )
        else:
            yield where, cells


def other_delimiter(header: list[str]) -> str:
    """Return what seems to separate the cells of a header that was read as a single cell, as the
    rest of a sentence; "" where nothing does.
    """
    found = [sign for sign in _DELIMITERS if len(header) == 1 and sign in header[0]]
    return f", whose cells seem to be separated by {found[0]!r}" if found else ""


def check_cell(text: Any, where: str) -> str:
    """Return the caption in a cell. Raise Unusable if `check_caption` refuses it, or if it is a
    missing value that a program wrote as text.
    """
    caption = check_caption(text, where)
    if caption.strip().casefold() in _MISSING:
        raise Unusable(
            where,
            "missing value written as text",
            f"received {text!r}, which programs write for a missing value; allowed is a caption; "
            "write it, or remove the row",
        )
    return caption


def _has_rows(cells: list[str], delimiter: str) -> bool:
    """Return whether a cell swallowed the rows behind it, because the quote of a later row closed
    its own.

    Such a cell has the rest of its own row, then whole rows, then the beginning of the last row.
    """
    for position, cell in enumerate(cells):
        lines = cell.replace("\r", "\n").split("\n")
        if len(lines) < 2:
            continue
        # The number of cells in each line of this cell. A line with as many as a row is a swallowed
        # row. Else the first line may complete its own row, and the last one begin another.
        counts = [line.count(delimiter) + 1 for line in lines]
        rest, beginning = len(cells) - position, position + 1
        if len(cells) in counts or (counts[0], counts[-1]) == (rest, beginning):
            return True
    return False


def _malformed(where: str, problem: str) -> Unusable:
    return Unusable(
        where,
        "malformed row",
        f"{problem}; put cells with the delimiter in quotes, write quotes inside of them twice, "
        f"and at most {csv.field_size_limit():,} characters into one; repair the line",
    )


def _open_quote(where: str, num_lines: int) -> ValueError:
    return ValueError(
        f"{where}: a quote stays open for {num_lines} more lines, allowed are rows of "
        f"{_MAX_LINES}; close it, or write quotes inside of quotes twice"
    )
