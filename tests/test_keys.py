"""Keys hold what counts for their artifact: the same for what does not, another for what does."""

from dataclasses import replace
from pathlib import Path

import pytest

from tasks import keys
from tasks.keys import Inputs
from tasks.settings import params, steps
from tasks.settings.sets import DECODED, FULL, PLAIN, SetName
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


@pytest.mark.parametrize("ending", [DECODED, PLAIN])
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


def test_folders_are_those_of_the_stage_table(chosen):
    assert steps.start(chosen).folder == steps.training(chosen).folder / "start"
    assert steps.selection(chosen, RANDOM).folder == Path("data/coresets/toy/random-20")
    assert steps.evaluation(chosen, SetName(FULL)).folder == Path("data/scores/toy/full")
    made = SetName("bi_trajectory", 20)
    assert steps.distillation(chosen, made).folder == Path(
        "data/distilled/toy/bi_trajectory/bi_trajectory-20"
    )
    assert steps.showing(chosen, made).folder == Path("data/scores/toy/bi_trajectory-20/gallery")
