"""Small good datasets of every layout, of which one thing is then made odd."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

from tests.faults.hostile import reader

GOOD, ODD = [10, 200, 90], [200, 40, 120]
TEXT = "a dog"
# Good pictures and their splits; budgets have two pairs at least.
SPLITS = {"train": "train", "also": "train", "val": "val", "test": "test"}


def picture(kind: str = "PNG", colour: Sequence[int] = ODD, **how: object) -> bytes:
    """A picture of one colour."""
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), tuple(colour)).save(buffer, kind, **how)
    return buffer.getvalue()


def good() -> bytes:
    """The picture that nothing is wrong with."""
    return picture(colour=GOOD)


def karpathy(
    raw: Path,
    train: Mapping[str, object],
    images: Sequence[str] = ("images",),
) -> list[str]:
    """Karpathy's layout with four good pictures and more of train: {name: captions}."""
    (raw / "images").mkdir(exist_ok=True)
    entries = []
    for name, split in SPLITS.items():
        (raw / "images" / f"{name}.png").write_bytes(good())
        entries.append(_entry(f"{name}.png", split, [TEXT]))
    entries += [_entry(name, "train", captions) for name, captions in train.items()]
    (raw / "d.json").write_text(json.dumps({"images": entries}))
    return reader("karpathy", annotations="d.json", images=list(images), restval_is_train=False)


def _entry(name: str, split: str, captions: object) -> dict[str, object]:
    sentences = captions
    if isinstance(captions, list):
        sentences = [{"raw": text} for text in captions]
    return {"filename": name, "split": split, "sentences": sentences}


def tar(members: Sequence[tuple[str, bytes]], **options: object) -> bytes:
    """A whole tar of members in their order."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", **options) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def pairs(count: int) -> list[tuple[str, bytes]]:
    """Members of a shard: a picture and its caption for each key."""
    found = []
    for number in range(count):
        found += [(f"{number:03d}.png", good()), (f"{number:03d}.txt", TEXT.encode())]
    return found


def shards(raw: Path, train: bytes) -> list[str]:
    """Three shards, that of train given."""
    for split in ("train", "val", "test"):
        (raw / f"{split}.tar").write_bytes(train if split == "train" else tar(pairs(1)))
    return reader("webdataset", **{split: [f"{split}.tar"] for split in ("train", "val", "test")})


def flickr_table(raw: Path, table: bytes, ending: str = "txt", names: bytes = b"") -> list[str]:
    """A table of captions with three lists of names; `table` begins with its rows of train."""
    (raw / "images").mkdir(exist_ok=True)
    for name, split in SPLITS.items():
        (raw / "images" / f"{name}.jpg").write_bytes(picture("JPEG", GOOD))
        with (raw / f"{split}.txt").open("a") as handle:
            handle.write(f"{name}.jpg\n")
    if names:
        (raw / "train.txt").write_bytes(names)
    (raw / f"table.{ending}").write_bytes(table)
    return reader(
        "flickr_table",
        table=f"table.{ending}",
        splits=["train.txt", "val.txt", "test.txt"],
        images=["images"],
    )


def blip(raw: Path, train: bytes, name: str = "train.json") -> list[str]:
    """The json files of BLIP, that of train given as bytes."""
    (raw / "images").mkdir(exist_ok=True)
    for split in SPLITS:
        (raw / "images" / f"{split}.png").write_bytes(good())
        rows = [{"image": f"{split}.png", "caption": [TEXT]}]
        (raw / f"{split}.json").write_text(json.dumps(rows))
    (raw / name).write_bytes(train)
    return reader("blip_json", train=name, val="val.json", test="test.json", images=["images"])


def parquet(raw: Path, train: Mapping[str, object] | bytes, **options: object) -> list[str]:
    """Three tables, the columns of that of train given, or its bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    for split in ("train", "val", "test"):
        columns = {"image": [good()], "caption": [TEXT], "n": [split]}
        if split == "train" and isinstance(train, bytes):
            (raw / "train.parquet").write_bytes(train)
            continue
        if split == "train":
            columns = dict(train)
        pq.write_table(pa.table(columns), raw / f"{split}.parquet")
    settings = {
        "rows": "images",
        "image": "image",
        "captions": ["caption"],
        "name": None,
        "split": None,
        "split_values": {},
        **{split: [f"{split}.parquet"] for split in ("train", "val", "test")},
    }
    return reader("parquet", **{**settings, **options})


THREE_SPLITS = ("train", "val", "test")


def coco(raw: Path, train: bytes, **options: object) -> list[str]:
    """Three json files of COCO, that of train given as bytes."""
    (raw / "images").mkdir(exist_ok=True)
    for split in THREE_SPLITS:
        (raw / "images" / f"{split}.png").write_bytes(good())
        content = {
            "images": [{"id": 1, "file_name": f"{split}.png"}],
            "annotations": [{"image_id": 1, "caption": TEXT}],
        }
        (raw / f"{split}.json").write_text(json.dumps(content))
    (raw / "train.json").write_bytes(train)
    files = {split: [f"{split}.json"] for split in THREE_SPLITS}
    return reader("coco_json", **{**files, "images": ["images"], "shares": None, **options})


def table(raw: Path, train: bytes, **options: object) -> list[str]:
    """Three csv tables, that of train given as bytes."""
    (raw / "images").mkdir(exist_ok=True)
    for split in THREE_SPLITS:
        (raw / "images" / f"{split}.png").write_bytes(good())
        (raw / f"{split}.csv").write_text(f"file,caption\n{split}.png,{TEXT}\n")
    (raw / "train.csv").write_bytes(train)
    settings = {
        "images": ["images"],
        "shares": None,
        "file": "file",
        "captions": ["caption"],
        "split": None,
        "split_values": {},
        "delimiter": None,
        **{split: [f"{split}.csv"] for split in THREE_SPLITS},
    }
    return reader("csv", **{**settings, **options})


def folders(raw: Path, **options: object) -> list[str]:
    """Three folders of one picture and its text, and one more of train."""
    for name, split in SPLITS.items():
        (raw / split).mkdir(exist_ok=True)
        (raw / split / f"{name}.png").write_bytes(good())
        (raw / split / f"{name}.txt").write_text(TEXT)
    files = {split: [split] for split in THREE_SPLITS}
    return reader("folder", **{**files, "shares": None, **options})
