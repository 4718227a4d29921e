"""Trains one expert and stores its trajectory, stage 1 (METHOD 3). `distillation/buffer.py` reads
the file.

An expert is one safetensors file with a tensor per snapshot and group: `img_000`, `txt_000`,
`img_001`, ... All experts share the pretrained image encoder at epoch 0. The start artifact holds
it once, and the files of experts leave it out. Epochs from 1 on may be stored as their difference
to epoch 0 in bfloat16 (`bfloat16_delta`). A reader knows such a difference by its dtype.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from tasks.core.foundations.checkpoints import load_checkpoint, save_checkpoint
from tasks.core.foundations.section import BatchSize, Count, Rate, Section, Share
from tasks.core.foundations.tensor_files import save_tensors
from tasks.core.networks.dual_encoder import DualEncoder
from tasks.core.networks.functional import FlatModel, Theta
from tasks.core.training.augment import AugmentSection
from tasks.core.training.epoch import Pairs, sgd, train_epoch

Storage = Literal["float32", "bfloat16_delta"]


@dataclass(frozen=True, kw_only=True)
class ExpertSection(Section):
    """Stage 1 (METHOD 3): plain SGD, one random caption per image and epoch.

    Attributes:
        num_experts: trajectories to store.
        num_epochs: epochs of each; all snapshots 0 .. num_epochs are stored. Distillation reads 0
            .. max_start_epoch - 1 + expert_epochs. So this many epochs are enough for one setting,
            and a sweep over these two numbers needs the largest.
        coreset_epochs: epochs of expert 0 after which coresets select in its space (METHOD 7). If
            they are more than num_epochs, only expert 0 is trained on. Only the snapshot after the
            last of these epochs is then stored.
        batch_size: pairs per step.
        lr_img, lr_txt: step sizes of the two groups.
        momentum: of SGD; the paper uses 0.
        storage: `float32`, or `bfloat16_delta`: snapshots as differences to epoch 0, in half the
            bytes. The manifest of an expert states the error.
    """

    num_experts: Count
    num_epochs: Count
    coreset_epochs: Count
    batch_size: BatchSize
    lr_img: Rate
    lr_txt: Rate
    momentum: Share
    storage: Storage
    augment: AugmentSection

    def stored_epochs(self, index: int) -> tuple[int, ...]:
        """Return the epochs after which snapshots of an expert are stored, beside epoch 0. The
        expert is trained up to the last of them.
        """
        epochs = tuple(range(1, self.num_epochs + 1))
        # Coresets look at one expert, so only the first has the extra epochs
        if index == 0 and self.coreset_epochs > self.num_epochs:
            return (*epochs, self.coreset_epochs)
        return epochs


SNAPSHOTS = "snapshots.safetensors"


def train_expert(
    model: DualEncoder,
    pairs: Pairs,
    section: ExpertSection,
    *,
    tau: float,
    seed: int,
    is_start_shared: bool,
    index: int,
    checkpoint: Path | None = None,
    progress: Callable[..., None] | None = None,
) -> tuple[Theta, list[float]]:
    """Train in place and return the snapshots {"img_000": (P_img,), ...} on the CPU, and the epoch
    losses.

    Args:
        model: has fresh projections; its trainable parameters are the trajectory.
        tau: temperature of the loss.
        seed: of the order of pairs, captions, augmentation and dropout.
        index: of the expert. Its snapshots are epoch 0 and `section.stored_epochs(index)`.
        is_start_shared: leave `img_000` out, because the start artifact holds the same encoder for
            all experts.
        checkpoint: file to resume from and to write after every epoch.
        progress: called with (epochs done, epochs in all, loss=loss of the epoch).
    """
    flat = FlatModel(model)
    optimiser = sgd(model, section.lr_img, section.lr_txt, momentum=section.momentum)
    epochs = section.stored_epochs(index)
    snapshots, losses = _snapshot(flat, 0), list[float]()
    if is_start_shared:
        del snapshots[snapshot_name("img", 0)]
    # Draws are named by seed and epoch, so a resumed run needs no state of generators
    stored = load_checkpoint(checkpoint) if checkpoint else None
    if stored is not None:
        parts, state = stored
        snapshots, losses = parts["snapshots"], state["losses"]
        flat.load(parts["now"])
        _set_momenta(optimiser, parts.get("momenta", {}))
    for epoch in range(len(losses), epochs[-1]):
        loss = train_epoch(
            model,
            pairs,
            optimiser,
            batch_size=section.batch_size,
            tau=tau,
            seed=seed,
            epoch=epoch,
        )
        losses.append(loss)
        if epoch + 1 in epochs:
            snapshots.update(_snapshot(flat, epoch + 1))
        if checkpoint is not None:
            # The last snapshot may be older than this epoch, so the parameters are kept beside it
            now = {"snapshots": snapshots, "now": flat.flatten(), "momenta": _momenta(optimiser)}
            save_checkpoint(checkpoint, now, {"losses": losses})
        if progress:
            progress(epoch + 1, epochs[-1], loss=loss)
    return snapshots, losses


def save_snapshots(
    folder: Path, snapshots: Theta, *, storage: Storage, shared: Theta
) -> dict[str, float]:
    """Write the trajectory of one expert into its artifact folder.

    Args:
        folder: an existing folder.
        snapshots: as `train_expert` returns them.
        storage: `float32` as they are, or `bfloat16_delta`: epochs from 1 on as bfloat16
            differences to epoch 0.
        shared: epoch 0 of the groups that the snapshots leave out, {"img": (P_img,)}; else empty.

    Returns:
        `snapshot_bytes` (of the tensors), and `storage_error`: the largest |theta_read - theta| /
        |theta - theta_0| of any epoch and group (0 for float32; at most 2^-8, the rounding of each
        difference).
    """
    stored, errors = dict(snapshots), [0.0]
    if storage == "bfloat16_delta":
        for name, theta in snapshots.items():
            group, _, epoch = name.partition("_")
            if int(epoch) == 0:
                continue
            first = snapshots.get(snapshot_name(group, 0), shared.get(group))
            assert first is not None, "a snapshot without epoch 0 comes with what experts share"
            # bfloat16 rounds to 8 bits. It rounds the difference, which is small beside theta.
            stored[name] = (theta - first).to(torch.bfloat16)
            moved = float((theta - first).norm())
            if moved > 0.0:
                errors.append(float((restore(stored[name], first) - theta).norm()) / moved)
    save_tensors(folder / SNAPSHOTS, stored)
    return {
        "snapshot_bytes": sum(value.nbytes for value in stored.values()),
        "storage_error": max(errors),
    }


def restore(delta: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
    """Return a snapshot that is stored as its difference to epoch 0."""
    return first + delta.to(first.dtype)


def snapshot_name(group: str, epoch: int) -> str:
    """Return the name of a tensor in the file of an expert."""
    return f"{group}_{epoch:03d}"


def _snapshot(flat: FlatModel, epoch: int) -> Theta:
    # `flatten` copies: a snapshot must not change when training goes on (METHOD 9)
    found = {}
    for group, value in flat.flatten().items():
        if value.numel():
            found[snapshot_name(group, epoch)] = value.cpu()
    return found


def _momenta(optimiser: torch.optim.Optimizer) -> Theta:
    """Return the velocities of SGD by the number of their parameter; empty without momentum."""
    states = optimiser.state_dict()["state"]
    return {str(number): state["momentum_buffer"] for number, state in states.items()}


def _set_momenta(optimiser: torch.optim.Optimizer, momenta: Theta) -> None:
    state = optimiser.state_dict()
    state["state"] = {int(number): {"momentum_buffer": value} for number, value in momenta.items()}
    optimiser.load_state_dict(state)
