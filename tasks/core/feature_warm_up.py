"""Features first, pixels second: a warm-up of distillation for a frozen image encoder.

The T-step problem sees images through their features only, so these are distilled first, directly: an iteration then costs no
pass through the encoder. Every image's pixels are then fitted to its distilled feature by least squares, each for itself, since
a frozen encoder treats them apart. The usual pixel iterations go on from there.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from tasks.core.frozen_features import FrozenFeatures
from tasks.core.initialisation import Start
from tasks.core.matching_config import MatchingConfig
from tasks.core.objective import Learnable, Objective
from tasks.core.outer_iterations import Problem, Save, iterate
from tasks.core.outer_loop import OuterState
from tasks.core.seeding import derive_seed

Stored = tuple[dict[str, Tensor], dict[str, Any]]

_TOGETHER = 32  # images fitted between two checkpoints
_FITTED, _NUM_FITTED, _ERRORS = "fitted", "num_fitted", "fit_errors"


def warmed_state(
    problem: Problem, config: MatchingConfig, budget: int, objective: Objective, start: Start, *, stored: Stored | None, save: Save
) -> tuple[OuterState, list[float]]:
    """Return the state from which pixel iterations go on, and the errors of the fit.

    The errors are |f(x) - f| / |f| of each image, f its distilled feature. Texts, further tensors and step sizes are distilled
    along with the features and kept.

    Args:
        problem: with a frozen encoder, best from `prepare_frozen`.
        start: images and texts to distil from.
        stored: checkpoint of the run, from whatever part of it, or None.
        save: writes a checkpoint.

    Raises:
        ValueError: the encoder is trained; or as `iterate`.
    """
    if not problem.is_encoder_frozen:
        raise ValueError("features can be distilled only where the encoder is frozen; set feature_iterations: 0 in the method's options")
    device = problem.flat.device
    if stored is not None and _ERRORS in stored[1]:
        state = OuterState(config, budget, start.images, start.texts, objective.learnable, device=device)
        state.restore(stored)
        return state, stored[1][_ERRORS]
    features = _distil_features(problem, config, budget, objective, start, stored=stored, save=save)
    rows, step_sizes = features.rows(), features.step_sizes()
    pixels = _fit_all(problem.encoder.module, start.images, features, config, stored=stored, save=save)
    reached, targets = _encode(problem, config, pixels), rows["images"]
    errors = (reached - targets).norm(dim=1) / targets.norm(dim=1).clamp(min=torch.finfo(targets.dtype).tiny)
    own = replace(config, step_size_img=step_sizes["img"], step_size_txt=step_sizes["txt"])
    further = {name: Learnable(rows[name], value.lr) for name, value in objective.learnable.items()}
    state = OuterState(own, budget, pixels, rows["texts"], further, device=device)
    tensors, facts = state.dump()
    save(tensors, mark_warm(facts, errors.tolist()))
    return state, errors.tolist()


def mark_warm(facts: dict[str, Any], errors: list[float] | None) -> dict[str, Any]:
    """Return the JSON state of a checkpoint of pixel iterations, which says whether a warm-up came before."""
    return facts if errors is None else {**facts, _ERRORS: errors}


def _distil_features(
    problem: Problem, config: MatchingConfig, budget: int, objective: Objective, start: Start, *, stored: Stored | None, save: Save
) -> OuterState:
    """The usual iterations with features (M, F) in the place of images, and draws of their own."""
    own = replace(config, iterations=config.feature_iterations, lr_img=config.lr_feature, ema_decay=0.0)
    features = _encode(problem, config, start.images)
    state = OuterState(own, budget, features, start.texts, objective.learnable, device=features.device)
    state.restore(stored)
    iterate(replace(problem, seed=derive_seed(problem.seed, "features")), own, state, objective, save=save, log=None)
    return state


def _fit_all(
    module: nn.Module, images: Tensor, features: OuterState, config: MatchingConfig, *, stored: Stored | None, save: Save
) -> Tensor:
    """Return fitted pixels (M, C, H, W), a few images at a time, with a checkpoint after each few."""
    targets = features.rows()["images"]
    pixels, first = images.to(targets.device, copy=True), 0
    if stored is not None and _FITTED in stored[0]:
        pixels, first = stored[0][_FITTED].to(pixels), stored[1][_NUM_FITTED]
    for begin in range(first, len(pixels), _TOGETHER):
        end = min(begin + _TOGETHER, len(pixels))
        pixels[begin:end] = fit(module, pixels[begin:end], targets[begin:end], config)
        tensors, facts = features.dump()
        save({**tensors, _FITTED: pixels}, {**facts, _NUM_FITTED: end})
    return pixels


def _encode(problem: Problem, config: MatchingConfig, images: Tensor) -> Tensor:
    pixels = images.to(problem.flat.device)
    every = torch.arange(len(pixels), device=pixels.device)
    return FrozenFeatures(problem.encoder.module, pixels, every, micro_batch=config.micro_batch).values


def fit(module: nn.Module, pixels: Tensor, targets: Tensor, config: MatchingConfig) -> Tensor:
    """Return pixels (B, C, H, W) after `config.fit_iterations` steps of Adam on |f(x) - target|^2, from `pixels` on.

    Args:
        module: frozen encoder, f.
        targets: (B, F).
    """
    size = config.micro_batch or _TOGETHER
    leaf = pixels.detach().clone(memory_format=torch.channels_last).requires_grad_()
    optimiser = torch.optim.Adam([leaf], lr=config.lr_fit)
    for _ in range(config.fit_iterations):
        grads = []
        for part, target in zip(leaf.detach().split(size), targets.split(size), strict=True):
            x = part.clone(memory_format=torch.channels_last).requires_grad_()
            grads.append(torch.autograd.grad((module(x) - target).square().sum(), x)[0])
        leaf.grad = torch.cat(grads)
        optimiser.step()
    return leaf.detach()
