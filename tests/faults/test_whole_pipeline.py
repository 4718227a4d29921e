"""A pipeline that is killed at any moment, or whose files rot: the same command ends with the bytes
of an undisturbed run.
"""

import random
import shutil
import time

import pytest

from tasks.store import artifacts
from tests.faults.rounds import flip, rounds
from tests.forked import RanTooLong
from tests.workspace import TINY, make_workspace

pytestmark = pytest.mark.services


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A folder in which the pipeline ran once, and the seconds that it took."""
    workspace = make_workspace(tmp_path_factory.mktemp("undisturbed") / "copy", TINY)
    workspace.program("pass")  # imports are no part of the seconds
    began = time.monotonic()
    workspace.flow("pipeline")
    return workspace, time.monotonic() - began


def _is_killed_after(workspace, seconds):
    """Whether a start of the pipeline is still running after some seconds, when it is killed."""
    try:
        workspace.flow("pipeline", seconds=seconds)
    except RanTooLong:
        return True
    return False


def test_a_pipeline_that_is_killed_at_any_moment_ends_with_the_same_bytes(undisturbed, tmp_path):
    reference, seconds = undisturbed
    draw, kills = random.Random(0), 0
    while kills < rounds(2):
        workspace = make_workspace(tmp_path / str(kills), TINY)
        # A folder is used again until one start in it ends
        while _is_killed_after(workspace, draw.uniform(0.05, 0.6) * seconds):
            kills += 1
        assert workspace.digests() == reference.digests()
        assert not list(workspace.folder.glob("data/.work/*"))
        shutil.rmtree(workspace.folder)


def test_a_flipped_byte_in_any_file_is_seen(undisturbed):
    folder, draw = undisturbed[0].folder, random.Random(0)
    found = sorted(path.parent for path in folder.glob("data/**/manifest.json"))
    assert len(found) > 8
    for _ in range(rounds(20)):
        place = draw.choice(found)
        path = draw.choice(
            sorted(path for path in place.rglob("*") if path.name != artifacts.MANIFEST)
        )
        content = path.read_bytes()
        flip(path, draw)
        with pytest.raises(artifacts.DamagedArtifact, match=path.name):
            artifacts.verify(place)
        path.write_bytes(content)
        artifacts.verify(place)


def test_what_rotted_is_made_again_with_the_same_bytes(undisturbed):
    workspace, _ = undisturbed
    before = workspace.digests()
    damaged = [
        next(workspace.folder.glob(pattern))
        for pattern in (
            "data/prepared/*/images.safetensors",
            "data/experts/*/*/expert_001/*.safetensors",
            "data/scores/*/*/seed_0/score.json",
        )
    ]
    for path in damaged:
        flip(path, random.Random(1))
    workspace.flow("pipeline")
    assert workspace.digests() == before
    for path in damaged:
        artifacts.verify(path.parent)
