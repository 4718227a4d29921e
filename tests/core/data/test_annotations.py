"""Annotation files: another format is named, a bomb is bounded, captions are values as typed."""

import gzip
import json
import time
import zipfile

import pytest

from tasks.core.data.annotations import (
    REPEATED,
    check_caption,
    read_json,
    read_lines,
    read_text,
)
from tasks.core.data.datasets import blip_json, karpathy
from tasks.core.data.left_out import LeftOut

KARPATHY = {"images": [{"filename": "a.jpg", "split": "train", "sentences": [{"raw": "x"}]}]}
BLIP = [{"image": "a.jpg", "caption": "x", "image_id": 1}]
COCO = {"info": {}, "images": [{"id": 1, "file_name": "a.jpg"}], "annotations": []}


def _karpathy(tmp_path, data):
    (tmp_path / "d.json").write_bytes(
        data if isinstance(data, bytes) else json.dumps(data).encode()
    )
    left_out = LeftOut(0.0)
    found = karpathy.read_annotations(tmp_path / "d.json", restval_is_train=True, left_out=left_out)
    left_out.check(len(found))
    return found


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (COCO, "it is COCO's own json, which the reader `coco_json` reads"),
        (BLIP, "it is a json of ALBEF or BLIP, which the reader `blip_json` reads"),
        (KARPATHY["images"], "it is the list alone of a json of Karpathy"),
        (b"image,caption\na.jpg,x\n", "captions.txt of Kaggle, which the readers `fl.*` and `csv`"),
        (
            b"filepath\ttitle\na.jpg\tx\n",
            "csv of open_clip, which the readers `fl.*` and `csv` read",
        ),
        (b'{"filename": "a"}\n{"filename": "b"}\n', "it is JSON lines"),
        (gzip.compress(b"x", mtime=0), "it is gzip data"),
        (b"PK\x03\x04xx", "it is a zip archive"),
        (b"<!doctype html><html>", "it is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "it is a git-LFS pointer"),
        (json.dumps(KARPATHY).encode("utf-16"), "it is UTF-16 text"),
        (b"PAR1xxxx", r"it is a Parquet table \(reader `parquet`\)"),
        (bytes(5000), "it is zero bytes alone"),
    ],
)
def test_another_format_is_named_with_what_reads_it(tmp_path, data, message):
    with pytest.raises(ValueError, match=rf"d\.json: .*{message}"):
        _karpathy(tmp_path, data)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ('{"annotations": [1], "images": [], "annotations": [2]}', "'annotations'"),
        ('[{"caption": "a", "caption": "a", "caption": "b"}]', "'caption'"),
        (f'{{"{"k" * 100}": 1, "{"k" * 100}": 2}}', "'kkk"),
    ],
)
def test_a_member_that_is_there_twice_is_counted_and_the_last_counts(tmp_path, text, key):
    (tmp_path / "d.json").write_text(text)
    left_out = LeftOut(0.0, str(tmp_path))
    assert read_json(tmp_path / "d.json", left_out) == json.loads(text)
    [(reason, counted)] = left_out.facts().items()
    assert reason == REPEATED and counted["count"] == 1
    assert counted["first"][0].startswith(f"d.json: {key}")


def test_ignored_members_may_be_there_twice_and_many_members_take_no_time(tmp_path):
    left_out = LeftOut(0.0)
    (tmp_path / "d.json").write_text('{"id": 1, "tokens": 1, "tokens": 2}')
    ignored = frozenset({"tokens"})
    assert read_json(tmp_path / "d.json", left_out, ignored_keys=ignored) == {"id": 1}
    assert left_out.facts() == {}
    names = [f'"{number}": 0' for number in range(100_000)]
    (tmp_path / "d.json").write_text(f"{{{', '.join([*names, names[0]])}}}")
    began = time.process_time()
    assert len(read_json(tmp_path / "d.json", left_out)) == 100_000
    assert left_out.facts()[REPEATED]["count"] == 1 and time.process_time() - began < 2


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_end_with_lf_or_crlf_or_cr(tmp_path, end):
    (tmp_path / "a.txt").write_bytes(f"one{end}{end}two{end}".encode())
    assert list(read_lines(tmp_path / "a.txt")) == [(1, "one"), (3, "two")]
    (tmp_path / "a.txt").write_bytes(b"one\rmore\ntwo")
    assert list(read_lines(tmp_path / "a.txt")) == [(1, "one\rmore"), (2, "two")]


def test_a_json_of_karpathy_given_as_one_of_blip_is_named(tmp_path):
    for split in ("train", "val", "test"):
        (tmp_path / f"{split}.json").write_text(json.dumps(KARPATHY))
    paths = {split: tmp_path / f"{split}.json" for split in ("train", "val", "test")}
    with pytest.raises(ValueError, match="a json of Karpathy, which the reader `karpathy` reads"):
        blip_json.read_annotations(paths, LeftOut(0.0))


def test_a_zip_is_named_when_it_is_whole(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("d.json", "{}")
    with pytest.raises(ValueError, match=r"a\.zip: it is a zip archive \(unpack it\)"):
        read_text(tmp_path / "a.zip")


def test_a_gzip_bomb_is_seen_before_it_is_unpacked(tmp_path):
    path = tmp_path / "d.json.gz"
    with gzip.open(path, "wb", compresslevel=1) as handle:
        handle.write(b'{"images": "')
        for _ in range(100):
            handle.write(b" " * 1_000_000)
    with pytest.raises(ValueError, match=r"d\.json\.gz: unpacks to more than 67108864 bytes"):
        read_json(path, LeftOut(0.0))


@pytest.mark.parametrize(
    "text",
    ['["a dog", "two dogs"]', "['a dog', 'two']", ' ["one"] ', '{"caption": "a dog"}', '["a\nb"]'],
)
def test_a_list_or_an_object_written_as_text_is_no_caption(text):
    with pytest.raises(ValueError, match=r"x: received caption .* the text of one caption; write"):
        check_caption(text, "x")


@pytest.mark.parametrize("text", ["...", "!!!", "\u200b", "\xa0", "", " \t\n", "\x00", '""'])
def test_a_caption_without_letter_digit_or_symbol_is_none(text):
    with pytest.raises(ValueError, match=r"x: received caption .*with a letter, a digit or a"):
        check_caption(text, "x")


@pytest.mark.parametrize(
    "text",
    [
        "\U0001f415 \u2764\ufe0f",
        "A",
        "7",
        '"quoted" text',
        '"all of it"',
        "[indoors] a dog",
        "{brace} $x$ %s",
        "a dog\nand a cat",
        "\u4e00\u53ea\u72d7",
        "&quot;A dog&quot;",
        '"A", he said, ["B"] and left',
    ],
)
def test_captions_are_kept_as_they_are_typed(text):
    assert check_caption(text, "x") == text
