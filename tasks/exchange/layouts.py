"""Where the pictures and rows of an export lie: for PIL and json, `datasets`, or `webdataset`.

Every layout holds the same rows, one for each image that a student sees. Text embeddings lie
beside them in `pairs.safetensors` too.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet

from tasks.exchange.source import Origin

ROWS, TABLE = "pairs.json", "data/train-00000-of-00001.parquet"
SHARD_PAIRS = 1000
GROUP_PAIRS = 100  # of a row group: a reader holds the pictures of one


@dataclass(frozen=True)
class Content:
    """The images of an export with their texts, by row.

    Attributes:
        pictures: of each image, as the bytes of a file.
        initial: the pictures that the images began as; [] for a coreset.
        suffix: ending of the file names of pictures.
        text_embeds: (T, D) float32.
        origins: of each text.
        texts: which texts belong to each image; None where text i is that of image i.
        log_weights: of each image; None where all count alike.
    """

    pictures: list[bytes]
    initial: list[bytes]
    suffix: str
    text_embeds: np.ndarray
    origins: list[Origin]
    texts: list[slice] | None = None
    log_weights: list[float] | None = None

    def row(self, number: int) -> dict[str, Any]:
        """Return what an image's row says: the sources of its texts, and the sentences nearest to
        them. In a set with several texts an image, names are plurals and values are lists.
        """
        if self.texts is None:
            found = _said(self.origins[number])
        else:
            rows, found = list(map(_said, self.origins[self.texts[number]])), {}
            for name in rows[0]:
                found[f"{name}s"] = [row[name] for row in rows]
        if self.log_weights is not None:
            found["log_weight"] = self.log_weights[number]
        return found


def _folder(place: Path, content: Content) -> None:
    """`pairs.json`: a list of rows; `images/` and `initial/`: a picture each."""
    rows = []
    for number in range(len(content.pictures)):
        name = f"{number:05d}.{content.suffix}"
        row: dict[str, Any] = {"file_name": f"images/{name}"}
        if content.initial:
            row["initial_file_name"] = f"initial/{name}"
        rows.append({**row, **content.row(number)})
    for kind, pictures in (("images", content.pictures), ("initial", content.initial)):
        for number, picture in enumerate(pictures):
            (place / kind).mkdir(exist_ok=True)
            (place / kind / f"{number:05d}.{content.suffix}").write_bytes(picture)
    (place / ROWS).write_text(json.dumps(rows, indent=1) + "\n")


def _huggingface(place: Path, content: Content) -> None:
    """One Parquet table that the hub's viewer and `datasets.load_dataset` read."""
    width = content.text_embeds.shape[1]
    embeds = pyarrow.FixedSizeListArray.from_arrays(
        pyarrow.array(content.text_embeds.ravel()), width
    )
    value = {"dtype": "float32", "_type": "Value"}
    embed = {"feature": value, "length": width, "_type": "List"}
    columns: dict[str, Any] = {"image": _pictures(content.pictures)}
    features: dict[str, Any] = {"image": {"_type": "Image"}}
    if content.texts is None:
        columns["text_embed"], features["text_embed"] = embeds, embed
    else:
        ends = [texts.stop for texts in content.texts]
        columns["text_embeds"] = pyarrow.ListArray.from_arrays([0, *ends], embeds)
        features["text_embeds"] = {"feature": embed, "_type": "List"}
    if content.initial:
        columns["initial_image"] = _pictures(content.initial)
        features["initial_image"] = {"_type": "Image"}
    said = [content.row(number) for number in range(len(content.pictures))]
    # Every row has the same columns and types, so that the first one tells them
    for name, example in said[0].items():
        columns[name] = pyarrow.array([row[name] for row in said])
        features[name] = _feature(example)
    # `datasets` takes the types from here; without it a picture would be a struct of bytes
    told = json.dumps({"info": {"features": features}})
    table = pyarrow.table(columns).replace_schema_metadata({"huggingface": told})
    (place / TABLE).parent.mkdir()
    pyarrow.parquet.write_table(table, place / TABLE, row_group_size=GROUP_PAIRS)


def _webdataset(place: Path, content: Content) -> None:
    """Tars; the members of an image share a name: picture, embedding (`npy`) and row (`json`)."""
    for first in range(0, len(content.pictures), SHARD_PAIRS):
        numbers = range(first, min(first + SHARD_PAIRS, len(content.pictures)))
        with tarfile.open(place / f"pairs-{first // SHARD_PAIRS:05d}.tar", "w") as tar:
            for number in numbers:
                for suffix, body in _members(content, number):
                    # Its time is 0, so that one set always gives the same bytes
                    member = tarfile.TarInfo(f"{number:05d}.{suffix}")
                    member.size = len(body)
                    tar.addfile(member, io.BytesIO(body))


LAYOUTS: dict[str, Callable[[Path, Content], None]] = {
    "huggingface": _huggingface,
    "webdataset": _webdataset,
    "folder": _folder,
}


def _members(content: Content, number: int) -> Iterator[tuple[str, bytes]]:
    yield content.suffix, content.pictures[number]
    if content.initial:
        yield f"initial.{content.suffix}", content.initial[number]
    name, own = "text_embed.npy", content.text_embeds[number]
    if content.texts is not None:
        name, own = "text_embeds.npy", content.text_embeds[content.texts[number]]
    embed = io.BytesIO()
    np.save(embed, own, allow_pickle=False)
    yield name, embed.getvalue()
    yield "json", json.dumps(content.row(number)).encode()


def _pictures(pictures: list[bytes]) -> pyarrow.Array:
    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    return pyarrow.array([{"bytes": picture, "path": None} for picture in pictures], kind)


def _feature(example: Any) -> dict[str, Any]:
    """Return the type of a column for `datasets`."""
    if isinstance(example, list):
        return {"feature": _feature(example[0]), "_type": "List"}
    kinds = {str: "string", int: "int64", float: "float64"}
    return {"dtype": kinds[type(example)], "_type": "Value"}


def _said(origin: Origin) -> dict[str, Any]:
    """Return the source of a text with its image, and the sentence nearest to it."""
    row = asdict(origin)
    return {f"source_{name}": row.pop(name) for name in ("split", "file_name")} | row
