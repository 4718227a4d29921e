"""Hostile inputs through the command line as a user has it; the tables of them lie beside."""

import json
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest

from tasks.reporting.gallery import Gallery, GalleryRow, write_contact_sheet
from tests.faults import (
    test_hostile_names,
    test_hostile_parquet,
    test_hostile_pictures,
    test_hostile_readers,
    test_hostile_shards,
    test_hostile_tables,
)
from tests.faults.hostile import NUM_BYTES, SECONDS, SIZE
from tests.workspace import ROOT, environment

CASES = [
    *test_hostile_pictures.CASES,
    *test_hostile_shards.CASES,
    *test_hostile_tables.CASES,
    *test_hostile_parquet.CASES,
    *test_hostile_names.CASES,
    *test_hostile_readers.CASES,
]
# A process that is started counts the memory of its starter as its own: here that is a small one
MEASURED = """
import json, resource, subprocess, sys
from pathlib import Path
code = subprocess.call(sys.argv[2:])
used = resource.getrusage(resource.RUSAGE_CHILDREN)
numbers = [used.ru_utime + used.ru_stime, used.ru_maxrss * 1024]
Path(sys.argv[1]).write_text(json.dumps(numbers))
sys.exit(code)
"""
CHOSEN = (
    "jpeg cut in half",
    "fifo",
    "a million members",
    "gzip of 2 GB of blanks",
    "20 million rows of one value",
    "missing with an escape",
    "records of 64 kB",
    "nfd on the disk",
)


def test_there_are_150_inputs():
    names = [case.name for case in CASES]
    assert len(names) >= 150
    assert [names.count(name) for name in CHOSEN] == [1] * len(CHOSEN)


@pytest.mark.parametrize("name", CHOSEN)
def test_a_command_refuses_with_one_message_or_makes_it(name, tmp_path):
    case = next(one for one in CASES if one.name == name)
    for file in ("params.yaml", "presets.yaml"):
        shutil.copy(ROOT / file, tmp_path)
    (tmp_path / "raw").mkdir()
    settings = ["budgets=[2]", f"prepare_data.image_size={SIZE}", *case.make(tmp_path / "raw")]
    command = [sys.executable, "-m", "flows.prepare_data"]
    for setting in settings:
        command += ["--set", setting]
    used = tmp_path / "used.json"
    process = subprocess.run(
        [sys.executable, "-c", MEASURED, str(used), *command],
        cwd=tmp_path,
        env={**environment(), "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    text = process.stdout
    # Importing the libraries is part of it.
    seconds, num_bytes = json.loads(used.read_text())
    assert seconds < SECONDS and num_bytes < NUM_BYTES
    assert process.returncode == (2 if case.refused else 0), text
    assert "Traceback" not in text and text.replace("\n", "").isprintable()
    assert text.count("error: ") == (1 if case.refused else 0)
    assert not [words for words in case.refused if words not in text], text
    assert (tmp_path / "data/prepared/toy/manifest.json").is_file() != bool(case.refused)


@pytest.mark.parametrize("text", ["x" * 100_000, "x" * 10_000_000, "a b " * 1_000_000])
def test_a_word_of_any_length_is_drawn_in_seconds(text, tmp_path):
    picture = np.zeros((8, 8, 3), np.uint8)
    gallery = Gallery("a-9", (GalleryRow(picture, picture, text, text, 0.5),))
    began = time.process_time()
    write_contact_sheet(gallery, tmp_path / "sheet.png")
    assert time.process_time() - began < 10
