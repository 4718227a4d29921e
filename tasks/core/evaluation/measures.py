"""Measures what a distilled set is worth beside random pairs and the full data (docs/measures.md).

A recall r is the mean of the six recalls (`metrics.py`) as a fraction of 1. Recalls that are
compared come from students trained by one protocol. This file imports neither PyTorch nor numpy,
because the parent of a sweep imports it and is kept light.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from tasks.core.evaluation.statistics import Statistics, describe, mean

# With fewer sets a rank correlation says little. With 8 sets, chance exceeds 0.74 in 5 of 100.
MIN_SETS = 8


def recovery(r_set: float, r_full: float) -> float | None:
    """Return r_set / r_full; None where the full data scores 0."""
    return r_set / r_full if r_full else None


def improvement_over_random(r_set: float, r_random: float) -> float:
    """Return IOR = r_set - r_random. The random pairs are equally many, or take equal bytes."""
    return r_set - r_random


def hard_label_recovery(r_set: float, r_full: float) -> float:
    """Return HLR = r_full - r_set, both under the plain recipe; below 0 the set is better.

    DD-Ranking (Li et al., 2025) takes one-hot labels in place of learned ones. For image-text pairs
    the plain recipe takes the identity as similarity, InfoNCE, and the step sizes of the recipe.
    """
    return r_full - r_set


def label_robust_score(ior: float, hlr: float) -> float:
    """Return LRS = (e^a - e^-1) / (e - e^-1) with a = IOR / 2 - HLR / 2 (DD-Ranking).

    It is 1 for a set that beats random and full data by 1 each, and 0 for one that loses by 1 each.
    """
    return _mapped(0.5 * ior - 0.5 * hlr)


def augmentation_robust_score(ior: float, ior_augmented: float) -> float:
    """Return ARS, the map of LRS at the mean of two IOR: without augmentation in the student, and
    with it (DD-Ranking). It is 1 for a set that beats random by 1 in both.

    DD-Ranking takes the augmentation of each method. Here one is for all sets (`augmented.py`).
    """
    return _mapped(0.5 * ior + 0.5 * ior_augmented)


def encoder_robustness(ior_home: float, ior_unseen: Sequence[float]) -> float | None:
    """Return the mean IOR under unseen encoders, divided by the IOR under the home encoder.

    The home encoder is the one that the set was distilled with. None where there is no unseen
    encoder, or where the set does not beat random at home.
    """
    if not ior_unseen or ior_home <= 0:
        return None
    return mean(ior_unseen) / ior_home


def spearman(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Return Spearman's rank correlation of two samples: Pearson's correlation of their ranks. None
    where one sample is constant.
    """
    ranks_a, ranks_b = _ranks(a), _ranks(b)
    middle = (len(a) + 1) / 2
    both = math.fsum(
        (one - middle) * (other - middle) for one, other in zip(ranks_a, ranks_b, strict=True)
    )
    scale = math.sqrt(_square(ranks_a, middle) * _square(ranks_b, middle))
    return both / scale if scale else None


def loss_correlation(losses: Sequence[float], recalls: Sequence[float]) -> float | None:
    """Return DCS, Spearman's correlation of the distillation loss with recall, over sets of one
    method (CVPR 2026, arXiv 2604.18811). It is -1 where a smaller loss always means a better set.

    None for fewer than `MIN_SETS` sets, or where all losses or all recalls are equal.
    """
    if len(losses) < MIN_SETS:
        return None
    return spearman(losses, recalls)


@dataclass(frozen=True)
class Spread:
    """The scores of several sets of one method. Each distilled set is one draw of the method.

    Attributes:
        sets: statistics over sets, where each set counts with the mean of its students.
        over_students: standard deviation within a set, pooled over sets and weighted by their
            degrees of freedom; None where each set has one student.
    """

    sets: Statistics
    over_students: float | None


def spread(found: Sequence[Statistics]) -> Spread:
    """Return the spread of sets, given the statistics over the students of each set."""
    freedom = sum(one.n - 1 for one in found)
    total = math.fsum((one.n - 1) * one.deviation**2 for one in found if one.deviation is not None)
    within = math.sqrt(total / freedom) if freedom else None
    return Spread(describe(one.mean for one in found), within)


def _mapped(a: float) -> float:
    """Map [-1, 1] to [0, 1], with the larger slope for better sets."""
    low, high = math.exp(-1), math.e
    return (math.exp(a) - low) / (high - low)


def _ranks(values: Sequence[float]) -> list[float]:
    # Ranks count from 1. A group of equal values shares the mean of its ranks.
    order = sorted(range(len(values)), key=values.__getitem__)
    ranks, num_smaller = [0.0] * len(values), 0
    for _, tied in groupby(order, key=values.__getitem__):
        places = list(tied)
        for place in places:
            ranks[place] = num_smaller + (len(places) + 1) / 2
        num_smaller += len(places)
    return ranks


def _square(ranks: Sequence[float], middle: float) -> float:
    return math.fsum((rank - middle) ** 2 for rank in ranks)
