"""Which finished set a distilled one begins with, and which of them the parameters refuse."""

import pytest

from tasks.settings import params, steps
from tasks.settings.beginnings import beginning
from tasks.settings.sets import SetName
from tests.workspace import ROOT


def _load(*settings):
    return params.load(["profile=toy", *settings], path=ROOT / "params.yaml")


def _method(*settings):
    return _load(*settings).distillers["bi_trajectory"].config


@pytest.mark.parametrize(
    ("begin_with", "expected"),
    [
        ("[]", {20: None, 50: None}),
        ("[20]", {20: None, 50: "bi_trajectory-20"}),
        ("[10, 20, 500]", {10: None, 20: "bi_trajectory-10", 50: "bi_trajectory-20"}),
        ("[theirs-20]", {20: "theirs-20", 50: "theirs-20"}),
        ("[20, theirs-20]", {20: "theirs-20", 50: "bi_trajectory-20"}),
    ],
)
def test_a_set_begins_with_the_largest_that_fits(begin_with, expected):
    settings = (f"distill.matching.begin_with={begin_with}", "methods.imported=[theirs-20]")
    chosen = _load(*settings)
    config = chosen.distillers["bi_trajectory"].config
    for size, wanted in expected.items():
        name = SetName("bi_trajectory", size)
        found = beginning(config, name)
        assert (found and str(found)) == wanted
        assert steps.distillation(chosen, name).begins_with == found


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["begin_with=[theirs-20]"], r"received 'theirs-20'; allowed are .*imported: none; change"),
        (["begin_with=[1]"], r"begin_with.*received 1, allowed is >= 2 pairs"),
        (["begin_with=[lors-20]"], r"received 'lors-20'; allowed are numbers of pairs, and sets"),
        (["begin_with=20"], r"begin_with: received 20: allowed is a list"),
        (["earlier_lr_scale=1.5"], r"earlier_lr_scale: received 1.5, allowed is >= 0 and <= 1"),
        (
            ["begin_with=[10]", "lr_img={20: 0.1, 50: 0.1}"],
            r"lr_img: received .* for 10 pairs; allowed is a positive number",
        ),
    ],
)
def test_what_no_set_can_begin_with_is_refused_with_its_place(settings, words):
    with pytest.raises(ValueError, match=words):
        _method(*(f"distill.matching.{one}" for one in settings))


def test_an_imported_set_that_is_larger_than_a_budget_is_refused():
    with pytest.raises(ValueError, match=r"begin_with: received 'theirs-50' with a set of 20 pair"):
        _method("distill.matching.begin_with=[theirs-50]", "methods.imported=[theirs-50]")


def test_sets_that_grow_have_similarities_of_one_form():
    grown = ("methods.distillers=[lors]", "distill.options.lors.begin_with=[20]")
    _load(*grown)
    other = "distill.options.lors.sim_rank={20: 5, 50: 3}"
    _load(grown[0], other)
    with pytest.raises(
        ValueError, match=r"lors\.sim_rank: received .* with begin_with \[20\]; all"
    ):
        _load(*grown, other)
