"""Looks at a trained network before the first outer iteration: has it second derivatives, and are
differences right on it?

The probe is a trajectory of two student steps on four pairs, by differences and by second
derivatives. It draws nothing and times nothing, so that every run on a machine finds the same.
Cost: about fifteen gradients of four pairs.
"""

from __future__ import annotations

import logging
import warnings
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from tasks.core.distillation.matching_config import MatchingConfig
from tasks.core.hypergradient.engine_choice import MAX_ERROR, Facts, explain_engine
from tasks.core.hypergradient.engines import DIFFERENCES
from tasks.core.hypergradient.second_order import gradient, leaves
from tasks.core.hypergradient.trajectory import Rows, trajectory_gradient
from tasks.core.networks.functional import GROUPS, FlatModel, Theta
from tasks.core.training.losses import info_nce

LOGGER = logging.getLogger("vl_distillery")
NUM_PAIRS = 4


def engine_of_network(
    flat: FlatModel,
    config: MatchingConfig,
    images: Tensor,
    text_embeds: Tensor,
    batch_size: int,
    *,
    is_encoder_frozen: bool,
) -> str:
    """Return the engine with which a network is matched, and log what `auto` stands for. Only
    trained, plain encoders are probed.

    Args:
        flat: the dual encoder; nothing of it is changed.
        images, text_embeds: (M, C, H, W) and (T, D); the first few are used.
        batch_size: pairs of a student step, for the memory of the exact engine.

    Raises:
        ValueError: `engine` asks for second derivatives of a network that has none.

    Warns:
        UserWarning: `engine` asks for differences on a network where they are wrong.
    """
    is_probed, facts = not is_encoder_frozen and not config.is_compiled, None
    # A set may have more texts than pictures
    count = min(NUM_PAIRS, len(images))
    images, text_embeds = (
        value[:count].to(flat.device, flat.dtype) for value in (images, text_embeds)
    )
    if is_probed and config.engine in ("auto", *DIFFERENCES):
        facts = examine(
            flat, config, images, text_embeds, min(batch_size, config.micro_batch or batch_size)
        )
    elif is_probed:
        _check_exact(flat, config, images, text_embeds)
    if config.engine == "auto":
        engine, reason = explain_engine(is_encoder_frozen=is_encoder_frozen, facts=facts)
        LOGGER.info("engine: auto is %s for %s: %s", engine, _name(flat), reason)
        return engine
    # An error that is not a number is none that is allowed
    if facts is not None and facts.error is not None and not facts.error <= MAX_ERROR:
        warnings.warn(
            f"engine: received {config.engine!r}, but differences are off by {facts.error:.0%} "
            "of the gradient on a few pairs under "
            f"{_name(flat)}, where {MAX_ERROR:.0%} are allowed; exact are double_backward and "
            "forward_over_reverse; change `engine` in "
            "distill.matching or in the method's options in params.yaml",
            stacklevel=2,
        )
    return config.engine


def examine(
    flat: FlatModel, config: MatchingConfig, images: Tensor, text_embeds: Tensor, num_images: int
) -> Facts:
    """Return the facts about a network. The differences are central ones: they go farther and miss
    no kink by chance.

    Args:
        config: gives the step sizes.
        images, text_embeds: at least 2 pairs, on the device of the network.
        num_images: of a pass through the encoder, for its memory.
    """
    found = _gradient(flat, config, images, text_embeds, "central_difference")
    # torch says with a RuntimeError that an operation has no second derivative
    try:
        exact = _gradient(flat, config, images, text_embeds, "double_backward")
    except RuntimeError as error:
        return Facts(None, _first_line(error))
    off = max(_relative(found[name], expected) for name, expected in exact.items())
    if flat.device.type != "cuda":
        return Facts(off)
    memory = torch.cuda.get_device_properties(flat.device).total_memory
    return Facts(
        off,
        exact_bytes=saved_bytes(flat, images, text_embeds) // len(images) * num_images,
        memory_bytes=memory,
    )


def saved_bytes(flat: FlatModel, images: Tensor, text_embeds: Tensor) -> int:
    """Return the bytes that the graph of a differentiable gradient holds beside what is there
    anyway, each storage once.
    """
    theta = leaves(flat.flatten())
    there = [*theta.values(), *flat.model.parameters(), *flat.model.buffers()]
    known, found = {value.untyped_storage().data_ptr() for value in there}, dict[int, int]()

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()

    with (
        sdpa_kernel(SDPBackend.MATH),
        torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor),
    ):
        loss = info_nce(*flat.call(theta, images, text_embeds))
        grads = gradient(loss, theta, create_graph=True)
    del loss, grads  # which kept the graph, so that no two storages had one address
    return sum(found.values())


def _check_exact(
    flat: FlatModel, config: MatchingConfig, images: Tensor, text_embeds: Tensor
) -> None:
    try:
        _gradient(flat, config, images, text_embeds, config.engine)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise ValueError(
            f"engine: received {config.engine!r}, which needs second derivatives that "
            f"{_name(flat)} does not have ({_first_line(error)}); "
            f"allowed are {' and '.join(DIFFERENCES)}, or another network; change `engine` in "
            "distill.matching or in the method's options "
            "in params.yaml"
        ) from error


def _gradient(
    flat: FlatModel, config: MatchingConfig, images: Tensor, text_embeds: Tensor, engine: str
) -> Rows:
    """Two steps on the pairs, judged by the loss on the same pairs in another order; the gradients
    of images and texts.
    """
    sizes = images.new_tensor([config.step_size_img, config.step_size_txt])
    logs = dict(zip(GROUPS, sizes.log(), strict=True))

    def loss_fn(theta: Theta, rows: Rows, step: int) -> Tensor:
        return info_nce(*flat.call(theta, rows["images"], rows["text_embeds"]))

    def terminal(theta: Theta) -> Tensor:
        return info_nce(*flat.call(theta, images, text_embeds.roll(1, 0)))

    every = torch.arange(len(images))
    rows = {"images": images, "text_embeds": text_embeds}
    return trajectory_gradient(
        loss_fn, flat.flatten(), rows, [every, every], logs, terminal, engine=engine
    ).inputs


def _relative(found: Tensor, expected: Tensor) -> float:
    off, length = float((found - expected).norm()), float(expected.norm())
    return off / length if length > 0.0 else off


def _name(flat: FlatModel) -> str:
    return type(flat.model.get_submodule("image_encoder")).__name__


def _first_line(error: Any) -> str:
    return str(error).strip().partition("\n")[0]
