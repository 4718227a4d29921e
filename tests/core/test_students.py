"""Protocols choose their epoch as they say, and the test split is scored once."""

import pytest

from tasks.core.retrieval import recall
from tasks.core.students import train_student
from tasks.core.training import SplitPairs
from tests.core.small_problem import CPU, NO_AUGMENT, RECIPE, make_encoder, make_model, make_split


def _train(protocol):
    calls = []

    def score(img, txt, owner):
        calls.append(1)
        return recall(img, txt, owner)

    encoder = make_encoder()
    outcome = train_student(
        make_model(encoder), SplitPairs(make_split(), encoder, NO_AUGMENT, device=CPU), RECIPE, step_sizes=None, protocol=protocol,
        encoder=encoder, val=make_split(1, 17), test=make_split(2, 19), score=score, tau=0.07, seed=1,
    )  # fmt: skip
    return outcome, len(calls)


def test_strict_takes_the_best_validation_epoch_and_touches_test_once():
    outcome, calls = _train("strict")
    best = max(outcome.curve, key=lambda row: row["val_mean_recall"])
    assert calls == 1 and outcome.chosen_epoch == best["epoch"]
    assert outcome.val["mean_recall"] == best["val_mean_recall"]
    assert [row["epoch"] for row in outcome.curve] == [2, 4]


def test_last_takes_the_last_epoch():
    outcome, calls = _train("last")
    assert (calls, outcome.chosen_epoch) == (1, 4)


def test_upstream_best_is_chosen_on_test():
    outcome, _ = _train("upstream_best")
    assert outcome.test["mean_recall"] == pytest.approx(max(row["test_mean_recall"] for row in outcome.curve))
    assert outcome.curve[0]["epoch"] == 0
