"""Small files that are whole or as they were."""

import os

import pytest

from tasks.core.foundations import durable


def test_a_text_is_replaced_and_nothing_stays_beside_it(tmp_path):
    for text in ("one", "caf\u00e9"):
        durable.write_text(tmp_path / "x", text)
        assert (tmp_path / "x").read_text(encoding="utf-8") == text
    assert os.listdir(tmp_path) == ["x"]


def test_an_error_has_the_path_and_leaves_the_old_text(tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "old").touch()
    with pytest.raises(OSError, match=r"tmp.*x'") as caught:
        durable.write_text(tmp_path / "x", "new")
    assert caught.value.errno and os.listdir(tmp_path) == ["x"]
