"""Stage 1 (METHOD 3): train one expert and keep its trajectory; read segments of stored
trajectories for stage 2.

An expert is one safetensors file with a tensor per snapshot and group: `img_000`, `txt_000`,
`img_001`, ... What every expert shares, the pretrained image encoder at epoch 0, is not in it but
in the start artifact. Epochs from 1 on may be stored as their bfloat16 difference to epoch 0
(`bfloat16_delta`): a tensor of that dtype is such a difference.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from tasks.core.checkpoints import load_checkpoint, save_checkpoint
from tasks.core.dual_encoder import DualEncoder
from tasks.core.functional import GROUPS, FlatModel, Theta
from tasks.core.sections import ExpertSection, Storage
from tasks.core.tensor_files import save_tensors, tensor_names
from tasks.core.training import Pairs, parameter_groups, train_epoch

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
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Theta, list[float]]:
    """Train in place and return the snapshots {"img_000": (P_img,), ...} on the CPU, and the epoch
    losses.

    Args:
        model: fresh projections; its trainable parameters are the trajectory.
        index: of the expert; the snapshots are those of its start and of
            `section.stored_epochs(index)`.
        is_start_shared: leave `img_000` out, because the start artifact holds the same encoder for
            all experts.
        checkpoint: file to resume from and to write after every epoch.
        progress: called with (epochs done, epochs in all).
    """
    flat = FlatModel(model)
    optimiser = torch.optim.SGD(
        parameter_groups(model, section.lr_img, section.lr_txt),
        lr=section.lr_txt,
        momentum=section.momentum,
    )
    epochs = section.stored_epochs(index)
    snapshots, losses, first = _snapshot(flat, 0, skip=("img",) if is_start_shared else ()), [], 0
    stored = load_checkpoint(checkpoint) if checkpoint else None
    if stored is not None:
        tensors, state = stored
        momenta = {
            int(name.removeprefix("momentum_")): value
            for name, value in tensors.items()
            if name.startswith("momentum_")
        }
        snapshots = {
            name: value for name, value in tensors.items() if not name.startswith("momentum_")
        }
        first, losses = state["epoch"], state["losses"]
        flat.load(_theta(snapshots, first, flat))
        snapshots = {
            name: value
            for name, value in snapshots.items()
            if int(name.rpartition("_")[2]) in (0, *epochs)
        }
        for index, parameter in enumerate(
            p for group in optimiser.param_groups for p in group["params"]
        ):
            if index in momenta:
                optimiser.state[parameter]["momentum_buffer"] = momenta[index].to(parameter)
    for epoch in range(first, epochs[-1]):
        losses.append(
            train_epoch(
                model,
                pairs,
                optimiser,
                batch_size=section.batch_size,
                tau=tau,
                seed=seed,
                epoch=epoch,
            )
        )
        now = _snapshot(flat, epoch + 1)
        if checkpoint is not None:
            save_checkpoint(
                checkpoint,
                {**snapshots, **now, **_momenta(optimiser)},
                {"epoch": epoch + 1, "losses": losses},
            )
        snapshots.update(now if epoch + 1 in epochs else {})
        if progress:
            progress(epoch + 1, epochs[-1])
    return snapshots, losses


def save_snapshots(
    folder: Path, snapshots: Theta, *, storage: Storage, start: Theta
) -> dict[str, float]:
    """Write the trajectory of one expert into its artifact folder.

    Args:
        snapshots: as `train_expert` returns them.
        storage: `float32` as they are, or `bfloat16_delta`: epochs from 1 on as bfloat16
            differences to epoch 0.
        start: epoch 0 of a group that the snapshots left out, {"img": (P_img,)}; else empty.

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
            first = snapshots.get(f"{group}_000", start.get(group))
            assert first is not None, "a snapshot without epoch 0 comes with its start"
            stored[name] = (theta - first).to(torch.bfloat16)
            moved = float((theta - first).norm())
            errors.append(
                float((_restore(stored[name], first) - theta).norm()) / moved
                if moved > 0.0
                else 0.0
            )
    save_tensors(folder / SNAPSHOTS, stored)
    return {
        "snapshot_bytes": sum(value.nbytes for value in stored.values()),
        "storage_error": max(errors),
    }


def stored_bytes(
    sizes: dict[str, int], num_epochs: int, *, storage: Storage, is_start_shared: bool
) -> int:
    """Return the bytes of the tensors of one stored expert.

    Args:
        sizes: trainable parameters of each group, {"img": P_img, "txt": P_txt}.
        num_epochs: epochs whose snapshots are stored beside that of the start.
        is_start_shared: epoch 0 of the image group is not in the file.
    """
    later = 2 if storage == "bfloat16_delta" else 4
    firsts = sizes["txt"] + (0 if is_start_shared else sizes["img"])
    return 4 * firsts + later * num_epochs * (sizes["img"] + sizes["txt"])


def kept_bytes(device: torch.device) -> int:
    """Return how many bytes of snapshots a buffer keeps on a device unless it is told: a quarter of
    what is free there now.

    The rest is the student's, which cannot do with less; reading a snapshot again takes little
    beside an iteration.
    """
    if device.type == "cuda":
        # Held by this process, for reuse
        idle = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return (torch.cuda.mem_get_info(device)[0] + idle) // 4
    return _available_host_bytes() // 4


class Buffer:
    """The stored trajectories of several experts, read through memory maps and kept on the device
    when they fit.

    Args:
        folders: expert artifact folders.
        start: theta_0 of the shared image encoder, {"img": (P_img,)}, for experts that left theirs
            out.
        device: where segments are returned.
        max_bytes: of the snapshots kept there; the one that was not asked for longest goes first,
            and is read again when it is. None: `kept_bytes` of the device as it is now.
    """

    def __init__(
        self,
        folders: Sequence[Path],
        start: Theta,
        *,
        device: torch.device,
        max_bytes: int | None = None,
    ) -> None:
        if not folders:
            raise ValueError(
                "trajectory matching needs at least one expert, received none; raise "
                "train_experts.num_experts"
            )
        self._files = [folder / SNAPSHOTS for folder in folders]
        self._start, self._device = start, device
        self._names = [set(tensor_names(file)) for file in self._files]
        self._max_bytes = kept_bytes(device) if max_bytes is None else max_bytes
        self._kept: dict[tuple[int, int], Theta] = {}  # the last one that was asked for stands last

    @property
    def num_experts(self) -> int:
        return len(self._files)

    def snapshot(self, expert: int, epoch: int) -> Theta:
        """Return theta*_epoch of an expert, {"img": (P_img,), "txt": (P_txt,)}; do not modify it in
        place.

        Raises:
            ValueError: the expert was not trained that far.
        """
        found = self._kept.pop((expert, epoch), None)
        if found is None:
            if f"txt_{epoch:03d}" not in self._names[expert]:
                raise ValueError(
                    f"{self._files[expert]} has no snapshot of epoch {epoch}; raise "
                    "train_experts.num_epochs or lower "
                    "max_start_epoch / expert_epochs of the method"
                )
            found = {group: self._read(expert, group, epoch) for group in GROUPS}
        size = self._size(found)
        if size <= self._max_bytes:
            self._make_room(size)
            self._kept[expert, epoch] = found
        return found

    def _make_room(self, size: int) -> None:
        held = sum(map(self._size, self._kept.values()))
        while self._kept and held + size > self._max_bytes:
            held -= self._size(self._kept.pop(next(iter(self._kept))))

    def _size(self, snapshot: Theta) -> int:
        """Bytes of a snapshot beside those of the shared start."""
        return sum(
            value.nbytes for group, value in snapshot.items() if value is not self._start.get(group)
        )

    def _read(self, expert: int, group: str, epoch: int) -> torch.Tensor:
        name = f"{group}_{epoch:03d}"
        if name not in self._names[expert]:
            return self._start[group].to(self._device)
        with safe_open(str(self._files[expert]), "pt") as handle:
            value: torch.Tensor = handle.get_tensor(name).clone().to(self._device)
        if value.dtype != torch.bfloat16:
            return value
        return _restore(value, self._read(expert, group, 0))


def _available_host_bytes() -> int:
    """Memory that this machine could give without swapping; where it does not say (not Linux), all
    that it has.
    """
    lines = (
        Path("/proc/meminfo").read_text().splitlines() if Path("/proc/meminfo").is_file() else []
    )
    told = [1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    return told[0] if told else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _restore(delta: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
    return first + delta.to(first.dtype)


def _snapshot(flat: FlatModel, epoch: int, skip: tuple[str, ...] = ()) -> Theta:
    return {
        f"{group}_{epoch:03d}": value.cpu()
        for group, value in flat.flatten().items()
        if group not in skip and value.numel()
    }


def _theta(snapshots: Theta, epoch: int, flat: FlatModel) -> Theta:
    now = flat.flatten()
    return {
        group: snapshots.get(f"{group}_{epoch:03d}", now[group]).to(now[group]) for group in GROUPS
    }


def _momenta(optimiser: torch.optim.Optimizer) -> Theta:
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    found: dict[str, Any] = {
        f"momentum_{i}": optimiser.state[p].get("momentum_buffer") for i, p in enumerate(parameters)
    }
    return {name: value for name, value in found.items() if value is not None}
