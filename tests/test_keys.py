"""Keys hold what counts for their artifact: the same for what does not, another for what does."""

from dataclasses import replace
from pathlib import Path

import pytest

from tasks import keys
from tasks.keys import Inputs
from tasks.settings import params, steps
from tasks.settings.sets import AUGMENTED, CEILING, DECODED, FULL, PLAIN, SetName
from tasks.stages import STAGES
from tasks.store import caching
from tasks.store.artifacts import Ref
from tests.workspace import ROOT

REFS = [Ref(name, name * 8) for name in "abc"]
INPUTS = Inputs(*REFS)
RANDOM = SetName("random", 20)


@pytest.fixture
def chosen():
    return params.load(["profile=toy"], path=ROOT / "params.yaml")


def test_inputs_are_named_with_their_digests():
    pairs = Ref("d", "d" * 8)
    named = {"prepared": "a" * 8, "embeddings": "b" * 8, "start": "c" * 8, "pairs": "d" * 8}
    assert INPUTS.digests(pairs=pairs) == named


def test_no_folder_is_part_of_a_key(chosen):
    work = steps.training(chosen)
    moved = replace(work, folder=Path("elsewhere"))
    assert keys.of_expert(work, INPUTS, 1) == keys.of_expert(moved, INPUTS, 1)


def test_an_expert_does_not_count_the_others(chosen):
    work = steps.training(chosen)
    more = replace(work, section=replace(work.section, num_experts=9))
    assert keys.of_expert(work, INPUTS, 1) == keys.of_expert(more, INPUTS, 1)
    assert keys.of_expert(work, INPUTS, 1) != keys.of_expert(work, INPUTS, 2)


def test_a_score_of_a_small_set_knows_no_recipe_of_the_full_data(chosen):
    work = steps.evaluation(chosen, RANDOM)
    full = replace(work.section.full, num_epochs=77)
    other = replace(work, section=replace(work.section, full=full))
    pairs = Ref("d", "d" * 8)
    assert keys.of_score(work, INPUTS, pairs, 0) == keys.of_score(other, INPUTS, pairs, 0)
    assert keys.of_score(work, INPUTS, None, 0) != keys.of_score(other, INPUTS, None, 0)


@pytest.mark.parametrize("ending", [DECODED, PLAIN, AUGMENTED])
def test_a_further_score_says_so_and_its_option_changes_no_other_key(ending, chosen):
    name, pairs = SetName("bi_trajectory", 20), Ref("d", "d" * 8)
    own = keys.of_score(steps.evaluation(chosen, name), INPUTS, pairs, 0)
    work, kind = steps.evaluation(chosen, replace(name, ending=ending)), ending.removeprefix("-")
    further = keys.of_score(work, INPUTS, pairs, 0)
    assert further.params == {**own.params, kind: True} and kind not in own.params
    other = params.load(["profile=toy", f"evaluate.{kind}=true"], path=ROOT / "params.yaml")
    assert keys.of_score(steps.evaluation(other, name), INPUTS, pairs, 0) == own
    for task, key in ((steps.training, keys.of_expert), (steps.start, None)):
        assert task(chosen) == task(other)
        assert key is None or key(task(chosen), INPUTS, 0) == key(task(other), INPUTS, 0)
    made = keys.of_distilled(steps.distillation(chosen, name), INPUTS, REFS)
    assert made == keys.of_distilled(steps.distillation(other, name), INPUTS, REFS)


def test_linear_heads_know_features_and_nothing_of_training():
    name, heads = SetName("random", 20, CEILING), ["model.trainable=heads", "model.embed_dim=9"]

    def key(*settings, images=REFS[0]):
        work = steps.evaluation(_load(*heads, *settings), name)
        return keys.of_ceiling(work, INPUTS, images)

    same = ("model.tau=0.2", "evaluate.small.num_epochs=7", "evaluate.num_eval=2", "seed=5")
    assert key() == key(*same)
    assert key() != key(images=REFS[1]) and key() != key("evaluate.protocol=last")


def test_folders_are_those_of_the_stage_table(chosen):
    assert steps.start(chosen).folder == steps.training(chosen).folder / "start"
    assert steps.selection(chosen, RANDOM).folder == Path("data/coresets/toy/random-20")
    assert steps.evaluation(chosen, SetName(FULL)).folder == Path("data/scores/toy/full")
    made = SetName("bi_trajectory", 20)
    assert steps.distillation(chosen, made).folder == Path(
        "data/distilled/toy/bi_trajectory/bi_trajectory-20"
    )
    assert steps.showing(chosen, made).folder == Path("data/scores/toy/bi_trajectory-20/gallery")


TOY = ["profile=toy"]
NAMED = (
    "distill.options.meta_model={real_batch_size: 64, start_from: fresh, warm_start: {method: "
    "ridge_contrastive, step_size_scale: 1.0, options: {iterations: 7, features: plain, width: 8, "
    "draws_per_iteration: 1, ridge: 1.0, tau: 0.07, real_batch_size: 50}}}"
)


def _load(*settings):
    return params.load([*TOY, *settings], path=ROOT / "params.yaml")


def _distilled(chosen, method, experts=REFS):
    return keys.of_distilled(steps.distillation(chosen, SetName(method, 20)), INPUTS, experts)


def test_a_method_without_experts_has_none_in_its_key_and_none_is_trained_for_it():
    chosen = _load("methods.distillers=[ridge_contrastive]")
    assert list(chosen.experts) == [0]  # for coresets
    assert _distilled(chosen, "ridge_contrastive") == _distilled(chosen, "ridge_contrastive", [])
    both = _load("methods.distillers=[ridge_contrastive,bi_trajectory]")
    assert list(both.experts) == [0, 1, 2]
    assert "expert_002" in _distilled(both, "bi_trajectory").inputs


def test_a_warm_start_by_name_has_typed_options_that_it_shares_with_the_method_around_it():
    chosen = _load("methods.distillers=[meta_model]", NAMED)
    config = chosen.distillers["meta_model"].config
    start = config.warm_start.options
    assert (start.iterations, start.ridge, start.lr_img) == (7, 1.0, config.lr_img)
    assert config.total_iterations == config.iterations + 7 and list(chosen.experts) == [0]


def test_the_key_of_a_warm_start_by_name_covers_its_code_and_not_its_checkpoints():
    chosen = _load("methods.distillers=[meta_model]", NAMED)
    key = _distilled(chosen, "meta_model")
    distillers = "tasks.core.distillation.distillers"
    modules = [f"{distillers}.meta_model", f"{distillers}.ridge_contrastive"]
    network = chosen.image_encoder.module_name
    assert key.code == caching.code_digest([*STAGES["distill"].code, *modules, network])
    often = _load("methods.distillers=[meta_model]", NAMED, "distill.matching.checkpoint_every=1")
    assert _distilled(often, "meta_model") == key
    part = "distill.options.meta_model.warm_start"
    other = _load("methods.distillers=[meta_model]", NAMED, f"{part}.options.tau=0.1")
    assert _distilled(other, "meta_model") != key


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("method=rigde", r"unknown distiller 'rigde'.*change it in .*warm_start\.method"),
        ("options.tau=-1.0", r"warm_start\.options\.tau: received -1\.0, allowed is > 0"),
        ("options={}", r"warm_start\.options\.features: received .* is missing"),
        ("options=3", r"warm_start\.options: received 3; allowed is a mapping of options of ridge"),
    ],
)
def test_a_wrong_warm_start_by_name_is_refused_with_its_place(setting, message):
    place = "distill.options.meta_model.warm_start"
    with pytest.raises(ValueError, match=message):
        _load("methods.distillers=[meta_model]", NAMED, f"{place}.{setting}")
