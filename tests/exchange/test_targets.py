"""Folders that a user names and that cannot be made."""

import os

import pytest

from tasks.exchange.targets import whole
from tasks.store import disk


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    return tmp_path


@pytest.mark.parametrize("target", ["/proc/nope/x", "file/x", "loop/x", "a" * 300, "b/" * 3000])
def test_a_folder_that_cannot_be_made_is_one_message_that_names_the_option(here, target):
    told = r"^--to: received .*cannot be made \(.*; change --to$"
    with pytest.raises(ValueError, match=told), whole(here / target, is_replaced=False):
        raise AssertionError("it was made")


def test_what_goes_wrong_inside_of_the_folder_is_no_fault_of_its_name(here):
    told = pytest.raises(FileNotFoundError, match="other")
    with told, whole(here / "out", is_replaced=False):
        (here / "other").read_text()


def test_an_error_of_the_system_names_its_file_and_what_is_allowed(here):
    for call, place in ((lambda: os.listdir("gone"), "gone"), (lambda: os.mkdir("file"), "file")):
        with pytest.raises(OSError) as caught:
            call()
        told = disk.in_words(caught.value)
        assert told.startswith(f"{place}: ") and "allowed is" in told and "Errno" not in told
    assert disk.in_words(FileNotFoundError("of ours")) == "of ours"
