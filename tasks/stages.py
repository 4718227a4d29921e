"""The stage table, data only: what each stage reads, where it writes, and which core modules its key covers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

DATA = Path("data")
REPORTS = Path("reports")


@dataclass(frozen=True)
class Stage:
    """One stage: its params sections, the stages whose artifacts it reads, and its output folder under `data/`."""

    name: str
    sections: tuple[str, ...]
    reads: tuple[str, ...]
    folder: str
    code: tuple[str, ...]


STAGES = {
    stage.name: stage
    for stage in (
        Stage("prepare_data", ("prepare_data",), (), "prepared", ("tasks.core.storage", "tasks.core.images")),
        Stage("embed_captions", ("embed_captions",), ("prepare_data",), "caption_embeddings", ("tasks.core.storage",)),
        Stage(
            "train_experts",
            ("image_encoder", "model", "train_experts"),
            ("prepare_data", "embed_captions"),
            "experts",
            ("tasks.core.training", "tasks.core.dual_encoder", "tasks.core.storage"),
        ),
        Stage(
            "select_coresets",
            ("select_coresets",),
            ("prepare_data", "embed_captions", "train_experts"),
            "coresets",
            ("tasks.core.selection", "tasks.core.dual_encoder", "tasks.core.storage"),
        ),
        Stage(
            "distill",
            ("distill",),
            ("prepare_data", "embed_captions", "train_experts"),
            "distilled",
            ("tasks.core.distillation", "tasks.core.dual_encoder", "tasks.core.storage"),
        ),
        Stage(
            "evaluate",
            ("evaluate",),
            ("prepare_data", "embed_captions", "train_experts", "select_coresets", "distill"),
            "scores",
            ("tasks.core.training", "tasks.core.nearest", "tasks.core.dual_encoder", "tasks.core.storage"),
        ),
        Stage("report", ("report",), ("evaluate",), "", ()),
    )
}


def folder(stage: str, profile: str, *parts: str) -> Path:
    """Return the artifact folder of `stage` for one profile, relative to the working directory."""
    return DATA.joinpath(STAGES[stage].folder, profile, *parts)
