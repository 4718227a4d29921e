"""Meta-model matching: a bi-level objective in place of an expert's trajectory (Wang et al., Dataset Distillation, arXiv 1811.10959).

F = E_theta0 l(f(D^; theta0), D): the student is trained for T steps on the synthetic pairs, and judged by the contrastive loss
of a batch of real pairs; the pairs move along dF exactly (METHOD 5), where published code unrolls or truncates. Nothing of an
expert is matched, so that neither `expert_epochs` nor `merge_branches` means anything here. Cost beside bi-trajectory matching:
one forward and backward pass of the real batch per iteration, which needs its memory at once where the encoder is trained.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from tasks.core.distillation import Distilled, Log, Problem, run
from tasks.core.expert_segments import draw_start, snapshots
from tasks.core.functional import Theta
from tasks.core.losses import info_nce, logits
from tasks.core.matching import Rows
from tasks.core.matching_config import MatchingConfig, check_matching
from tasks.core.objective import Goal, Objective
from tasks.core.section import Range
from tasks.core.sections import AugmentSection
from tasks.core.seeding import make_generator
from tasks.core.training import SplitPairs

_NUM_STARTS = 1 << 31
_AS_STORED = AugmentSection(crop_scale=1.0, flip=False, randaugment_ops=0, randaugment_magnitude=0)


@dataclass(frozen=True, kw_only=True)
class Config(MatchingConfig):
    """Options.

    Attributes:
        real_batch_size: real pairs of the terminal loss, drawn anew in each iteration; more than the split has means all.
        start_from: the student starts at an `expert`'s snapshot of epoch 0 .. max_start_epoch - 1, or `fresh`, with new
            projections on the pretrained encoder.
    """

    real_batch_size: Annotated[int, Range(ge=2, unit="pairs")]
    start_from: Literal["expert", "fresh"]


def check(config: Config, num_epochs: int, budgets: tuple[int, ...], *, trainable: str, where: str) -> None:
    """Raise ValueError when the experts, a budget or the trainable set do not fit the options."""
    check_matching(config, num_epochs, budgets, trainable=trainable, where=where)
    if config.merge_branches:
        raise ValueError(
            f"{where}.merge_branches: received true; meta_model compares no branches with those of an expert; allowed is false; change it "
            "there or in distill.matching"
        )


def distill(
    problem: Problem, config: Config, num_pairs: int, *, tau: float, checkpoint: Path | None = None, log: Log | None = None
) -> Distilled:
    """Distil `num_pairs` pairs; see `distillation.run`."""
    real = SplitPairs(problem.train, problem.encoder, _AS_STORED, device=problem.flat.device)

    def student_loss(img: Tensor, txt: Tensor, rows: Rows) -> Tensor:
        return info_nce(img, txt, tau=tau)

    def goal(iteration: int, draw: torch.Generator) -> Goal:
        if config.start_from == "expert":
            start = snapshots(problem.buffer, *draw_start(problem.buffer, config, iteration, draw))
        else:
            start = problem.fresh_start(int(torch.randint(_NUM_STARTS, (1,), generator=draw)))  # each goal of an iteration its own
        rows = torch.randperm(real.num_pairs, generator=draw)[: config.real_batch_size]
        images, texts = real.take(rows, draw, make_generator(problem.seed, "augment", iteration))

        def halves(theta: Theta) -> tuple[Tensor, Tensor]:
            z = logits(*problem.flat.call(theta, images, texts), tau)
            target = torch.arange(len(z), device=z.device)
            return 0.5 * cross_entropy(z, target), 0.5 * cross_entropy(z.T, target)

        def terms(theta: Theta) -> dict[str, float]:
            i2t, t2i = halves(theta)
            return {"loss_img": float(i2t), "loss_txt": float(t2i)}

        return Goal(start, lambda theta: torch.stack(halves(theta)).sum(), terms)

    return run(problem, config, num_pairs, Objective(student_loss, goal=goal), checkpoint=checkpoint, log=log)
