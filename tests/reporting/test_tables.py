"""Summary, ratios and recovery against numbers worked out by hand."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from tasks.reporting.headline import headline
from tasks.reporting.recall_table import crossing, groups_by_size
from tasks.reporting.tables import (
    RECALLS,
    check_scores,
    cross_architecture,
    nested_metrics,
    order,
    primary,
    summarise,
)


def student_row(
    method: str,
    num_pairs: int,
    seed: int,
    recalls: tuple[float, ...],
    student: str = "vit",
    protocol: str = "strict",
) -> dict:
    name = "full" if method == "full" else f"{method}-{num_pairs}"
    return {
        "set": name,
        "method": method,
        "num_pairs": num_pairs,
        "student": student,
        "seed": seed,
        "protocol": protocol,
        "chosen_epoch": 7,
        **dict(zip(RECALLS, recalls, strict=True)),
        "mean_recall": sum(recalls) / 6,
        "val_mean_recall": 1.0,
        "seconds": 2.0,
        "training_pairs": num_pairs,
        "num_bytes": None if method == "full" else 1000 * num_pairs,
        "bits": 8,
    }


@pytest.fixture
def hand() -> pd.DataFrame:
    """Mean recalls: random 4 and 6 (mean 5, std sqrt 2), herding 4, bi_trajectory 11 and 13 (mean
    12), full 40.
    """
    rows = [
        student_row("bi_trajectory", 3, 0, (4, 10, 19, 3, 11, 19)),
        student_row("bi_trajectory", 3, 1, (6, 14, 19, 5, 13, 21)),
        student_row("random", 3, 0, (1, 4, 7, 1, 4, 7)),
        student_row("random", 3, 1, (3, 6, 9, 3, 6, 9)),
        student_row("herding", 3, 0, (1, 4, 7, 1, 4, 7)),
        student_row("full", 60, 0, (20, 40, 60, 20, 40, 60)),
    ]
    return check_scores(pd.DataFrame(rows))


DISTILLED = frozenset({"bi_trajectory-3"})


def test_means_deviations_ratios_and_recoveries_are_the_hand_computed_ones(hand):
    rows = summarise(hand).set_index("set")
    assert rows.loc["random-3", "mean_recall"] == pytest.approx(5.0)
    assert rows.loc["random-3", "mean_recall_std"] == pytest.approx(math.sqrt(2))
    assert rows.loc["bi_trajectory-3", "i2t_r1"] == pytest.approx(5.0)
    assert rows.loc["bi_trajectory-3", "i2t_r10_std"] == 0.0
    assert rows.loc["bi_trajectory-3", "over_random"] == pytest.approx(12 / 5)
    assert rows.loc["bi_trajectory-3", "gain_over_random"] == pytest.approx(7.0)
    assert rows.loc["bi_trajectory-3", "recovery"] == pytest.approx(12 / 40)
    assert rows.loc["herding-3", "over_random"] == pytest.approx(4 / 5)
    assert math.isnan(rows.loc["herding-3", "mean_recall_std"])
    assert math.isnan(rows.loc["full", "over_random"])
    assert rows.loc["full", "recovery"] == 1.0


def test_a_size_without_random_is_refused_by_name(hand):
    with pytest.raises(
        ValueError,
        match=r"random selection of 3 pairs is missing.*received only.*allowed.*params\.yaml",
    ):
        check_scores(hand[hand["method"] != "random"])


def test_random_of_another_size_student_or_protocol_does_not_count(hand):
    for column, value in (("num_pairs", 4), ("student", "resnet"), ("protocol", "last")):
        moved = hand.copy()
        moved.loc[moved["method"] == "random", column] = value
        with pytest.raises(ValueError, match="random selection of 3 pairs is missing"):
            check_scores(moved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda frame: frame.drop(columns="i2t_r5"), "missing columns.*i2t_r5"),
        (lambda frame: frame.iloc[:0], "0 rows"),
        (lambda frame: frame.assign(mean_recall=math.nan), "not a percentage"),
        (lambda frame: frame.assign(t2i_r1=100.1), "not a percentage"),
        (
            lambda frame: frame.assign(protocol="best"),
            "unknown protocol.*strict, last, upstream_best",
        ),
        (lambda frame: pd.concat([frame, frame.iloc[:1]]), "listed twice"),
    ],
)
def test_scores_that_cannot_be_true_are_refused(hand, change, message):
    with pytest.raises(ValueError, match=message):
        check_scores(change(hand))


def test_rows_are_random_then_selections_then_distilled_with_full_data_last(hand):
    shown = order(primary(summarise(hand), "strict", "vit"), DISTILLED)
    assert list(shown["method"]) == ["random", "herding", "bi_trajectory", "full"]


def test_the_best_of_each_column_and_size_is_marked_and_full_data_never_is(hand):
    small, full = groups_by_size(
        order(primary(summarise(hand), "strict", "vit"), DISTILLED), DISTILLED
    )
    marks = {
        row.method: [number.is_best for number in row.numbers.values()]
        for row in (*small.rows, *full.rows)
    }
    assert marks == {
        "random": [False] * 9,
        "herding": [False] * 9,
        "bi_trajectory": [True] * 9,
        "full": [False] * 9,
    }
    assert small.share == pytest.approx(3 / 60)


def test_values_that_print_alike_are_both_marked_as_best():
    rows = [
        student_row("random", 3, 0, (10.01,) * 6),
        student_row("herding", 3, 0, (10.04,) * 6),
        student_row("k_center", 3, 0, (9.9,) * 6),
    ]
    (group,) = groups_by_size(
        primary(summarise(check_scores(pd.DataFrame(rows))), "strict", "vit"), frozenset()
    )
    assert [row.numbers[RECALLS[0]].is_best for row in group.rows] == [True, False, True]
    assert [row.method for row in group.rows] == ["herding", "k_center", "random"]


def test_metrics_are_nested_by_set_with_other_students_and_protocols_below(hand):
    other = hand.assign(
        student="resnet", **{name: hand[name] / 2 for name in (*RECALLS, "mean_recall")}
    )
    summary = summarise(check_scores(pd.concat([hand, other, hand.assign(protocol="last")])))
    metrics = nested_metrics(summary, primary(summary, "strict", "vit"))
    entry = metrics["bi_trajectory-3"]
    assert set(metrics) == {"random-3", "herding-3", "bi_trajectory-3", "full"}
    assert (entry["n"], entry["mean_recall"], entry["over_random"], entry["recovery"]) == (
        2,
        12.0,
        2.4,
        0.3,
    )
    assert entry["others"]["resnet"]["strict"]["mean_recall"] == 6.0
    assert entry["others"]["vit"]["last"]["over_random"] == 2.4
    assert metrics["herding-3"]["mean_recall_std"] is None


def test_a_crossing_has_a_cell_for_each_set_and_student_and_a_gap_where_none_was_trained(hand):
    other = hand[hand["method"] != "herding"].assign(student="resnet")
    summary = summarise(check_scores(pd.concat([hand, other])))
    table = crossing(summary, "student", ["herding-3", "bi_trajectory-3"], "vit")
    assert table.columns == ("vit", "resnet")
    (name, (vit, resnet)), (_, (_, second)) = table.rows.items()
    assert name == "herding-3"
    assert all(math.isnan(resnet[one].value) for one in ("mean_recall", "over_random"))
    assert (vit["mean_recall"].value, second["mean_recall"].value) == (4.0, 12.0)


def test_ratio_and_recovery_of_a_student_are_those_against_its_own_random_and_full_data(hand):
    """Another student whose random selection is half as good and whose full data is as good: 4.8
    times random, the same recovery.
    """
    names = list((*RECALLS, "mean_recall"))
    changed = hand.assign(student="resnet", **{name: hand[name].astype(float) for name in names})
    changed.loc[changed["method"] == "random", names] /= 2
    summary = summarise(check_scores(pd.concat([hand, changed])))
    shown = order(primary(summary, "strict", "vit"), DISTILLED)
    table = cross_architecture(summary, shown)
    assert list(table["set"]) == [
        name for name in ("random-3", "herding-3", "bi_trajectory-3", "full") for _ in range(2)
    ]
    assert list(table["student"]) == ["vit", "resnet"] * 4
    ours = table[table["method"] == "bi_trajectory"]
    assert list(ours["over_random"]) == pytest.approx([2.4, 4.8])
    assert list(ours["recovery"]) == pytest.approx([0.3, 0.3])
    assert list(ours["n"]) == [2, 2]
    assert list(shown["student"]) == ["vit"] * 4


def test_an_unknown_student_or_protocol_is_refused_with_those_that_exist(hand):
    with pytest.raises(ValueError, match=r"received protocol 'last'.*\['strict'\].*\['vit'\]"):
        primary(summarise(hand), "last", "vit")


def test_the_headline_states_the_best_distilled_set_beside_random_full_and_the_best_selection(hand):
    found = headline(order(primary(summarise(hand), "strict", "vit"), DISTILLED), DISTILLED)
    assert found.sentence == (
        "bi_trajectory with 3 pairs reaches 12.0 mean recall (mean of 2 students, standard "
        "deviation 1.4): 2.40 times random selection of "
        "the same size and 30.0 % of full data. The best coreset besides random, "
        "herding, reaches 4.0."
    )


def test_the_headline_names_no_share_of_full_data_above_it(hand):
    """The page says of such a share that it says nothing."""
    poor = hand.copy()
    poor.loc[poor["method"] == "full", "mean_recall"] = 11.0
    found = headline(primary(summarise(poor), "strict", "vit"), DISTILLED)
    assert "times random selection of the same size. The best" in found.sentence


def test_the_headline_is_a_distilled_set_even_where_a_selection_is_better(hand):
    lower = hand.copy()
    lower.loc[lower["method"] == "herding", "mean_recall"] = 20.0
    found = headline(primary(summarise(lower), "strict", "vit"), DISTILLED)
    assert found.best["method"] == "bi_trajectory"
    assert found.rival is not None
    assert (found.rival["method"], found.rival["mean_recall"]) == ("herding", 20.0)


def test_the_headline_names_no_ratio_or_recovery_that_cannot_be_computed(hand):
    few = hand[
        (hand["method"] != "full") & (hand["seed"] == 0) & (hand["method"] != "herding")
    ].copy()
    few.loc[few["method"] == "random", list((*RECALLS, "mean_recall"))] = 0.0
    found = headline(primary(summarise(few), "strict", "vit"), DISTILLED)
    assert (
        found.sentence == "bi_trajectory with 3 pairs reaches 11.0 mean recall (mean of 1 student)."
    )


def test_random_pairs_of_equal_bytes_are_no_coreset_of_their_size(hand):
    more = [
        student_row("random_equal_bytes", 3, seed, (30, 30, 30, 30, 30, 30)) for seed in range(2)
    ]
    rows = check_scores(pd.concat([hand, pd.DataFrame(more)]))
    summary = summarise(rows)
    equal = summary[summary["method"] == "random_equal_bytes"].iloc[0]
    assert math.isnan(equal["over_random"]) and math.isnan(equal["gain_over_random"])
    shown = order(primary(summary, "strict", "vit"), ["bi_trajectory-3"])
    found = headline(shown, frozenset(["bi_trajectory-3"]))
    assert found.rival["method"] == "herding"
    (group, _) = groups_by_size(shown, frozenset(["bi_trajectory-3"]))
    best = {row.method for row in group.rows if row.numbers["mean_recall"].is_best}
    assert best == {"bi_trajectory"}
