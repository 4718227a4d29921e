"""Sets that are made and scored on a tiny toy set, for the tests of exports."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks import distill, embed_captions, evaluate, prepare_data, select_coresets, train_experts
from tasks.keys import Inputs
from tasks.settings import params, steps
from tasks.settings.params import Params
from tasks.settings.sets import DECODED, SetName
from tests.workspace import TINY, make_workspace

# Without dropout a student is what its seed makes it, here and in the program of a card. Images
# that stay real lose nothing in 8 bits
SETTINGS = (
    "model.dropout=0.0",
    "evaluate.num_eval=2",
    "evaluate.decoded=true",
    "methods.distillers=[bi_trajectory, lors]",
    "distill.options.lors.optimise=text",
)
HEADS = ("model.trainable=heads", "model.embed_dim=24")


@pytest.fixture(scope="session")
def made(tmp_path_factory) -> tuple[Path, Params]:
    """The tiny profile with a trained encoder: herding-4, bi_trajectory-4 and lors-4, scored, the
    second one also decoded.
    """
    return _make(tmp_path_factory.mktemp("made") / "copy", *SETTINGS)


@pytest.fixture(scope="session")
def made_heads(tmp_path_factory) -> tuple[Path, Params]:
    """The same with a frozen encoder."""
    return _make(tmp_path_factory.mktemp("heads") / "copy", *SETTINGS, *HEADS)


@pytest.fixture
def inside(made) -> Iterator[Params]:
    """The parameters of `made`, in its folder."""
    with contextlib.chdir(made[0]):
        yield made[1]


def _make(folder: Path, *settings: str) -> tuple[Path, Params]:
    with contextlib.chdir(make_workspace(folder, (*TINY, *settings)).folder):
        chosen = params.load()
        prepared = prepare_data.prepare_data.fn(steps.preparation(chosen))
        embeddings = embed_captions.embed_captions.fn(steps.embedding(chosen), prepared)
        start = train_experts.build_start.fn(steps.start(chosen), prepared)
        given = Inputs(prepared, embeddings, start)
        training = steps.training(chosen)
        experts = [train_experts.train_expert.fn(training, given, number) for number in range(2)]
        selection = steps.selection(chosen, SetName("herding", 4))
        sets = {"herding": select_coresets.select_coreset.fn(selection, given, experts[0])}
        for method in ("bi_trajectory", "lors"):
            work = steps.distillation(chosen, SetName(method, 4))
            sets[method] = distill.distill.fn(work, given, experts)
        scored = {SetName(method, 4): pairs for method, pairs in sets.items()}
        scored[SetName("bi_trajectory", 4, DECODED)] = sets["bi_trajectory"]
        for name, pairs in scored.items():
            for seed in range(2):
                evaluate.train_student.fn(steps.evaluation(chosen, name), given, pairs, seed)
    return folder, chosen


@pytest.fixture
def folder(made, tmp_path, monkeypatch):
    """A copy of the artifacts that an import may write to."""
    shutil.copytree(made[0] / "data", tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    return tmp_path
