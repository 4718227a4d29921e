"""Where the pictures and rows of an export lie: for PIL and json, `datasets`, or `webdataset`.

Every layout holds the same rows. Text embeddings lie beside them in `pairs.safetensors` too.
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
    """The pairs of an export, by row.

    Attributes:
        pictures: each as the bytes of a file.
        initial: the pictures that the pairs began as; [] for a coreset.
        suffix: ending of the file names of pictures.
        text_embeds: (M, D) float32.
    """

    pictures: list[bytes]
    initial: list[bytes]
    suffix: str
    text_embeds: np.ndarray
    origins: list[Origin]


def _folder(place: Path, content: Content) -> None:
    """`pairs.json`: a list of rows; `images/` and `initial/`: a picture each."""
    rows = []
    for number, origin in enumerate(content.origins):
        name = f"{number:05d}.{content.suffix}"
        row: dict[str, Any] = {"file_name": f"images/{name}"}
        if content.initial:
            row["initial_file_name"] = f"initial/{name}"
        rows.append({**row, **_said(origin)})
    for kind, pictures in (("images", content.pictures), ("initial", content.initial)):
        for number, picture in enumerate(pictures):
            (place / kind).mkdir(exist_ok=True)
            (place / kind / f"{number:05d}.{content.suffix}").write_bytes(picture)
    (place / ROWS).write_text(json.dumps(rows, indent=1) + "\n")


def _huggingface(place: Path, content: Content) -> None:
    """One Parquet table that the hub's viewer and `datasets.load_dataset` read."""
    width = content.text_embeds.shape[1]
    embeds = pyarrow.array(content.text_embeds.ravel())
    columns: dict[str, Any] = {"image": _pictures(content.pictures)}
    columns["text_embed"] = pyarrow.FixedSizeListArray.from_arrays(embeds, width)
    value = {"dtype": "float32", "_type": "Value"}
    features: dict[str, Any] = {
        "image": {"_type": "Image"},
        "text_embed": {"feature": value, "length": width, "_type": "List"},
    }
    if content.initial:
        columns["initial_image"] = _pictures(content.initial)
        features["initial_image"] = {"_type": "Image"}
    said = [_said(origin) for origin in content.origins]
    kinds = {str: "string", int: "int64", float: "float64"}
    # Every row has the same columns and types, so that the first one tells them
    for name, example in said[0].items():
        columns[name] = pyarrow.array([row[name] for row in said])
        features[name] = {"dtype": kinds[type(example)], "_type": "Value"}
    # `datasets` takes the types from here; without it a picture would be a struct of bytes
    told = json.dumps({"info": {"features": features}})
    table = pyarrow.table(columns).replace_schema_metadata({"huggingface": told})
    (place / TABLE).parent.mkdir()
    pyarrow.parquet.write_table(table, place / TABLE, row_group_size=GROUP_PAIRS)


def _webdataset(place: Path, content: Content) -> None:
    """Tars; the members of a pair share a name: picture, embedding (`npy`) and row (`json`)."""
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
    embed = io.BytesIO()
    np.save(embed, content.text_embeds[number], allow_pickle=False)
    yield "text_embed.npy", embed.getvalue()
    yield "json", json.dumps(_said(content.origins[number])).encode()


def _pictures(pictures: list[bytes]) -> pyarrow.Array:
    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    return pyarrow.array([{"bytes": picture, "path": None} for picture in pictures], kind)


def _said(origin: Origin) -> dict[str, Any]:
    """Return a row: the source of the pair, and the sentence nearest to its text."""
    row = asdict(origin)
    return {f"source_{name}": row.pop(name) for name in ("split", "file_name")} | row
