"""A disk that is full, read-only or forbidden, and a limit of file sizes, at every place that
writes: one message, exit code 2, nothing half-written.
"""

import multiprocessing
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch

from flows import cli
from tasks.core.foundations import checkpoints, tensor_files
from tasks.store import artifacts, caching, raw_files, travel
from tasks.store.artifacts import Key
from tasks.store.remote import Remote
from tasks.store.remote_files import Address
from tests.workspace import ROOT, environment

CONTEXT = multiprocessing.get_context("forkserver")
NOBODY = 65534
MEBIBYTE = 1 << 20
LARGE = torch.zeros(MEBIBYTE)
INPUT = Key("evaluate", {}, {}, "")
IS_ROOT = os.getuid() == 0


def _obtain(build, facts=None):
    key = Key("evaluate", {"facts": len(str(facts))}, {}, "")
    caching.obtain(Path("data/made"), key, lambda place: build(place) or facts or {})


def _copy():
    """Read an input that lies on another disk, where no hard link can be made."""
    source = artifacts.Ref("data/input", artifacts.verify(Path("data/input")).digest)
    _obtain(lambda place: (place / "x").write_bytes((source.folder / "x").read_bytes()) and None)


def _pull():
    """Bring an artifact that the store has, and build none."""
    with travel.through(Remote("store"), lambda name: lambda done, total: None):
        caching.obtain(Path("data/made"), INPUT, lambda place: os._exit(1))


def _note():
    with raw_files.remembered() as digest_of:
        digest_of(ROOT / "params.yaml")
        digest_of.known |= {str(number): [0] * 99 for number in range(10_000)}


PARTS = {"part": {"x": LARGE}}
PLACES = {
    "artifact": lambda: _obtain(lambda place: (place / "x").write_bytes(bytes(MEBIBYTE)) and None),
    "tensors": lambda: _obtain(lambda place: tensor_files.save_tensors(place / "x", {"x": LARGE})),
    "manifest": lambda: _obtain(lambda place: None, {"text": "x" * MEBIBYTE}),
    "checkpoint": lambda: _obtain(
        lambda place: checkpoints.save_checkpoint(
            place / checkpoints.NAME, {"part": {"x": LARGE}}, {}
        )
    ),
    "note": _note,
    "copy": _copy,
    "pull": _pull,
}


def _become(place, folder, condition, log):
    """Write at a place under a condition as a command does; the body of the process."""
    os.chdir(folder)
    with open(log, "w") as handle:
        os.dup2(handle.fileno(), 2)
    if condition == "limit":
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
    if condition == "forbidden" and IS_ROOT:
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    cli.guarded(PLACES[place])


@pytest.fixture
def folder():
    """A folder that other users may enter."""
    place = Path(tempfile.mkdtemp(prefix="vl-distillery-disk-"))
    place.chmod(0o755)
    yield place
    if os.path.ismount(place / "data"):
        subprocess.run(["umount", place / "data"], check=True)
    for path in (place / "data", *place.rglob("*")):
        if path.is_dir():
            path.chmod(0o755)
    shutil.rmtree(place)


def _mount(place, *options):
    if not IS_ROOT:
        pytest.skip("only root may mount a small disk")
    done = subprocess.run(["mount", "-t", "tmpfs", *options, "disk", place], capture_output=True)
    if done.returncode:
        pytest.skip(f"no small disk can be mounted: {done.stderr.decode()}")


def _arrange(folder, condition):
    """Make `data/` such that nothing large, or nothing at all, can be written there."""
    data = folder / "data"
    data.mkdir()
    if condition in ("full", "read-only"):
        _mount(data, "-o", "size=256k")
        if condition == "full":
            (data / "filler").write_bytes(bytes(128 << 10))
    source = data / "input"
    if condition != "limit":
        elsewhere = folder / "elsewhere"
        elsewhere.mkdir(mode=0o755)
        source.symlink_to(elsewhere)
    else:
        source.mkdir()
    (source / "x").write_bytes(bytes(MEBIBYTE))
    manifest = artifacts.seal(source, INPUT, {})
    store = folder / "store"
    store.mkdir()
    Remote(str(store)).send(Address.of(INPUT), source, manifest, is_replaced=False, report=None)
    if condition == "read-only":
        subprocess.run(["mount", "-o", "remount,ro", data], check=True)
    if condition == "forbidden":
        data.chmod(0o555)


WORDS = {
    "full": ("No space left on device", "needed are more than", "bytes are free"),
    "limit": ("File too large", "needed are more than", "the limit of this user"),
    "read-only": ("Read-only file system", "where it can be written"),
    "forbidden": ("Permission denied", "change the owner or the rights of"),
}


@pytest.mark.parametrize("condition", WORDS)
@pytest.mark.parametrize("place", PLACES)
def test_what_cannot_be_written_is_one_message_and_leaves_nothing(folder, place, condition):
    if (place, condition) == ("copy", "limit"):
        pytest.skip("on one disk a hard link takes no room")
    _arrange(folder, condition)
    log = folder / "log"
    before = sorted((folder / "data").rglob("*"))
    process = CONTEXT.Process(target=_become, args=(place, folder, condition, log))
    process.start()
    process.join(60)
    lines = log.read_text().splitlines()
    assert process.exitcode == 2 and len(lines) == 1, lines
    assert lines[0].startswith("error: ") and "data" in lines[0]
    assert not [words for words in WORDS[condition] if words not in lines[0]], lines[0]
    left = [path for path in (folder / "data").rglob("*") if path not in before]
    assert not [path for path in left if path.is_file() and ".locks" not in path.parts], left


@pytest.mark.parametrize("condition", ["full", "read-only"])
def test_a_command_that_cannot_write_ends_with_2(folder, condition):
    _arrange(folder, condition)
    shutil.copy(ROOT / "params.yaml", folder)
    shutil.copy(ROOT / "presets.yaml", folder)
    command = [sys.executable, "-m", "flows.prepare_data"]
    done = subprocess.run(
        command,
        cwd=folder,
        env={**environment(), "PYTHONPATH": str(ROOT), "HOME": str(folder)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    errors = [line for line in done.stderr.splitlines() if "error: " in line]
    assert done.returncode == 2 and len(errors) == 1, done.stderr
    assert "Traceback" not in done.stderr and "data" in errors[0]
    words = ("bytes are needed", "are free") if condition == "full" else WORDS[condition]
    assert not [one for one in words if one not in errors[0]], errors
