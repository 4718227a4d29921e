"""Folders and tables of real pairs become sets; what is not stated or cannot be used is refused,
what makes no pair is counted.
"""

from __future__ import annotations

import csv
import io
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow
import pyarrow.parquet
import pytest
import torch
from PIL import Image

from tasks.core.data.images import decode
from tasks.core.foundations.file_names import IMAGES, NAMES
from tasks.core.foundations.seeding import make_generator
from tasks.core.foundations.tensor_files import map_tensor
from tasks.core.networks.text_encoders import hashed
from tasks.core.training.pair_files import load_pairs
from tasks.exchange.imports import import_set, left_out_of
from tasks.exchange.published import Stated
from tasks.settings import steps
from tasks.settings.sets import SetName

CAPTIONS = ["a red ball", "two dogs", "a boat, at night", 'the "third" tree']
STATED = Stated("hashed_256")
COLUMNS = replace(STATED, picture_column="file", caption_column="words")


def picture(number, height=32, width=32):
    draw = make_generator(number)
    return torch.randint(0, 256, (height, width, 3), generator=draw).to(torch.uint8).numpy()


def encoded(number, *size):
    buffer = io.BytesIO()
    Image.fromarray(picture(number, *size)).save(buffer, "PNG")
    return buffer.getvalue()


def a_folder(place, *size):
    """Two captions for the first of three pictures, in a folder of folders."""
    for number, text in enumerate((f"{CAPTIONS[0]}\n\n{CAPTIONS[1]}\r\n", *CAPTIONS[2:])):
        name = place / f"part_{number}" / f"{number}.b"
        name.parent.mkdir(parents=True)
        name.with_name(f"{number}.b.png").write_bytes(encoded(number, *size))
        name.with_name(f"{number}.b.txt").write_text(text)
    return place


def a_csv(place, delimiter=","):
    place.mkdir()
    rows = []
    for number, caption in enumerate(CAPTIONS):
        (place / f"{number}.png").write_bytes(encoded(max(0, number - 1)))
        rows.append((number, f"{number}.png", caption))
    path = place / ("pairs.csv" if delimiter == "," else "pairs.tsv")
    with path.open("w", newline="") as handle:
        writer = csv.writer(handle, delimiter=delimiter)
        writer.writerows([("id", "file", "words"), *rows])
    return path


def a_table(place, column, captions=CAPTIONS, numbers=(0, 0, 1, 2)):
    place.mkdir(exist_ok=True)
    bodies = [encoded(number) for number in numbers]
    for number, body in enumerate(bodies):
        (place / f"{number}.png").write_bytes(body)
    columns = {
        "bytes": bodies,
        "struct": [{"bytes": body, "path": None} for body in bodies],
        "path": [f"{number}.png" for number in range(len(bodies))],
    }
    path = place / "pairs.parquet"
    table = pyarrow.table({"file": columns[column], "words": captions})
    pyarrow.parquet.write_table(table, path, row_group_size=3)
    return path


def sources(place):
    """Each kind of source with the same four pairs."""
    lists = [CAPTIONS[:2], CAPTIONS[2:3], CAPTIONS[3:]]
    return {
        "folder": (a_folder(place / "folder"), STATED),
        "csv": (a_csv(place / "csv"), COLUMNS),
        "tsv": (a_csv(place / "tsv", "\t"), COLUMNS),
        "bytes": (a_table(place / "bytes", "bytes"), COLUMNS),
        "struct": (a_table(place / "struct", "struct", lists, (0, 1, 2)), COLUMNS),
        "path": (a_table(place / "path", "path"), COLUMNS),
    }


@pytest.mark.parametrize("kind", ["folder", "csv", "tsv", "bytes", "struct", "path"])
def test_every_caption_makes_a_pair_with_its_picture(kind, made, folder):
    path, stated = sources(folder)[kind]
    name, ref = import_set(made[1], path, "mine", stated)
    found = load_pairs(ref.folder)
    assert name == SetName("mine", 4) and left_out_of(ref.folder) == {}
    shown = np.stack([picture(number) for number in (0, 0, 1, 2)])
    expected = torch.from_numpy(shown).permute(0, 3, 1, 2) / 255 * 2 - 1
    torch.testing.assert_close(found.images, expected)
    texts = hashed.embed(hashed.Config(dim=256, bigram_weight=0.5, seed=0), CAPTIONS, device="cpu")
    torch.testing.assert_close(found.text_embeds, texts)
    assert (found.step_sizes, found.similarity, found.loss) == (None, None, "info_nce")
    assert found.provenance["captions"] == CAPTIONS


def test_pictures_of_other_sizes_are_brought_to_the_profiles_on_demand_alone(made, folder):
    path = a_folder(folder / "photos", 40, 50)
    with pytest.raises(
        ValueError, match=r"(?s)received 3 pictures.* 50 x 40 pixels; allowed is 32 x 32"
    ):
        import_set(made[1], path, "mine", STATED)
    ref = import_set(made[1], path, "mine", replace(STATED, resize=True))[1]
    image = Image.open(io.BytesIO(encoded(2, 40, 50)))
    shown = decode(image, "it", image_size=32, max_pixels=10_000)
    last = load_pairs(ref.folder).images[3].permute(1, 2, 0)
    torch.testing.assert_close((last + 1) / 2 * 255, torch.tensor(shown).float())


def test_files_that_make_no_pair_are_counted_by_reason(made, folder):
    path = a_folder(folder / "photos")
    (path / "alone.png").write_bytes(encoded(0))
    (path / "notes.txt").write_text("no picture")
    (path / "broken.png").symlink_to(path / "nowhere")
    ref = import_set(made[1], path, "mine", STATED)[1]
    found = {reason: tally["count"] for reason, tally in left_out_of(ref.folder).items()}
    assert found == {
        "file without a .txt beside it": 1,
        ".txt without a picture beside it": 1,
        "named pipe, device or broken link": 1,
    }


def test_linked_folders_are_read_once_and_places_are_named_from_the_folder(made, folder):
    path, elsewhere = folder / "photos", folder / "elsewhere"
    a_folder(elsewhere)
    path.mkdir()
    (path / "linked").symlink_to(elsewhere)
    (path / "again").symlink_to(path / "linked")
    (elsewhere / "up").symlink_to(path)
    (elsewhere / "notes.md").write_text("no picture")
    ref = import_set(made[1], path, "mine", STATED)[1]
    assert load_pairs(ref.folder).provenance["captions"] == CAPTIONS
    assert left_out_of(ref.folder) == {
        "file without a .txt beside it": {"count": 1, "first": ["again/notes.md"]}
    }


def test_all_that_cannot_be_used_is_in_one_message(made, folder):
    path = a_folder(folder / "photos")
    (path / "part_0/0.b.png").write_bytes(b"no picture")
    (path / "part_1/1.b.png").write_bytes(encoded(1)[:200])
    (path / "part_2/2.b.txt").write_text("...\n")
    (path / "twice.png").write_bytes(encoded(1))
    (path / "twice.jpg").write_bytes(encoded(1))
    (path / "twice.txt").write_text("twice")
    with pytest.raises(ValueError, match="received 4 pictures, captions or rows") as error:
        import_set(made[1], path, "mine", STATED)
    for words in ("0.b.png", "1.b.png", "2.b.txt: line 1", "twice.jpg, twice.png"):
        assert words in str(error.value)
    assert not (folder / "data/imported").exists()


@pytest.mark.parametrize(
    ("stated", "match"),
    [
        (Stated(), r"--text-encoder: received None; allowed is 'hashed_256'"),
        (Stated("other"), r"--text-encoder: received 'other'"),
        (replace(STATED, mean=(0.5, 0.5, 0.5)), r"--mean: received with real pairs"),
        (COLUMNS, r"--picture-column: received with real pairs, .* allowed: text_encoder, resize"),
    ],
)
def test_what_a_folder_does_not_say_is_stated_and_nothing_else(stated, match, made, folder):
    with pytest.raises(ValueError, match=match):
        import_set(made[1], a_folder(folder / "photos"), "mine", stated)


@pytest.mark.parametrize(
    ("kind", "stated", "match"),
    [
        ("tsv", STATED, r"--picture-column, --caption-column: received None, None; needed"),
        ("csv", STATED, r"rows with split, .*, or state --picture-column"),
        ("csv", replace(COLUMNS, picture_column="words"), r"received 'words' for both"),
        ("csv", replace(COLUMNS, picture_column="image"), r"'image', which is there 0 times; allo"),
        ("bytes", replace(COLUMNS, caption_column="text"), r"'text'; .* among file, words"),
        ("bytes", replace(COLUMNS, picture_column="words"), r"is missing in "),
        ("bytes", replace(COLUMNS, caption_column="file"), r"one of texts or lists of texts"),
    ],
)
def test_columns_are_stated_and_there(kind, stated, match, made, folder):
    with pytest.raises(ValueError, match=match):
        import_set(made[1], sources(folder)[kind][0], "mine", stated)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ("../out.png,a", ["line 2.file: received image name '../out.png'"]),
        ("none.png,a\n0.png,!", ["'none.png' is missing", "line 3.words"]),
        ("0.png,a,b\n0.png", ["line 2: received 3 cells", "line 3: received 1 cells"]),
        ('0.png,"a', ["line 2: cannot be read (unexpected end of data)"]),
        ('0.png,"a\n1.png,b"\n2.png,c', ["received 1 p", "line 2: a cell in quotes has line br"]),
        ('0.png,"a' + "\nb" * 30 + '"', ["line 2: a quote stays open for 30 more lines"]),
        ("0.png,nan\n1.png, None\n2.png,null", [f"line {line}.words" for line in (2, 3, 4)]),
        ("", ["received 0 pairs; allowed is a size of `budgets` (4)"]),
        ("0.png,a\n" * 5, ["received 5 pairs"]),
    ],
)
def test_rows_that_are_off_are_refused(rows, words, made, folder):
    path = a_csv(folder / "rows")
    path.write_text(f"file,words\n{rows}")
    with pytest.raises(ValueError, match=r"rows/pairs\.csv") as error:
        import_set(made[1], path, "mine", COLUMNS)
    assert [word for word in words if word not in str(error.value)] == []


def test_quotes_after_a_blank_are_quotes(made, folder):
    path = a_csv(folder / "rows")
    path.write_text('file, words\n0.png, "a dog, asleep"\n1.png,b\n2.png, "c"\n3.png,d "e"\n')
    ref = import_set(made[1], path, "mine", COLUMNS)[1]
    assert load_pairs(ref.folder).provenance["captions"] == ["a dog, asleep", "b", "c", 'd "e"']


def test_missing_values_written_as_text_are_refused_in_every_kind_of_source(made, folder):
    photos = a_folder(folder / "photos")
    (photos / "part_1/1.b.txt").write_text("nan\n")
    table = a_table(folder / "flat", "path", [*CAPTIONS[:3], " None "])
    lists = a_table(folder / "lists", "path", [CAPTIONS[:2], ["a", "null"]], (0, 1))
    for path, stated, words in (
        (photos, STATED, "1.b.txt: line 1: received 'nan'"),
        (table, COLUMNS, "row 3.words: received ' None '"),
        (lists, COLUMNS, "row 1.words[1]: received 'null'"),
    ):
        with pytest.raises(ValueError, match="received 1 pictures, captions or rows") as error:
            import_set(made[1], path, "mine", stated)
        assert words in str(error.value) and "programs write for a missing" in str(error.value)


def test_empty_values_of_a_table_are_refused_by_row(made, folder):
    path = folder / "pairs.parquet"
    bodies = [encoded(0), None, encoded(1), encoded(2)]
    columns = {"file": bodies, "words": ["a", "b", None, "c"]}
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    with pytest.raises(ValueError, match="received 2 pictures") as error:
        import_set(made[1], path, "mine", COLUMNS)
    assert "row 1.file: is empty" in str(error.value) and "row 2.words" in str(error.value)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match="not a whole Parquet file"):
        import_set(made[1], path, "mine", COLUMNS)


def test_pictures_that_students_are_scored_on_are_refused_under_any_name(made, folder):
    prepared = steps.preparation(made[1]).folder
    names = list(pd.read_parquet(prepared / NAMES)["name"])
    images = map_tensor(prepared / IMAGES, "images")
    path = a_csv(folder / "photos")
    for place, name in enumerate(("train/000003.png", "val/000001.png", "test/000002.png")):
        Image.fromarray(images[names.index(name)]).save(path.parent / f"{place}.png")
    with pytest.raises(ValueError, match="received 2 pictures, captions or rows") as error:
        import_set(made[1], path, "mine", COLUMNS)
    for line, split, name in ((3, "val", "val/000001.png"), (4, "test", "test/000002.png")):
        told = f"line {line}.file): received the picture '{name}' of {split}, which students are"
        assert told in str(error.value)
    assert "train/000003.png" not in str(error.value)
    Image.fromarray(picture(7)).save(path.parent / "1.png")
    Image.fromarray(picture(8)).save(path.parent / "2.png")
    assert import_set(made[1], path, "mine", COLUMNS)[0] == SetName("mine", 4)
