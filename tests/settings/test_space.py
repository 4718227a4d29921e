"""The space of a sweep: its cells, their folders, and what is refused before anything starts."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import pytest

from tasks.settings import params, tree
from tasks.settings.overrides import text_of, value_of
from tasks.settings.sets import SetName
from tasks.settings.space import Range, cells_of, cells_with, extremes, space_of
from tests.workspace import ROOT

TREE = tree.overridden(["profile=toy"])[0]
LR = "distill.matching.lr_img"


def cells(space, *, methods=(), sizes=(20,)):
    return cells_of(space_of(space, "sweep"), TREE, methods, sizes)


def load(cell):
    return params.load(["profile=toy", cell.variant])


def test_an_empty_space_is_each_method_at_each_size_of_the_profile():
    found = cells({}, sizes=())
    assert [cell.name for cell in found] == ["bi_trajectory-20", "bi_trajectory-50"]
    assert TREE["sweep"] == {"grid": {}} and space_of(TREE["sweep"], "").kind == "grid"


def test_a_grid_has_every_combination_in_order():
    found = cells({"grid": {LR: [0.01, 0.02], "methods": ["lors", "bi_trajectory"], "seed": [3]}})
    assert [(cell.swept[LR], cell.swept["methods"], cell.swept["seed"]) for cell in found] == [
        (0.01, "lors", 3),
        (0.01, "bi_trajectory", 3),
        (0.02, "lors", 3),
        (0.02, "bi_trajectory", 3),
    ]
    chosen = load(found[2])
    assert (chosen.seed, list(chosen.distillers)) == (3, ["lors"])
    assert chosen.distillers["lors"].config.lr_img == 0.02
    assert [str(name) for name in chosen.sets] == ["random-20", "lors-20"]


def test_cells_of_a_list_have_their_own_methods_and_sizes():
    found = cells({"cells": [{"budgets": 30, LR: 0.1}, {"budgets": [20, 30]}]}, sizes=())
    assert [cell.swept["budgets"] for cell in found] == [30, 20, 30]
    assert load(found[0]).general.budgets == (30,)


def test_equal_cells_are_one():
    assert len(cells({"cells": [{"seed": 1}, {"seed": 1}, {"seed": 2}]})) == 2


def test_cells_of_a_preset_share_the_folders_of_the_preset():
    image = next(cell for cell in cells({"preset": "single_modality"}) if "image" in cell.name)
    assert image.name == "image bi_trajectory-20"
    assert load(image).space("distill") == "toy+single_modality-image"


def test_equal_seeds_draw_equal_cells_inside_their_ranges():
    over = {LR: {"low": 1.0e-4, "high": 0.1, "log": True}, "seed": {"low": 0, "high": 3}}
    draws = {"random": {"count": 40, "over": over}}
    found = cells(draws)
    assert [cell.id for cell in found] == [cell.id for cell in cells(draws)]
    assert {cell.swept["seed"] for cell in found} == {0, 1, 2, 3}
    drawn = [cell.swept[LR] for cell in found]
    assert all(1.0e-4 <= value <= 0.1 for value in drawn) and len(set(drawn)) == 40
    # Of an even logarithm a third lies in each decade
    assert sum(value < 1.0e-3 for value in drawn) in range(5, 25)
    draws["random"]["seed"] = 1
    assert [cell.id for cell in cells(draws)] != [cell.id for cell in found]


def test_the_ends_of_ranges_and_each_choice_are_checked_before():
    axes = {"seed": [1, 2, 3], LR: Range(low=0.1, high=0.2)}
    assert extremes(axes) == [
        {"seed": 1, LR: 0.1},
        {"seed": 2, LR: 0.2},
        {"seed": 3, LR: 0.1},
    ]


def test_a_cell_equal_to_the_profile_has_the_profiles_own_folders():
    own = TREE["profiles"]["toy"]["distill"]["matching"]["lr_img"]
    for cell in (*cells({}), *cells({"grid": {LR: [own]}})):
        chosen = load(cell)
        assert {chosen.space(stage) for stage in ("train_experts", "distill", "evaluate")} == {
            "toy"
        }


def test_cells_share_the_folder_of_whatever_they_agree_in():
    first, second = cells({"grid": {LR: [0.5], "evaluate.small.num_epochs": [7, 8]}})
    other = cells({"cells": [{"evaluate.small.num_epochs": 8, LR: 0.5, "methods": "lors"}]})[0]
    one, two, three = map(load, (first, second, other))
    assert one.space("train_experts") == "toy"
    assert one.space("distill") == two.space("distill") != "toy"
    # Random selection of both methods is scored by one recipe, whatever is distilled
    name = SetName("random", 20)
    assert one.space("evaluate", name) != two.space("evaluate", name)
    assert two.space("evaluate", name) == three.space("evaluate", name) != "toy"


def test_an_option_of_a_method_that_a_cell_does_not_use_changes_nothing():
    cell = cells({"grid": {"distill.options.lors.sim_rank": [7]}})[0]
    assert load(cell).space("distill") == "toy"


def test_a_setting_that_the_user_gave_has_folders_of_its_own_below_a_variant():
    cell = cells({"grid": {LR: [0.5]}})[0]
    spaces = {
        params.load(["profile=toy", *given, cell.variant]).space("distill")
        for given in ((), ("train_experts.lr_img=0.3",))
    }
    assert len(spaces) == 2


@pytest.mark.parametrize(
    "value",
    [
        *(1, 1.0e-9, -2.5, True, None, "text", "a: b", "1e3", [1, [2.0, "x"]]),
        *({100: 1.0, 20: [None]}, math.inf, -math.inf, "\u00e9 \U0001f600 \\ \t", ".inf"),
    ],
)
def test_a_value_in_a_setting_is_read_as_it_was(value):
    text = text_of({"key.of": value})
    assert value_of(text, "") == {"key.of": value}


def test_the_text_of_a_setting_does_not_depend_on_the_order_of_its_keys():
    assert text_of({"b": 1, "a": {2: 0, 1: 0}}) == text_of({"a": {1: 0, 2: 0}, "b": 1})


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"gird": {}}, r"sweep\.gird: received \{\}.*allowed is one of grid, cells, preset"),
        ({"grid": {LR: 0.1}}, r"sweep\.grid\.distill\.matching\.lr_img: received 0\.1"),
        ({"grid": {LR: []}}, "a space of 0 cells"),
        ({"grid": {"seed": [1]}, "preset": "main"}, "received grid, preset; allowed is one"),
        ({"grid": {"distil.matching.lr_img": [1]}}, r"did you mean 'distill'\?"),
        ({"grid": {"prepare_data.image_size": [32]}}, "received 'prepare_data.image_size'"),
        ({"grid": {"distill.matching.lr_imgs": [1]}}, r"unknown key 'lr_imgs' .*'lr_img'"),
        ({"grid": {"seed": list(range(101)), LR: [0.1] * 100}}, "a space of 10100 cells"),
        ({"preset": "tables"}, "unknown preset 'tables'"),
        ({"random": {"count": 0, "over": {"seed": [1]}}}, r"random\.count: received 0"),
        ({"random": {"count": 1, "over": {}}}, r"random\.over: received \{\}"),
        (
            {"random": {"count": 1, "over": {LR: {"low": 2.0, "high": 1.0}}}},
            "low 2.0, high 1.0; allowed are finite numbers, low below high",
        ),
        ({"search": {"count": 1, "over": {LR: {"low": 0, "high": 1, "log": True}}}}, "above 0"),
    ],
)
def test_a_wrong_space_is_refused_with_its_place(space, message):
    with pytest.raises(ValueError, match=message):
        cells(space)


def test_a_space_without_the_method_that_was_asked_for_has_no_cell():
    with pytest.raises(ValueError, match="the sweep has no cell"):
        cells({"grid": {"methods": ["lors"]}}, methods=["bi_trajectory"])


def test_a_wrong_value_of_a_cell_is_refused_where_the_cell_is_loaded():
    (cell,) = cells_with({LR: -1.0}, TREE, [], [20])
    with pytest.raises(ValueError, match=r"matching\.lr_img|options\.bi_trajectory\.lr_img"):
        load(cell)


def test_the_digest_of_a_profile_does_not_know_the_sweep():
    one, two = (
        params.load([f"sweep={text_of(space)}"]).digest for space in ({}, {"grid": {"seed": [1]}})
    )
    assert one == two


def test_the_parent_of_a_sweep_imports_no_heavy_library():
    program = """
import json, sys
from flows import distill_sweep, sweep
from tasks.settings import tree
raw, profile, own = distill_sweep._tree(["profile=toy"])
distill_sweep._source(distill_sweep.space_of(raw["sweep"], ""), raw, [], [], [])
heavy = ("torch", "pandas", "prefect", "mlflow", "transformers", "optuna", "faiss")
print(json.dumps([name for name in heavy if name in sys.modules]))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == []
