"""Tensors on disk: what a disk that takes no more does to a write."""

import multiprocessing
import resource

import pytest
import torch

from tasks.core.foundations.tensor_files import save_tensors


def _write_above_the_limit(path, said):
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    try:
        save_tensors(path, {"rows": torch.zeros(1000)})
    except OSError as error:
        said.put((error.errno, error.filename))
    else:
        said.put(None)


def test_a_write_that_the_system_refuses_is_its_error_with_the_file(tmp_path):
    context = multiprocessing.get_context("spawn")
    said, path = context.SimpleQueue(), tmp_path / "rows.safetensors"
    process = context.Process(target=_write_above_the_limit, args=(path, said))
    process.start()
    process.join()
    assert said.get() == (27, str(path))  # EFBIG
    assert list(tmp_path.iterdir()) == []


def test_equal_tensors_give_equal_bytes(tmp_path):
    rows = {"b": torch.arange(6.0).reshape(2, 3).T, "a": torch.ones(1)}
    for name in ("one", "two"):
        save_tensors(tmp_path / name, rows)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    with pytest.raises(OSError, match="No such file"):
        save_tensors(tmp_path / "nowhere" / "three", rows)
