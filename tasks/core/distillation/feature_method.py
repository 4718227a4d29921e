"""Makes a method out of a loss of frozen features and texts: no expert, no student.

An iteration is one forward pass of the synthetic images through the frozen encoder. The gradient of
the loss at features and texts then goes back to the pixels once. The encoder is the pretrained one,
also where students train it: then the real features are computed before the first iteration.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from tasks.core.distillation.matching_config import OuterConfig, check_outer
from tasks.core.distillation.objective import Objective, RowsLoss
from tasks.core.distillation.outer_iterations import Problem
from tasks.core.distillation.run import Distilled, method_of
from tasks.core.networks.encoders import encode_images

Options = TypeVar("Options", bound=OuterConfig)


@dataclass(frozen=True)
class RealPairs:
    """The real pairs of a split as a frozen encoder sees them: every caption with its image.

    Attributes:
        features: (N, F) of the images.
        text_embeds: (T, D) of the captions.
        owner: (T,) the image of each caption.
    """

    features: Tensor
    text_embeds: Tensor
    owner: Tensor

    @staticmethod
    def of(problem: Problem) -> RealPairs:
        """Return the pairs of the training split, on the device of the computation."""
        train, device = problem.train, problem.flat.device
        features = train.features
        if features is None:
            features = encode_images(problem.encoder, train.images, device=device)
        tensors = (features, train.text_embeds, train.caption_image_idx)
        return RealPairs(*(value.to(device) for value in tensors))

    def sample(self, num_pairs: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return features (B, F) and texts (B, D) of random images, each with one random caption.
        More than the split has means all.
        """
        order = torch.randperm(len(self.owner), generator=generator).to(self.owner.device)
        # The first caption of each image in a random order of all captions
        first = torch.full((len(self.features),), len(order), device=order.device)
        places = torch.arange(len(order), device=order.device)
        first.scatter_reduce_(0, self.owner[order], places, "amin")
        chosen = order[first.sort().values[:num_pairs]]
        return self.features[self.owner[chosen]], self.text_embeds[chosen]


def feature_method_of(
    rows_loss: Callable[[Problem, Options, int, RealPairs], RowsLoss],
) -> Callable[..., Distilled]:
    """Return the `distill` of a method that is a loss of features and texts.

    Args:
        rows_loss: makes the loss out of the problem, the method's options, the budget and the real
            pairs. Rows are `features` (M, F) and `text_embeds` (M, D).
    """

    def objective(problem: Problem, config: Options, num_pairs: int) -> Objective:
        loss = rows_loss(problem, config, num_pairs, RealPairs.of(problem))
        return Objective(rows_loss=loss)

    one_run = method_of(objective)

    def distill(problem: Problem, *args: Any, **how: Any) -> Distilled:
        # The encoder is the pretrained one, also where students train it
        found: Distilled = one_run(replace(problem, is_encoder_frozen=True), *args, **how)
        return found

    return distill


def check_features(
    config: OuterConfig, num_epochs: int, budgets: tuple[int, ...], *, trainable: str, where: str
) -> None:
    """Raise ValueError when a budget has no outer step size; experts and trainable set are of no
    account.
    """
    check_outer(config, budgets, where=where)
