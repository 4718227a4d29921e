"""Reads pictures in the rows of Parquet tables, forward and a few rows at a time, for
`datasets/parquet.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from tasks.core.data.image_files import StoredImage
from tasks.core.data.images import open_image
from tasks.core.data.tables import Leaf, open_table


class PictureReader:
    """Reads the pictures of a column. In ascending order they take one pass over a table. A step
    back begins the row group again.

    Memory holds a page and a few pictures of one table (`Table.arrays`). Two threads must not use a
    reader at once.
    """

    def __init__(self, leaf: Leaf) -> None:
        self.leaf = leaf
        # Row group that is open, its remaining arrays, and the rows of the current array: number of
        # the first one, and values
        self._place: tuple[Path, int] | None = None
        self._arrays: Iterator[Any] = iter(())
        self._first = 0
        self._values: Any = []

    def read(self, path: Path, group: int, row: int) -> bytes:
        """Return the bytes in `row` of a row group of the table `path`, counted inside the group.

        Raises:
            FileNotFoundError: the table has gone.
            ValueError: it is damaged, or has changed since it was indexed.
        """
        if (path, group) != self._place or row < self._first:
            self._place, self._first, self._values = (path, group), 0, []
            self._arrays = open_table(path).arrays(group, self.leaf)
        while row >= self._first + len(self._values):
            self._first += len(self._values)
            self._values = next(self._arrays, [])
            if len(self._values) == 0:
                raise ValueError(
                    f"{path}: has fewer rows than when it was indexed; run again when it is "
                    "complete"
                )
        value = self._values[row - self._first].as_py()
        # A row that became null since it was indexed: opening no bytes gives the message
        return value if value is not None else b""


@dataclass(frozen=True)
class TablePicture(StoredImage):
    """Opens a picture that a row of a table holds: the `load` of an `ImageCaptions`.

    Attributes:
        reader: shared by all pictures of a dataset, so that memory holds few rows.
        group, row: the row group of `file.container`, and the row inside it.
    """

    reader: PictureReader
    group: int
    row: int

    def __call__(self) -> Image.Image:
        """Return the picture in the mode of its file. Its header is read, its pixels not yet.

        Raises:
            FileNotFoundError: the table has gone since it was indexed.
            ValueError: the table is damaged, or the bytes are not an image.
        """
        return open_image(self.reader.read(self.file.container, self.group, self.row), str(self))

    def __str__(self) -> str:
        return f"{self.where}.{self.reader.leaf}"
