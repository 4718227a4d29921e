"""Sets that are made and scored on a tiny toy set, for the tests of exports."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import replace
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
# In 8 bits, so that nothing is lost either
SEVERAL = (
    "methods.coresets=[random, random_equal_bytes]",
    "methods.distillers=[bi_trajectory]",
    "distill.matching.parts=2",
    "distill.matching.texts_per_image=2",
    "distill.matching.storage=uint8",
    "distill.matching.init_image=k_means",
    "distill.options.bi_trajectory.weights=mass",
    # 16 images leave a rest of one
    "evaluate.small.batch_size=5",
)


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


@pytest.fixture(scope="session")
def made_several(made, tmp_path_factory) -> tuple[Path, Params]:
    """The profile of `made` with bi_trajectory-4 of 2 x 2 parts, two texts an image and weights,
    and random_equal_bytes-4, the pictures of which have several captions.
    """
    folder = tmp_path_factory.mktemp("several") / "copy"
    shutil.copytree(made[0], folder)
    with contextlib.chdir(folder):
        chosen = params.load(SEVERAL)
        _run(chosen, "random_equal_bytes", "bi_trajectory")
    return folder, chosen


@pytest.fixture
def inside(made) -> Iterator[Params]:
    """The parameters of `made`, in its folder."""
    with contextlib.chdir(made[0]):
        yield made[1]


def _make(folder: Path, *settings: str) -> tuple[Path, Params]:
    with contextlib.chdir(make_workspace(folder, (*TINY, *settings)).folder):
        chosen = params.load()
        _run(chosen, "herding", "bi_trajectory", "lors")
    return folder, chosen


def _run(chosen: Params, *methods: str) -> None:
    """Make and score sets of 4 pairs; the decoded one of `bi_trajectory` too."""
    given = inputs_of(chosen)
    training = steps.training(chosen)
    experts = [train_experts.train_expert.fn(training, given, number) for number in range(2)]
    scored = {}
    for method in methods:
        name = SetName(method, 4)
        if method in chosen.coresets:
            work = steps.selection(chosen, name)
            scored[name] = select_coresets.select_coreset.fn(work, given, experts[0])
        else:
            scored[name] = distill.distill.fn(steps.distillation(chosen, name), given, experts)
    scored[SetName("bi_trajectory", 4, DECODED)] = scored[SetName("bi_trajectory", 4)]
    for name, pairs in scored.items():
        for seed in range(2):
            evaluate.train_student.fn(steps.evaluation(chosen, name), given, pairs, seed)


def inputs_of(chosen: Params) -> Inputs:
    """Make what students are trained on and begin with, or find it."""
    prepared = prepare_data.prepare_data.fn(steps.preparation(chosen))
    embeddings = embed_captions.embed_captions.fn(steps.embedding(chosen), prepared)
    start = train_experts.build_start.fn(steps.start(chosen), prepared)
    return Inputs(prepared, embeddings, start)


@pytest.fixture
def folder(made, tmp_path, monkeypatch):
    """A copy of the artifacts that an import may write to."""
    shutil.copytree(made[0] / "data", tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def several(made_several, tmp_path, monkeypatch):
    """The parameters of `made_several`, in a folder that an import may write to."""
    shutil.copytree(made_several[0] / "data", tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    # An imported coreset has as many pictures as the bytes allow
    sizes = tuple(range(2, 20))
    return replace(made_several[1], general=replace(made_several[1].general, budgets=sizes))


@pytest.fixture
def opened(made_several):
    """The parameters of `made_several`, in its folder, which nothing is written to."""
    with contextlib.chdir(made_several[0]):
        yield made_several[1]
