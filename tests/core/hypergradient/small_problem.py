"""A tiny image-text problem for tests of training and distillation: a conv encoder, 23 images of 8
px, ragged captions.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from tasks.core.distillation.buffer import Buffer
from tasks.core.distillation.run import Problem
from tasks.core.evaluation.students import RecipeSection
from tasks.core.foundations.records import Split
from tasks.core.foundations.seeding import make_generator
from tasks.core.networks.dual_encoder import DualEncoder, build_dual_encoder
from tasks.core.networks.encoders import ImageEncoder, encode_images
from tasks.core.networks.functional import FlatModel
from tasks.core.training.augment import AugmentSection
from tasks.core.training.experts import ExpertSection, save_snapshots, train_expert
from tasks.core.training.split_pairs import SplitPairs

TEXT_DIM, SIZE = 6, 8
CPU = torch.device("cpu")
NO_AUGMENT = AugmentSection(crop_scale=1.0, flip=False, randaugment_ops=0, randaugment_magnitude=0)
SECTION = ExpertSection(
    num_experts=2,
    num_epochs=3,
    coreset_epochs=3,
    batch_size=5,
    lr_img=0.1,
    lr_txt=0.2,
    momentum=0.5,
    storage="float32",
    augment=NO_AUGMENT,
)
# Options that all matching methods share, small; tests build a method's `Config(**MATCHING, ...)`.
MATCHING: dict[str, Any] = {
    "iterations": 12,
    "syn_steps": 4,
    "expert_epochs": 1,
    "max_start_epoch": 2,
    "starts": "joint",
    "num_phases": 1,
    "convex_epochs": None,
    "distance": "squared",
    "goals_per_iteration": 1,
    "feature_dropout": 0.0,
    "num_views": 1,
    "student_momentum": 0.0,
    "mini_batch_size": 4,
    "optimiser": "adam",
    "momentum": 0.5,
    "lr_img": 0.03,
    "lr_txt": 0.03,
    "lr_step_size": 0.02,
    "lr_decay": "none",
    "step_size_img": 0.1,
    "step_size_txt": 0.1,
    "optimise": "both",
    "init_image": "real",
    "init_text": "real",
    "merge_branches": False,
    "is_dropout_on": True,
    "engine": "auto",
    "micro_batch": None,
    "is_theta_on_host": False,
    "precision": "float32",
    "is_compiled": False,
    "texts_per_image": 1,
    "parts": 1,
    "picture_size": None,
    "storage": "float32",
    "weights": "none",
    "lr_weights": 0.05,
    "begin_with": (),
    "earlier_lr_scale": 1.0,
    "checkpoint_every": 5,
}
RECIPE = RecipeSection(
    num_epochs=4,
    batch_size=5,
    lr_img=0.1,
    lr_txt=0.1,
    momentum=0.9,
    weight_decay=5e-4,
    num_validations=2,
)


def make_encoder() -> ImageEncoder:
    """The same small network at every call."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = nn.Sequential(
            nn.Conv2d(3, 7, 3, padding=1), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
    return ImageEncoder(module.eval(), 7, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def make_split(
    seed: int = 0, num_images: int = 23, *, encoder: ImageEncoder | None = None
) -> Split:
    """Images whose mean colour decides their captions' embeddings; 1 to 3 captions each. `encoder`
    adds frozen features.
    """
    generator = make_generator(seed, "images")
    colours = torch.randint(0, 256, (num_images, 1, 1, 3), generator=generator)
    noise = torch.randint(-20, 20, (num_images, SIZE, SIZE, 3), generator=generator)
    images = (colours + noise).clamp(0, 255).to(torch.uint8).numpy()
    owner = torch.arange(num_images).repeat_interleave(
        torch.tensor([1, 3, 2] * num_images)[:num_images]
    )
    mix = torch.randn(3, TEXT_DIM, generator=make_generator(9))
    texts = (colours[owner, 0, 0].float() / 255 - 0.5) @ mix + 0.05 * torch.randn(
        len(owner), TEXT_DIM, generator=generator
    )
    features = encode_images(encoder, images, device=CPU) if encoder else None
    return Split(images, owner, texts, tuple(f"caption {i}" for i in range(len(owner))), features)


def make_model(encoder: ImageEncoder, trainable: str = "full", seed: int = 0) -> DualEncoder:
    """A dual encoder of width 7, or 5 with `heads`."""
    width = 5 if trainable == "heads" else None
    return build_dual_encoder(
        encoder.module,
        out_dim=encoder.out_dim,
        text_dim=TEXT_DIM,
        trainable=trainable,
        embed_dim=width,
        dropout=0.1,
        seed=seed,
    )


def make_problem(folder: Path, trainable: str = "full", device: torch.device = CPU) -> Problem:
    """A distillation problem on a device, with two experts that were trained on the CPU and stored
    below `folder`.
    """
    is_frozen = trainable != "full"
    split = make_split(encoder=make_encoder() if is_frozen else None)
    folders = []
    for index in range(2):
        encoder = make_encoder()
        pairs = SplitPairs(split, encoder, NO_AUGMENT, device=CPU)
        model = make_model(encoder, trainable, index)
        start = FlatModel(model).flatten()
        found, _ = train_expert(
            model, pairs, SECTION, tau=0.07, seed=index, is_start_shared=not is_frozen, index=index
        )
        folders.append(folder / f"expert_{index:03d}")
        folders[-1].mkdir(parents=True)
        save_snapshots(folders[-1], found, storage=SECTION.storage, shared=start)
    encoder = make_encoder()
    encoder.module.to(device)

    def model(number: int = 0) -> FlatModel:
        return FlatModel(make_model(encoder, trainable, number).to(device))

    flat = model()
    return Problem(
        flat,
        encoder,
        split,
        Buffer(folders, flat.flatten(), device=device),
        is_frozen,
        3,
        0.07,
        lambda n: model(n).flatten(),
    )
