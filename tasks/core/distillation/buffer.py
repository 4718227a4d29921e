"""Reads the stored trajectories of experts for distillation (METHOD 4).

Snapshots are read through memory maps, and kept on the device when they fit. `training/experts.py`
writes them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import safe_open

from tasks.core.foundations.tensor_files import tensor_names
from tasks.core.networks.functional import GROUPS, Theta
from tasks.core.training.experts import SNAPSHOTS, restore, snapshot_name


def kept_bytes(device: torch.device) -> int:
    """Return how many bytes of snapshots a buffer keeps on a device by default: a quarter of what
    is free there now.

    The student needs the rest. Reading a snapshot again takes little time beside an iteration.
    """
    if device.type == "cuda":
        # The allocator of torch holds this memory for the process, so it is free for reuse
        idle = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return (torch.cuda.mem_get_info(device)[0] + idle) // 4
    return _available_host_bytes() // 4


class Buffer:
    """The stored trajectories of several experts.

    Args:
        folders: expert artifact folders; none for a method that draws no expert.
        shared: theta_0 of the image encoder that all experts share, {"img": (P_img,)}, for experts
            that left theirs out.
        device: where segments are returned.
        max_bytes: of the snapshots that are kept there. The one that was not asked for longest goes
            first, and is read again when asked for. None: `kept_bytes` of the device as it is now.
    """

    def __init__(
        self,
        folders: Sequence[Path],
        shared: Theta,
        *,
        device: torch.device,
        max_bytes: int | None = None,
    ) -> None:
        self._files = [folder / SNAPSHOTS for folder in folders]
        self._shared, self._device = shared, device
        self._names = [set(tensor_names(file)) for file in self._files]
        self._max_bytes = kept_bytes(device) if max_bytes is None else max_bytes
        self._kept: dict[tuple[int, int], Theta] = {}  # the last one that was asked for stands last

    @property
    def num_experts(self) -> int:
        """How many there are.

        Raises:
            ValueError: there is none; a method asks who draws one.
        """
        if not self._files:
            raise ValueError(
                "trajectory matching needs at least one expert, received none; raise "
                "train_experts.num_experts"
            )
        return len(self._files)

    def snapshot(self, expert: int, epoch: int) -> Theta:
        """Return theta*_epoch of an expert, {"img": (P_img,), "txt": (P_txt,)}; do not modify it in
        place.

        Raises:
            ValueError: the expert was not trained that far.
        """
        found = self._kept.pop((expert, epoch), None)
        if found is None:
            if snapshot_name("txt", epoch) not in self._names[expert]:
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
        """Bytes of a snapshot beside those that all experts share."""
        own = [value for group, value in snapshot.items() if value is not self._shared.get(group)]
        return sum(value.nbytes for value in own)

    def _read(self, expert: int, group: str, epoch: int) -> torch.Tensor:
        name = snapshot_name(group, epoch)
        if name not in self._names[expert]:
            return self._shared[group].to(self._device)
        with safe_open(str(self._files[expert]), "pt") as handle:
            value: torch.Tensor = handle.get_tensor(name).clone().to(self._device)
        if value.dtype != torch.bfloat16:
            return value
        # A difference to epoch 0, see `experts.py`
        return restore(value, self._read(expert, group, 0))


def _available_host_bytes() -> int:
    """Return the memory that this machine could give without swapping. Outside of Linux, which does
    not say, it is all memory.
    """
    told = Path("/proc/meminfo")
    if told.is_file():
        for line in told.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return 1024 * int(line.split()[1])
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
