"""A checkpoint that was damaged is named and left behind: the one before it is used, or none."""

import random

import pytest
import torch

from tasks.core.foundations.checkpoints import NAME, load_checkpoint, save_checkpoint

STATE = {"epoch": 3, "losses": [1.5, 0.25], "note": '"sha256":"' + "0" * 64}


def _save(path, epoch=3):
    save_checkpoint(
        path,
        {"now": {"b": torch.arange(7.0)}, "good": {"a": torch.full((3, 2), epoch)}, "none": {}},
        {**STATE, "epoch": epoch},
    )


def _flip(path, draw):
    content = bytearray(path.read_bytes())
    content[draw.randrange(len(content))] ^= draw.randrange(1, 256)
    path.write_bytes(content)


def test_what_was_saved_is_loaded_and_equal_saves_give_equal_bytes(tmp_path):
    path = tmp_path / NAME
    assert load_checkpoint(path) is None
    _save(path)
    parts, state = load_checkpoint(path)
    assert state == STATE and sorted(parts) == ["good", "now"]
    assert torch.equal(parts["now"]["b"], torch.arange(7.0))
    assert parts["good"]["a"].tolist() == [[3, 3]] * 3
    _save(tmp_path / "again")
    assert load_checkpoint(tmp_path / "again")[1] == STATE


def test_no_flip_is_unseen_and_each_is_named(tmp_path):
    draw, path = random.Random(0), tmp_path / NAME
    for _ in range(300):
        _save(path)
        path.with_name(NAME + ".before").unlink(missing_ok=True)
        _flip(path, draw)
        with pytest.warns(UserWarning, match=r"checkpoint .*\.checkpoint\.safetensors does not"):
            assert load_checkpoint(path) is None
        assert sorted(item.name for item in tmp_path.iterdir()) == [NAME + ".damaged"]


@pytest.mark.parametrize("length", [0, 7, 8, 100, -1])
def test_no_cut_is_unseen(tmp_path, length):
    path = tmp_path / NAME
    _save(path)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.warns(UserWarning, match="does not match its sha256"):
        assert load_checkpoint(path) is None


def test_the_checkpoint_before_a_damaged_one_is_used(tmp_path):
    path = tmp_path / NAME
    for epoch in (1, 2, 3):
        _save(path, epoch)
    _flip(path, random.Random(1))
    with pytest.warns(UserWarning, match="does not match its sha256"):
        _, state = load_checkpoint(path)
    assert state["epoch"] == 2
    assert load_checkpoint(path)[1]["epoch"] == 2  # said once


def test_a_kill_between_the_two_renames_loses_nothing(tmp_path):
    path = tmp_path / NAME
    _save(path)
    path.rename(path.with_name(NAME + ".before"))
    assert load_checkpoint(path)[1] == STATE


@pytest.mark.parametrize("size", [0, 9, 40])
def test_files_that_are_no_checkpoint_are_left_behind(tmp_path, size):
    path = tmp_path / NAME
    path.write_bytes(b"\xff" * size)
    with pytest.warns(UserWarning, match="does not match its sha256"):
        assert load_checkpoint(path) is None
