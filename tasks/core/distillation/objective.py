"""Defines what a distillation method is: how its students are trained, and what they are judged by.

A student loss and a terminal loss make a method, if they are differentiable. `distillation.run`
does the rest with an exact gradient (METHOD 5). A method may give the student loss alone. It may
add further learnable rows, a blend of features, or a goal of its own. A method without students
gives one loss of the rows in place of all this.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tasks.core.hypergradient.trajectory import Rows
from tasks.core.networks.functional import Theta
from tasks.core.training.pair_set import Similarity

StudentLoss = Callable[[Tensor, Tensor, Rows], Tensor]
RowsLoss = Callable[[Rows, int], tuple[Tensor, dict[str, float]]]
Blend = Callable[[Tensor, Tensor, torch.Generator], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Learnable:
    """A further tensor that is distilled beside images and texts.

    Attributes:
        initial: (M, ...), one row per stored pair.
        lr: its outer step size.
    """

    initial: Tensor
    lr: float


@dataclass(frozen=True)
class Goal:
    """Where the student of one outer iteration starts, and what its end is judged by.

    Attributes:
        theta0: where the student starts, {"img": (P_img,), "txt": (P_txt,)}.
        loss: the terminal loss of theta_T, a scalar that is differentiable in theta.
        terms: the image and the text term of the loss for the history, {"loss_img", "loss_txt"};
            called without a graph.
    """

    theta0: Theta
    loss: Callable[[Theta], Tensor]
    terms: Callable[[Theta], dict[str, float]]


@dataclass(frozen=True)
class Objective:
    """A method.

    Attributes:
        student_loss: a scalar of L2-normalised image and text embeddings (B, d) and of the rows of
            the mini-batch. Rows are `text_embeds`, every further learnable, and `images`. With a
            frozen encoder the last are called `features`, or `views` if there are several.
        loss_name: of `student_losses.py`, the loss with which evaluation trains on the stored set.
        learnable: further learnable tensors by name.
        similarity: makes the record of the stored set out of the learned further tensors (on the
            CPU). None: the set has no similarity.
        blend: mixes features (B, F) and text embeddings (B, D) of a mini-batch before the
            projections. It draws from the generator, which depends on iteration and step alone, so
            that forward and reverse sweep see the same.
        goal: returns the goal of an iteration, given its number; draws from the generator alone.
            None: the student starts at a snapshot of an expert and is judged by the distance to a
            later one (`segments.py`).
        takes_weights: whether the student loss weighs pairs by the rows `LOG_WEIGHTS`, where
            `weights` asks for them.
        num_pairs_returned: pairs of the budget that the further tensors cost; the set holds so many
            fewer.
        rows_loss: in place of a student's trajectory, the loss itself: a scalar, and its image and
            text term as in `Goal`, of the rows of the whole set and the number of the iteration.
            Rows are called as for `student_loss`; of several views it finds one of each image
            under `features`.
    """

    student_loss: StudentLoss | None = None
    loss_name: str = "info_nce"
    learnable: dict[str, Learnable] = field(default_factory=dict)
    similarity: Callable[[Rows], Similarity] | None = None
    blend: Blend | None = None
    goal: Callable[[int, torch.Generator], Goal] | None = None
    takes_weights: bool = False
    num_pairs_returned: int = 0
    rows_loss: RowsLoss | None = None
