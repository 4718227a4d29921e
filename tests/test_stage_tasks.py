"""Stage tasks as plain functions in the tiny workspace: what a parameter changes, and what it
leaves as it is.
"""

import contextlib
import json
from dataclasses import replace

import pandas as pd
import pytest
import torch

from tasks import distill, embed_captions, evaluate, prepare_data, select_coresets, train_experts
from tasks.core.foundations.tensor_files import load_tensors, tensor_names
from tasks.core.training.experts import SNAPSHOTS
from tasks.core.training.pair_files import load_pairs
from tasks.keys import Inputs
from tasks.settings import params, steps
from tasks.settings.sets import AUGMENTED, FULL, SetName
from tasks.store import artifacts
from tests.workspace import TINY, make_workspace


@pytest.fixture
def workspace(tmp_path):
    with contextlib.chdir(make_workspace(tmp_path / "copy", TINY).folder):
        yield


def _given(chosen):
    prepared = prepare_data.prepare_data.fn(steps.preparation(chosen))
    embeddings = embed_captions.embed_captions.fn(steps.embedding(chosen), prepared)
    start = train_experts.build_start.fn(steps.start(chosen), prepared)
    return Inputs(prepared, embeddings, start)


def _make(*settings):
    """Both experts, the sets of herding and of bi-trajectory matching."""
    chosen = params.load(settings)
    given, training = _given(chosen), steps.training(chosen)
    experts = [train_experts.train_expert.fn(training, given, index) for index in range(2)]
    selection = steps.selection(chosen, SetName("herding", 4))
    herding = select_coresets.select_coreset.fn(selection, given, experts[0])
    distillation = steps.distillation(chosen, SetName("bi_trajectory", 4))
    return experts, herding, distill.distill.fn(distillation, given, experts)


def _epochs(ref):
    return sorted(
        int(name.removeprefix("txt_"))
        for name in tensor_names(ref.folder / SNAPSHOTS)
        if name.startswith("txt_")
    )


def _files(ref):
    manifest = artifacts.verify(ref.folder)
    assert manifest is not None
    return manifest.files


def test_experts_store_what_distillation_reads_and_the_first_one_what_coresets_do(workspace):
    experts, herding, distilled = _make(
        "train_experts.num_epochs=2", "train_experts.coreset_epochs=3"
    )
    assert [_epochs(ref) for ref in experts] == [[0, 1, 2, 3], [0, 1, 2]]
    files, selected = _files(distilled), _files(herding)
    shorter, other, again = _make("train_experts.num_epochs=2", "train_experts.coreset_epochs=1")
    assert [_epochs(ref) for ref in shorter] == [[0, 1, 2], [0, 1, 2]] and shorter[1].is_cached
    assert (
        _files(other) != selected and "after 1 epochs" in (other.folder / "pairs.json").read_text()
    )
    assert _files(again) == files
    same, last, kept = _make("train_experts.num_epochs=2", "train_experts.coreset_epochs=2")
    assert all(ref.is_cached for ref in (*same, kept)) and not last.is_cached


def test_text_head_trains_the_text_projection_alone_through_all_stages(workspace):
    """An expert, a distilled set and a student: the image group is empty, and images are moved by
    what the texts' loss says.
    """
    settings = ("model.trainable=text_head", "distill.matching.iterations=3")
    experts, _, distilled = _make(*settings)
    assert {name.partition("_")[0] for name in tensor_names(experts[0].folder / SNAPSHOTS)} == {
        "txt"
    }
    chosen, pairs = params.load(settings), load_pairs(distilled.folder)
    before = load_tensors(distilled.folder / distill.INITIAL)
    assert not torch.equal(pairs.images, before["images"]) and not torch.equal(
        pairs.text_embeds, before["text_embeds"]
    )
    matching = chosen.distillers["bi_trajectory"].config
    assert (
        pairs.step_sizes["img"] == pytest.approx(matching.step_size_img)
        and pairs.step_sizes["txt"] != matching.step_size_txt
    )
    history = pd.read_parquet(distilled.folder / distill.HISTORY)
    assert (history["loss_img"] == 0.0).all() and history["loss"].to_list() == pytest.approx(
        history["loss_txt"].to_list()
    )
    given = _given(chosen)
    scores = {
        name: evaluate.train_student.fn(steps.evaluation(chosen, name), given, ref, 0)
        for name, ref in ((SetName("bi_trajectory", 4), distilled), (SetName(FULL), None))
    }
    for ref in scores.values():
        found = json.loads((ref.folder / evaluate.SCORE).read_text())
        assert 0.0 < found["mean_recall"] <= 100.0 and 0.0 < found["val_mean_recall"] <= 100.0


def test_a_method_without_experts_is_distilled_and_scored_without_any(workspace):
    chosen = params.load(["methods.distillers=[ridge_contrastive]"])
    given, name = _given(chosen), SetName("ridge_contrastive", 4)
    pairs = distill.distill.fn(steps.distillation(chosen, name), given, [])
    assert load_pairs(pairs.folder).step_sizes is None
    assert not steps.training(chosen).folder.joinpath("expert_000").exists()
    score = evaluate.train_student.fn(steps.evaluation(chosen, name), given, pairs, 0)
    assert 0.0 <= json.loads((score.folder / "score.json").read_text())["mean_recall"] <= 100.0


def test_linear_heads_are_scored_under_a_frozen_encoder_alone(workspace):
    settings = ("model.trainable=heads", "model.embed_dim=9", "evaluate.ceilings=true")
    chosen = params.load(settings)
    given = _given(chosen)
    expert = train_experts.train_expert.fn(steps.training(chosen), given, 0)
    selection = steps.selection(chosen, SetName("random", 4))
    random = select_coresets.select_coreset.fn(selection, given, expert)
    found = {}
    for name in chosen.ceilings:
        images = random if name.is_random else None
        work = steps.evaluation(chosen, name)
        ref = evaluate.score_ceiling.fn(work, given, images)
        found[str(name)] = json.loads((ref.folder / evaluate.SCORE).read_text())
        assert evaluate.score_ceiling.fn(work, given, images).is_cached
    assert list(found) == ["full-ceiling", "full-ceiling-4", "random-ceiling-4"]
    assert [score["num_pairs"] for score in found.values()] == [48, 4, 4]
    assert all(0.0 < score["mean_recall"] <= 100.0 for score in found.values())
    assert len({score["val_mean_recall"] for score in found.values()}) == 3
    assert params.load(["evaluate.ceilings=true"]).ceilings == []


def test_augmented_students_differ_under_a_trained_and_under_a_frozen_encoder(workspace):
    for settings in ((), ("model.trainable=heads", "model.embed_dim=9")):
        chosen = params.load(settings)
        given, random = _given(chosen), SetName("random", 4)
        expert = train_experts.train_expert.fn(steps.training(chosen), given, 0)
        pairs = select_coresets.select_coreset.fn(steps.selection(chosen, random), given, expert)
        losses = []
        for name in (random, replace(random, ending=AUGMENTED)):
            ref = evaluate.train_student.fn(steps.evaluation(chosen, name), given, pairs, 0)
            losses.append(float(pd.read_parquet(ref.folder / evaluate.CURVE)["loss"].iloc[-1]))
        assert losses[0] != losses[1]
