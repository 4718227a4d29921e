"""Opens Parquet tables of image-caption datasets, checks the types of their columns, and reads
their values a few rows at a time.
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

from tasks.core.data.file_kinds import kind_of_file

_LISTS = ("list", "large_list", "fixed_size_list", "list_view", "large_list_view")
PICTURE = "binary, a struct with the binary field `bytes`, or text (a path)"
# Rows decoded at once, and bytes read at once. A row group may be the whole file, so it is streamed
# page by page.
_ROWS, _BUFFER_BYTES = 8, 1 << 20
# Rows of texts decoded at once, and the most bytes that the texts of a row group may take.
_TEXT_ROWS, _MAX_TEXT = 64, 1 << 29
# Most rows of one table. Their captions and names are held in memory, in about a gigabyte.
MAX_ROWS = 1_000_000


@dataclass(frozen=True)
class Leaf:
    """A column of values: `column` itself, or the field `inner` of the structs in `column`."""

    column: str
    inner: str | None = None

    def __str__(self) -> str:
        return self.column if self.inner is None else f"{self.column}.{self.inner}"


@dataclass(frozen=True)
class Table:
    """An open table. For damaged data its methods raise a ValueError that names its path."""

    path: Path
    file: pq.ParquetFile

    def num_rows(self, group: int) -> int:
        """Return the rows of a row group."""
        return int(self.file.metadata.row_group(group).num_rows)

    def entries(self, group: int, columns: list[str]) -> Iterator[dict[str, Any]]:
        """Yield the rows of a row group, {column: value} for the given columns.

        Raises:
            ValueError: the values take more than `_MAX_TEXT` bytes. A few bytes of repeated values
                may unpack to any size.
        """
        if not columns:
            yield from [{}] * self.num_rows(group)
            return
        num_bytes = 0
        with _named(self.path):
            for batch in self.file.iter_batches(
                batch_size=_TEXT_ROWS, row_groups=[group], columns=columns, use_threads=False
            ):
                num_bytes += batch.nbytes
                if num_bytes > _MAX_TEXT:
                    raise ValueError(
                        f"{self.path}: the columns {', '.join(columns)} unpack to more than "
                        f"{_MAX_TEXT:,} bytes in one row group; shorten the texts, or write "
                        "smaller row groups"
                    )
                yield from batch.to_pylist()

    def arrays(self, group: int, leaf: Leaf) -> Iterator[Any]:
        """Yield the values of a row group in order, as arrow arrays of at most `_ROWS` values."""
        with _named(self.path):
            for batch in self.file.iter_batches(
                batch_size=_ROWS, row_groups=[group], columns=[str(leaf)], use_threads=False
            ):
                values = batch.column(leaf.column)
                # struct_field is null where the struct is null; `field` of an array is not
                yield values if leaf.inner is None else pc.struct_field(values, leaf.inner)

    def null_rows(self, group: int, leaf: Leaf) -> list[int]:
        """Return the rows of a row group that hold no value."""
        # The statistics of the file often say that there are none, which saves reading pictures
        chunks = self.file.metadata.row_group(group)
        for number in range(chunks.num_columns):
            chunk = chunks.column(number)
            if (
                chunk.path_in_schema == str(leaf)
                and chunk.statistics is not None
                and chunk.statistics.null_count == 0
            ):
                return []
        rows, place = [], 0
        for array in self.arrays(group, leaf):
            for is_null in array.is_null().to_pylist():
                if is_null:
                    rows.append(place)
                place += 1
        return rows

    def check_text(self, column: str, field: str) -> None:
        """Raise ValueError unless `column` holds text or whole numbers.

        Args:
            field: the parameter that names the column, for the message.
        """
        kind = self._type(column, field)
        if not _is_text(kind) and not pa.types.is_integer(kind):
            raise self._wrong_type(column, kind, "text or whole numbers", field)

    def caption_leaf(self, column: str) -> Leaf:
        """Return the place of the texts of a caption column.

        It is the column itself. For `sentences.raw` it is the field `raw` of the structs in the
        lists of the column `sentences`.

        Raises:
            ValueError: there is no such column, or it holds no text and no lists of texts.
        """
        base, _, inner = column.rpartition(".")
        names = self.file.schema_arrow.names
        # A column may have a point in its own name, and that one is meant first
        leaf = Leaf(base, inner) if column not in names and base in names else Leaf(column)
        kind = stored = self._type(leaf.column, "captions")
        if _is_list(kind):
            kind = kind.value_type
        if leaf.inner is not None:
            kind = _fields(kind).get(leaf.inner)
        if not _is_text(kind):
            raise self._wrong_type(column, stored, "text or a list of texts", "captions")
        return leaf

    def picture_leaves(self, column: str) -> tuple[Leaf | None, Leaf | None]:
        """Return the place of the bytes of pictures in the picture column, and the place of their
        paths. Each is None where the column has none.

        Raises:
            ValueError: there is no such column, or it has neither.
        """
        kind = self._type(column, "image")
        if _is_text(kind):
            return None, Leaf(column)
        if _is_binary(kind):
            return Leaf(column), None
        inner = _fields(kind)
        if not _is_binary(inner.get("bytes")):
            raise self._wrong_type(column, kind, PICTURE, "image")
        has_paths = _is_text(inner.get("path"))
        return Leaf(column, "bytes"), Leaf(column, "path") if has_paths else None

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
        FileNotFoundError, ValueError: it is not there, no Parquet file, or has too many rows.
    """
    with _named(path):
        file = pq.ParquetFile(
            path,
            buffer_size=_BUFFER_BYTES,
            pre_buffer=False,
            page_checksum_verification=True,
        )
    if file.metadata.num_rows > MAX_ROWS:
        raise ValueError(
            f"{path}: has {file.metadata.num_rows:,} rows, allowed are {MAX_ROWS:,} in one table; "
            "write it as several tables"
        )
    return Table(path, file)


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
            f"{path}: not a whole Parquet file ({str(error).strip()}){_other_kind(path)}; get the "
            "file again"
        ) from error


def _other_kind(path: Path) -> str:
    kind = kind_of_file(path)
    return "" if "a Parquet table" in kind else kind


def _fields(kind: Any) -> dict[str, Any]:
    """Return the types of the fields of a struct; none of another type."""
    return {field.name: field.type for field in kind} if pa.types.is_struct(kind) else {}


def _is_text(kind: Any) -> bool:
    # A dictionary type stores each different text once, and is a column of text too
    value = kind.value_type if isinstance(kind, pa.DictionaryType) else kind
    return str(value) in ("string", "large_string", "string_view")


def _is_list(kind: Any) -> bool:
    return str(kind).partition("<")[0] in _LISTS


def _is_binary(kind: Any) -> bool:
    return str(kind) in ("binary", "large_binary", "binary_view")
