"""An expert that was interrupted ends with the same bytes, and segments come back as they were stored."""

import pytest
import torch

from tasks.core.experts import Buffer, save_snapshots, train_expert
from tasks.core.functional import FlatModel
from tasks.core.training import SplitPairs
from tests.core.small_problem import CPU, NO_AUGMENT, SECTION, make_encoder, make_model, make_split


class Killed(Exception):
    pass


def _train(checkpoint=None, stop_after=None):
    def progress(done, total):
        if done == stop_after:
            raise Killed

    encoder = make_encoder()
    pairs = SplitPairs(make_split(), encoder, NO_AUGMENT, device=CPU)
    model = make_model(encoder)
    return train_expert(model, pairs, SECTION, tau=0.07, seed=5, is_start_shared=True, checkpoint=checkpoint, progress=progress)


@pytest.mark.parametrize("stop_after", [1, 2])
def test_a_resumed_expert_equals_an_uninterrupted_one(tmp_path, stop_after):
    expected, losses = _train()
    with pytest.raises(Killed):
        _train(tmp_path / "c.safetensors", stop_after)
    got, resumed_losses = _train(tmp_path / "c.safetensors")
    assert sorted(got) == sorted(expected) and resumed_losses == losses
    assert all(torch.equal(got[name], expected[name]) for name in expected)


def test_the_shared_start_is_not_stored_and_comes_from_the_model(tmp_path):
    snapshots, _ = _train()
    assert "img_000" not in snapshots and "txt_000" in snapshots and "img_003" in snapshots
    save_snapshots(tmp_path, snapshots)
    start = FlatModel(make_model(make_encoder())).flatten()
    buffer = Buffer([tmp_path], start, device=CPU)
    assert torch.equal(buffer.snapshot(0, 0)["img"], start["img"])
    assert torch.equal(buffer.snapshot(0, 0)["txt"], snapshots["txt_000"])
    assert torch.equal(buffer.snapshot(0, 3)["img"], snapshots["img_003"])
    with pytest.raises(ValueError, match=r"no snapshot of epoch 4; raise train_experts\.num_epochs"):
        buffer.snapshot(0, 4)


def test_snapshots_are_copies_and_not_the_live_weights():
    snapshots, _ = _train()
    assert not torch.equal(snapshots["img_001"], snapshots["img_002"])
