"""What a distilled set is worth beside random pairs and the full data (docs/measures.md).

A recall r is the mean of the six recalls (`metrics.py`) as a fraction of 1, of students that are
trained by one protocol. Imports neither PyTorch nor numpy: the parent of a sweep is light.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from tasks.core.evaluation.statistics import Statistics, describe, mean

# Below it a rank correlation says little: of 8 sets, 0.74 is what chance exceeds in 5 of 100.
MIN_SETS = 8


def recovery(r_set: float, r_full: float) -> float | None:
    """Return r_set / r_full; None where the full data scores 0."""
    return r_set / r_full if r_full else None


def improvement_over_random(r_set: float, r_random: float) -> float:
    """Return IOR = r_set - r_random, of random pairs of the same number, or the same bytes."""
    return r_set - r_random


def hard_label_recovery(r_set: float, r_full: float) -> float:
    """Return HLR = r_full - r_set, both under the plain recipe; below 0 the set is better.

    DD-Ranking (Li et al., 2025) with one-hot labels in place of learned ones. The plain recipe of
    image-text pairs: identity similarity, InfoNCE, the recipe's step sizes.
    """
    return r_full - r_set


def label_robust_score(ior: float, hlr: float) -> float:
    """Return LRS = (e^a - e^-1) / (e - e^-1) with a = IOR / 2 - HLR / 2 (DD-Ranking).

    1 is the most, of a set that beats random by 1 and the full data by 1; 0 the least.
    """
    return _mapped(0.5 * ior - 0.5 * hlr)


def encoder_robustness(ior_home: float, ior_unseen: Sequence[float]) -> float | None:
    """Return the mean IOR under encoders that distillation never saw, divided by that at home.

    None where there is no unseen encoder, or the set does not beat random at home.
    """
    if not ior_unseen or ior_home <= 0:
        return None
    return mean(ior_unseen) / ior_home


def spearman(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Return Spearman's rank correlation of two samples: Pearson's of their ranks, where equal
    values share the mean of theirs. None where one sample is constant.
    """
    ranks_a, ranks_b = _ranks(a), _ranks(b)
    middle = (len(a) + 1) / 2
    both = math.fsum(
        (one - middle) * (other - middle) for one, other in zip(ranks_a, ranks_b, strict=True)
    )
    scale = math.sqrt(_square(ranks_a, middle) * _square(ranks_b, middle))
    return both / scale if scale else None


def loss_correlation(losses: Sequence[float], recalls: Sequence[float]) -> float | None:
    """Return DCS, Spearman's correlation of the distillation loss with recall over sets of one
    method (CVPR 2026, arXiv 2604.18811): -1 where a smaller loss always is a better set.

    None for fewer than `MIN_SETS` sets, or where all losses or all recalls are equal.
    """
    if len(losses) < MIN_SETS:
        return None
    return spearman(losses, recalls)


@dataclass(frozen=True)
class Spread:
    """Scores of several sets of one method: a distilled set is one draw.

    Attributes:
        sets: statistics of the means of each set; its interval is over sets.
        over_students: standard deviation within a set, pooled over sets with their degrees of
            freedom; None where each has one student.
    """

    sets: Statistics
    over_students: float | None


def spread(found: Sequence[Statistics]) -> Spread:
    """Return the spread of sets from what the students of each scored."""
    freedom = sum(one.n - 1 for one in found)
    total = math.fsum((one.n - 1) * one.deviation**2 for one in found if one.deviation is not None)
    within = math.sqrt(total / freedom) if freedom else None
    return Spread(describe(one.mean for one in found), within)


def _mapped(a: float) -> float:
    """Map [-1, 1] to [0, 1], with the larger slope for better sets."""
    low, high = math.exp(-1), math.e
    return (math.exp(a) - low) / (high - low)


def _ranks(values: Sequence[float]) -> list[float]:
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
