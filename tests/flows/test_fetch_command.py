"""fetch as a command: terms, a kill in the middle, a proxy, and what DVC makes of it."""

from __future__ import annotations

import io
import os
import random
import shutil
import zipfile
from pathlib import Path

import pytest

from flows import cli
from tests.fetching.server import Behaviour, serving
from tests.workspace import ROOT, Workspace, make_workspace

pytestmark = pytest.mark.services
SHARED = Path(os.environ.get("VL_SHARED", ROOT / ".." / "shared"))


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Workspace:
    """A workspace in which nothing is computed."""
    return make_workspace(tmp_path_factory.mktemp("fetch") / "copy")


def _zip():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for split in ("train", "val", "test"):
            archive.writestr(f"{split}/a.jpg", random.Random(split).randbytes(900_000))
            archive.writestr(f"{split}/a.txt", split)
    return buffer.getvalue()


def test_without_accepted_terms_they_are_printed_and_nothing_is_asked(place):
    done = place.flow("fetch", "flickr8k", check=False)
    assert done.returncode == 2
    assert "https://illinois.edu/fb/sec/1713398" in done.stdout
    assert done.stderr.startswith("error: flickr8k: nothing is fetched before its terms")
    assert not (place.folder / "raw/.partial").exists()


def test_the_query_of_an_address_is_not_printed(place):
    done = place.flow("fetch", "https://x.org/a.zip?key=hidden", "--as", "pets", check=False)
    assert done.returncode == 2 and "  https://x.org/a.zip\n" in done.stdout
    assert "hidden" not in done.stdout + done.stderr
    words = ("mine", "--from-dir", "https://me:hidden@x.org", "--copy")
    done = place.flow("fetch", *words, check=False)
    assert done.returncode == 2 and done.stderr.startswith("error: --from-dir: received an address")
    assert "hidden" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    "address", ["https://me:hid[den@x.org/a.zip", "https://me:hid den@x.org", "x://y?id=hid@den"]
)
@pytest.mark.parametrize("words", [("{}", "--as", "a", "b"), ("coco", "{}"), ("{}", "--ass=b")])
def test_wrong_usage_does_not_print_what_is_secret_in_an_address(address, words, capsys):
    with pytest.raises(SystemExit) as end:
        cli.console(["fetch", *(word.format(address) for word in words)])
    told = capsys.readouterr().err
    assert end.value.code == 2 and "://..." in told
    assert "hid" not in told and "den" not in told


def test_flickr30k_is_given_by_its_owners_alone(place):
    done = place.flow("fetch", "flickr30k", "--accept-terms", check=False)
    assert done.returncode == 2 and "forms.illinois.edu/sec/229675" in done.stdout
    assert "give the folder by --from-dir" in done.stderr


def test_a_killed_fetch_goes_on_and_dvc_stores_it(place):
    """A proxy that nobody serves stands in the environment: it must not be asked for loopback."""
    how = Behaviour(_zip(), seconds=0.02)
    raw = place.folder / "raw"
    files = raw / ".partial/pets/files"
    with serving(how) as address:
        words = ("fetch", f"{address}/pets.zip", "--as", "pets", "--accept-terms")

        def is_half():
            return any(part.stat().st_size > 500_000 for part in files.glob("*/*.part"))

        assert place.kill_when(is_half, "python", "-m", "flows.cli", *words)
        assert is_half() and not (raw / "pets").exists()
        how.seconds = 0.0
        place.flow(*words, http_proxy="http://127.0.0.1:9", ALL_PROXY="http://127.0.0.1:9")
    assert how.asked[-1][0].startswith("bytes=")
    assert sorted(path.name for path in raw.iterdir()) == [
        ".partial",
        "digests.json",
        "pets",
        "pets.dvc",
    ]
    text = (raw / "pets/val/a.txt").read_text()
    place.run("dvc", "push", "raw/pets.dvc")
    shutil.rmtree(raw / "pets")
    shutil.rmtree(place.folder / ".dvc/cache")
    place.run("dvc", "pull", "raw/pets.dvc")
    assert (raw / "pets/val/a.txt").read_text() == text == "val"
    tracked = place.run("git", "status", "--short", "--untracked-files=all", "raw").stdout
    assert tracked.split() == ["??", "raw/digests.json", "??", "raw/pets.dvc"]


def test_dvc_repro_sees_raw_data_change_and_links_too(place):
    have = place.folder / "have"
    have.mkdir()
    (have / "a.txt").write_text("one")
    place.run("dvc", "repro", "prepare_data")
    done = place.flow("fetch", "mine", "--from-dir", "have", "--link")
    assert "fetch: raw/mine, 1 files, 3 bytes" in done.stdout
    assert "raw/mine holds links" in done.stdout and not (place.folder / "raw/mine.dvc").exists()
    assert "raw" in place.run("dvc", "status", "prepare_data").stdout
    done = place.run("dvc", "repro", "prepare_data")
    assert "prepare_data: 0 made, 1 cached" in done.stdout
    (have / "a.txt").write_text("another")
    assert "modified:" in place.run("dvc", "status", "prepare_data").stdout


@pytest.mark.shared
def test_the_users_flickr8k_is_linked_and_read_by_its_profile(place):
    if not (SHARED / "flickr8k").is_dir():
        pytest.skip("there is no flickr8k in the folder of VL_SHARED")
    place.flow("fetch", "flickr8k", "--from-dir", str(SHARED / "flickr8k"), "--link")
    check = (
        "from tasks.settings import params, steps; from tasks import keys;"
        "key, missing = keys.of_prepared(steps.preparation(params.load(['profile=flickr8k'])));"
        "print(sorted(key.inputs), missing)"
    )
    assert place.program(check).stdout == "['raw'] None\n"
