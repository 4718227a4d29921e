"""The stage table: what each stage reads, where it writes, and the code that its key covers.

The code of a stage is the modules that the table names, with all modules of `tasks.core` that they
import. So a module of `tasks` that takes part in a result has to be named, here or in keys.py.
"""

from __future__ import annotations

import importlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

DATA = Path("data")
REPORTS = Path("reports")
_TABLES = ("pandas", "pyarrow.parquet")
_NETWORKS = (*_TABLES, "torch", "timm", "timm.data")


@dataclass(frozen=True)
class Stage:
    """One stage.

    Attributes:
        sections: of params.yaml that it computes with.
        reads: the stages that make what it reads.
        folder: its output folder below `data/`; "" for the report, which lies elsewhere.
        code: modules that its key covers.
        libraries: imported before the clock of an artifact starts, so that the seconds in its
            manifest are work alone. A library of one plugin (transformers, peft, torchvision,
            faiss) is not among them: its import counts for the first artifact that needs it.
    """

    name: str
    sections: tuple[str, ...]
    reads: tuple[str, ...]
    folder: str
    code: tuple[str, ...]
    libraries: tuple[str, ...]

    def import_libraries(self) -> None:
        """Import `libraries`, before a clock starts."""
        for library in self.libraries:
            importlib.import_module(library)


STAGES = {
    stage.name: stage
    for stage in (
        Stage("prepare_data", ("prepare_data",), (), "prepared", ("tasks.prepare_data",), _TABLES),
        Stage(
            "embed_captions",
            ("embed_captions",),
            ("prepare_data",),
            "caption_embeddings",
            ("tasks.embed_captions",),
            (*_TABLES, "torch"),
        ),
        Stage(
            "train_experts",
            ("seed", "model", "train_experts"),
            ("prepare_data", "embed_captions"),
            "experts",
            ("tasks.train_experts", "tasks.starts", "tasks.models"),
            _NETWORKS,
        ),
        Stage(
            "select_coresets",
            # `train_experts`: pairs are chosen in the space of an expert, by its recipe
            ("seed", "budgets", "model", "train_experts", "select_coresets"),
            ("prepare_data", "embed_captions", "train_experts"),
            "coresets",
            ("tasks.select_coresets", "tasks.models"),
            _NETWORKS,
        ),
        Stage(
            "distill",
            ("seed", "budgets", "model", "distill"),
            ("prepare_data", "embed_captions", "train_experts"),
            "distilled",
            ("tasks.distill", "tasks.models", "tasks.search"),
            _NETWORKS,
        ),
        Stage(
            "evaluate",
            ("seed", "model", "evaluate"),
            ("prepare_data", "embed_captions", "train_experts", "select_coresets", "distill"),
            "scores",
            (
                "tasks.evaluate",
                "tasks.starts",
                "tasks.models",
                "tasks.student_models",
                "tasks.search",
            ),
            _NETWORKS,
        ),
        Stage(
            "report",
            ("budgets", "evaluate", "report"),
            ("distill", "evaluate"),
            "",
            ("tasks.report",),
            _TABLES,
        ),
    )
}
LAST = "report"  # builds on all others


def folder(stage: str, profile: str, *parts: str) -> Path:
    """Return the artifact folder of `stage` for one profile, relative to the working directory."""
    return DATA.joinpath(STAGES[stage].folder, profile, *parts)


def sections_of(stage: str, *, without: Collection[str] = ()) -> frozenset[str]:
    """Return the params sections that a stage reads, and every stage that it builds on.

    Args:
        without: stages that the artifact in question does not build on: no coreset decides the
            score of a distilled set.
    """
    upstream = (sections_of(name) for name in STAGES[stage].reads if name not in without)
    return frozenset(STAGES[stage].sections).union(*upstream)
