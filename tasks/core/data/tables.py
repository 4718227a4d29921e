"""Parquet tables of image-caption datasets: opening them, the types of their columns, and their
values a few rows at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

PICTURE = "binary, a struct with the binary field `bytes`, or text (a path)"
# Rows decoded at once, and bytes read at once: a row group, which may be the whole file, is
# streamed page by page.
_ROWS, _BUFFER_BYTES = 8, 1 << 20


@dataclass(frozen=True)
class Leaf:
    """A column of values: `column` itself, or the field `inner` of the structs in it."""

    column: str
    inner: str | None = None

    def __str__(self) -> str:
        return self.column if self.inner is None else f"{self.column}.{self.inner}"


@dataclass(frozen=True)
class Table:
    """An open table; what it raises about damaged data is a ValueError that names its path."""

    path: Path
    file: pq.ParquetFile

    def num_rows(self, group: int) -> int:
        """Return the rows of a row group."""
        return int(self.file.metadata.row_group(group).num_rows)

    def entries(self, group: int, columns: list[str]) -> list[dict[str, Any]]:
        """Return the rows of a row group, as far as `columns` go."""
        if not columns:
            return [{}] * self.num_rows(group)
        with _named(self.path):
            entries: list[dict[str, Any]] = self.file.read_row_group(
                group, columns=columns, use_threads=False
            ).to_pylist()
        return entries

    def arrays(self, group: int, leaf: Leaf) -> Iterator[Any]:
        """Yield the values of a row group in order, arrow arrays of at most `_ROWS`."""
        with _named(self.path):
            for batch in self.file.iter_batches(
                batch_size=_ROWS, row_groups=[group], columns=[str(leaf)], use_threads=False
            ):
                values = batch.column(leaf.column)
                # Unlike `field` of an array, struct_field is null where the struct is.
                yield values if leaf.inner is None else pc.struct_field(values, leaf.inner)

    def null_rows(self, group: int, leaf: Leaf) -> list[int]:
        """Return the rows of a row group that hold no value; its statistics say when there are
        none, else the values are read.
        """
        chunks = self.file.metadata.row_group(group)
        for number in range(chunks.num_columns):
            chunk = chunks.column(number)
            if (
                chunk.path_in_schema == str(leaf)
                and chunk.statistics is not None
                and chunk.statistics.null_count == 0
            ):
                return []
        is_null = [
            value for array in self.arrays(group, leaf) for value in array.is_null().to_pylist()
        ]
        return [row for row, missing in enumerate(is_null) if missing]

    def check_text(self, column: str, field: str, *, is_list_allowed: bool = False) -> None:
        """Raise ValueError when `column`, which the parameter `field` names, is not one of text (or
        of lists of texts).
        """
        kind = self._type(column, field)
        if not _is_text(kind) and not (
            is_list_allowed and _is_list(kind) and _is_text(kind.value_type)
        ):
            raise self._wrong_type(
                column, kind, f"text{' or a list of texts' if is_list_allowed else ''}", field
            )

    def picture_leaves(self, column: str) -> tuple[Leaf | None, Leaf | None]:
        """Return where the picture column has the bytes of pictures, and where it has paths; None
        where it has none.

        Raises:
            ValueError: there is no such column, or it has neither.
        """
        kind = self._type(column, "image")
        if _is_text(kind):
            return None, Leaf(column)
        if _is_binary(kind):
            return Leaf(column), None
        inner = {field.name: field.type for field in kind} if pa.types.is_struct(kind) else {}
        if "bytes" not in inner or not _is_binary(inner["bytes"]):
            raise self._wrong_type(column, kind, PICTURE, "image")
        return Leaf(column, "bytes"), Leaf(column, "path") if "path" in inner and _is_text(
            inner["path"]
        ) else None

    def _type(self, column: str, field: str) -> Any:
        schema = self.file.schema_arrow
        found = schema.get_all_field_indices(column)
        if len(found) != 1:
            problem = "is missing" if not found else f"is there {len(found)} times"
            raise ValueError(
                f"{self.path}: the column {column!r} {problem}; received the columns "
                f"{', '.join(schema.names)}; "
                f"change `{field}` of the dataset in params.yaml"
            )
        return schema.field(found[0]).type

    def _wrong_type(self, column: str, kind: Any, allowed: str, field: str) -> ValueError:
        return ValueError(
            f"{self.path}: the column {column!r} has the type {kind}, allowed is {allowed}; "
            f"change `{field}` of the dataset in params.yaml"
        )


def open_table(path: Path) -> Table:
    """Open a table, its columns streamed.

    Raises:
        FileNotFoundError, ValueError: it is not there, or no Parquet file.
    """
    with _named(path):
        return Table(path, pq.ParquetFile(path, buffer_size=_BUFFER_BYTES, pre_buffer=False))


@contextmanager
def _named(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{path}: cannot be read ({error.strerror}); put the table back"
        ) from error
    except (pa.ArrowException, OSError) as error:
        raise ValueError(
            f"{path}: not a whole Parquet file ({str(error).strip()}); get the file again"
        ) from error


def _is_text(kind: Any) -> bool:
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(value) or pa.types.is_large_string(value))


def _is_list(kind: Any) -> bool:
    return bool(
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )


def _is_binary(kind: Any) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))
