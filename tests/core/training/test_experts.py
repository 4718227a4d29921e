"""An expert that was interrupted ends with the same bytes, and segments come back as they were
stored.
"""

import weakref
from dataclasses import replace

import pytest
import torch

from tasks.core.distillation.buffer import Buffer, kept_bytes
from tasks.core.networks.functional import FlatModel
from tasks.core.training.experts import SNAPSHOTS, save_snapshots, train_expert
from tasks.core.training.split_pairs import SplitPairs
from tests.core.hypergradient.small_problem import (
    CPU,
    NO_AUGMENT,
    SECTION,
    make_encoder,
    make_model,
    make_split,
)


class Killed(Exception):
    pass


def _train(checkpoint=None, stop_after=None, index=0, **changes):
    def progress(done, total, *, loss):
        if done == stop_after:
            raise Killed

    encoder = make_encoder()
    pairs = SplitPairs(make_split(), encoder, NO_AUGMENT, device=CPU)
    model = make_model(encoder)
    return train_expert(
        model,
        pairs,
        replace(SECTION, **changes),
        tau=0.07,
        seed=5,
        is_start_shared=True,
        index=index,
        checkpoint=checkpoint,
        progress=progress,
    )


@pytest.mark.parametrize("stop_after", [1, 2])
def test_a_resumed_expert_equals_an_uninterrupted_one(tmp_path, stop_after):
    expected, losses = _train()
    with pytest.raises(Killed):
        _train(tmp_path / "c.safetensors", stop_after)
    got, resumed_losses = _train(tmp_path / "c.safetensors")
    assert sorted(got) == sorted(expected) and resumed_losses == losses
    assert all(torch.equal(got[name], expected[name]) for name in expected)


def test_only_the_first_expert_is_trained_for_the_coresets_and_keeps_but_their_snapshot(tmp_path):
    every, losses = _train(num_epochs=5)
    epochs = {"num_epochs": 2, "coreset_epochs": 5}
    first, first_losses = _train(**epochs)
    other, other_losses = _train(**epochs, index=1)
    assert sorted(first) == [
        "img_001",
        "img_002",
        "img_005",
        "txt_000",
        "txt_001",
        "txt_002",
        "txt_005",
    ]
    assert sorted(other) == ["img_001", "img_002", "txt_000", "txt_001", "txt_002"]
    assert all(torch.equal(found[name], every[name]) for found in (first, other) for name in found)
    assert first_losses == losses and other_losses == losses[:2]
    with pytest.raises(Killed):
        # After an epoch whose snapshot is not to be stored
        _train(tmp_path / "c.safetensors", 4, **epochs)
    again, again_losses = _train(tmp_path / "c.safetensors", **epochs)
    assert (
        sorted(again) == sorted(first)
        and all(torch.equal(again[name], first[name]) for name in first)
        and again_losses == losses
    )
    assert sorted(_train(num_epochs=3, coreset_epochs=1)[0]) == sorted(
        _train(num_epochs=3, coreset_epochs=3)[0]
    )


def test_the_shared_start_is_not_stored_and_comes_from_the_model(tmp_path):
    snapshots, _ = _train()
    assert "img_000" not in snapshots and "txt_000" in snapshots and "img_003" in snapshots
    start = FlatModel(make_model(make_encoder())).flatten()
    assert (
        save_snapshots(tmp_path, snapshots, storage="float32", shared=start)["storage_error"] == 0.0
    )
    buffer = Buffer([tmp_path], start, device=CPU)
    assert torch.equal(buffer.snapshot(0, 0)["img"], start["img"])
    assert torch.equal(buffer.snapshot(0, 0)["txt"], snapshots["txt_000"])
    assert torch.equal(buffer.snapshot(0, 3)["img"], snapshots["img_003"])
    with pytest.raises(
        ValueError, match=r"no snapshot of epoch 4; raise train_experts\.num_epochs"
    ):
        buffer.snapshot(0, 4)


def _two_experts(folder):
    """Two experts of equal snapshots but for the start, and the bytes of one (epochs from 1 on)."""
    snapshots, _ = _train()
    start = FlatModel(make_model(make_encoder())).flatten()
    folders = [folder / "a", folder / "b"]
    for index, place in enumerate(folders):
        place.mkdir()
        save_snapshots(
            place,
            {name: value + index for name, value in snapshots.items()},
            storage="float32",
            shared=start,
        )
    return folders, start, sum(4 * value.numel() for value in start.values())


def _is_kept(buffer, expert, epoch, found):
    return all(value is found[group] for group, value in buffer.snapshot(expert, epoch).items())


def test_a_buffer_of_one_snapshot_gives_the_same_values_and_keeps_no_more(tmp_path):
    folders, start, size = _two_experts(tmp_path)
    every, one = (
        Buffer(folders, start, device=CPU),
        Buffer(folders, start, device=CPU, max_bytes=size),
    )
    asked = [(0, 1), (1, 1), (0, 0), (1, 3), (1, 3), (0, 1), (1, 0)]
    first = {place: every.snapshot(*place) for place in asked}
    for place in asked:
        found = one.snapshot(*place)
        assert all(torch.equal(found[group], first[place][group]) for group in ("img", "txt")), (
            place
        )
    assert all(_is_kept(every, *place, found) for place, found in first.items())
    found = one.snapshot(0, 2)
    assert _is_kept(one, 0, 2, found)
    gone = weakref.ref(found["img"])
    del found
    one.snapshot(1, 2)
    assert gone() is None  # nothing else holds it


def test_a_full_buffer_lets_the_snapshot_go_that_was_not_asked_for_longest(tmp_path):
    folders, start, size = _two_experts(tmp_path)
    buffer = Buffer(folders, start, device=CPU, max_bytes=2 * size)
    a, b = buffer.snapshot(0, 1), buffer.snapshot(0, 2)
    assert _is_kept(buffer, 0, 1, a)
    buffer.snapshot(0, 3)
    assert _is_kept(buffer, 0, 1, a) and not _is_kept(buffer, 0, 2, b)
    none = Buffer(folders, start, device=CPU, max_bytes=size - 1)
    assert not _is_kept(none, 0, 1, none.snapshot(0, 1)) and torch.equal(
        none.snapshot(0, 1)["img"], a["img"]
    )


def test_the_shared_start_counts_for_nothing_and_a_machine_has_room_by_itself(tmp_path):
    folders, start, size = _two_experts(tmp_path)
    buffer = Buffer(folders, start, device=CPU, max_bytes=size + start["txt"].nbytes)
    shared, later = buffer.snapshot(0, 0), buffer.snapshot(0, 1)
    assert (
        shared["img"] is start["img"]
        and _is_kept(buffer, 0, 0, shared)
        and _is_kept(buffer, 0, 1, later)
    )
    assert 2**20 < kept_bytes(CPU) < 2**50


def test_snapshots_are_copies_and_not_the_live_weights():
    snapshots, _ = _train()
    assert not torch.equal(snapshots["img_001"], snapshots["img_002"])


@pytest.mark.parametrize("is_start_shared", [True, False])
def test_bfloat16_differences_are_near_and_their_error_is_told(tmp_path, is_start_shared):
    snapshots, _ = _train()
    start = FlatModel(make_model(make_encoder())).flatten()
    if not is_start_shared:
        snapshots["img_000"] = start["img"]
    facts = save_snapshots(
        tmp_path, snapshots, storage="bfloat16_delta", shared=start if is_start_shared else {}
    )
    buffer = Buffer([tmp_path], start, device=CPU)
    assert torch.equal(buffer.snapshot(0, 0)["txt"], snapshots["txt_000"]) and torch.equal(
        buffer.snapshot(0, 0)["img"], start["img"]
    )
    errors = []
    for epoch in (1, 2, 3):
        for group, got in buffer.snapshot(0, epoch).items():
            exact, first = (
                snapshots[f"{group}_{epoch:03d}"],
                snapshots.get(f"{group}_000", start[group]),
            )
            assert got.dtype == torch.float32
            errors.append(float((got - exact).norm() / (exact - first).norm()))
    assert facts["storage_error"] == pytest.approx(max(errors), rel=1e-5)
    # Rounding to 8 significant bits errs by at most 2^-8 of each difference; adding it to theta_0
    # in float32 adds a little.
    assert 2.0**-11 < facts["storage_error"] < 1.01 * 2.0**-8


@pytest.mark.parametrize("storage", ["float32", "bfloat16_delta"])
@pytest.mark.parametrize("is_start_shared", [True, False])
def test_the_stored_bytes_of_an_expert_follow_from_its_sizes(tmp_path, storage, is_start_shared):
    snapshots, _ = _train()
    start = FlatModel(make_model(make_encoder())).flatten()
    if not is_start_shared:
        snapshots["img_000"] = start["img"]
    facts = save_snapshots(tmp_path, snapshots, storage=storage, shared=start)
    sizes = {group: value.numel() for group, value in start.items()}
    # The convolution; two linear layers and the norm
    img, txt = 3 * 7 * 9 + 7, 6 * 7 + 7 + 7 * 7 + 7 + 7 + 7
    assert sizes == {"img": img, "txt": txt}
    rest = 3 * (img + txt) * (4 if storage == "float32" else 2)
    expected = 4 * (txt + (0 if is_start_shared else img)) + rest
    assert facts["snapshot_bytes"] == expected
    assert 0 < (tmp_path / SNAPSHOTS).stat().st_size - expected < 1024  # the header


def test_equal_snapshots_give_equal_bytes_in_both_forms(tmp_path):
    start = FlatModel(make_model(make_encoder())).flatten()
    for storage in ("float32", "bfloat16_delta"):
        files = []
        for run in ("a", "b"):
            (tmp_path / storage / run).mkdir(parents=True)
            checkpoint = tmp_path / storage / f"{run}.safetensors"
            if run == "b":
                with pytest.raises(Killed):
                    _train(checkpoint, 2)
            save_snapshots(
                tmp_path / storage / run, _train(checkpoint)[0], storage=storage, shared=start
            )
            files.append((tmp_path / storage / run / SNAPSHOTS).read_bytes())
        assert files[0] == files[1]
