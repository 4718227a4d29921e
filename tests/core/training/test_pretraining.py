"""An encoder learns its teacher: the loss against plain loops, a Vision Transformer on toy
pictures, and training that goes on as if it had not stopped.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from tasks.core.data.datasets import toy
from tasks.core.data.left_out import LeftOut
from tasks.core.foundations.records import Split
from tasks.core.foundations.seeding import make_generator
from tasks.core.networks.encoders import ImageEncoder, encode_images, normalise
from tasks.core.networks.image_encoders import timm
from tasks.core.training.augment import crop_and_flip
from tasks.core.training.pretraining import (
    Pretraining,
    PretrainSection,
    standard,
    teacher_loss,
)
from tests.core.hypergradient.small_problem import CPU, make_encoder, make_split

SECTION = PretrainSection(epochs=3, batch_size=6, lr=0.01, embed_dim=4, checkpoint_every=4)
TAU, SEED = 0.2, 7


class Killed(Exception):
    pass


def student(width: int = 5) -> ImageEncoder:
    """A small network of another kind, with a normalisation of its own."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        module = nn.Sequential(
            nn.Conv2d(3, width, 5, stride=2), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
    return ImageEncoder(module.eval(), width, (0.4, 0.5, 0.6), (0.3, 0.2, 0.25))


def made(section=SECTION, seed=SEED, **changes):
    teacher = make_encoder()
    train, val = (make_split(n, size, encoder=teacher) for n, size in ((0, 23), (1, 11)))
    return Pretraining(
        student(), teacher, train, val, replace(section, **changes), tau=TAU, seed=seed, device=CPU
    )


@torch.no_grad()
def test_the_loss_is_that_of_plain_loops():
    training, step = made(text_weight=0.3), 4
    learner, train = training.learner, training.train
    # 23 images give 3 batches of 6, so that this is the second one of the second epoch
    order = torch.randperm(23, generator=make_generator(SEED, "order", 1))
    rows = order[6:12].tolist()
    raw = torch.from_numpy(train.images[rows]).permute(0, 3, 1, 2).float()
    crops = crop_and_flip(raw, 0.35, make_generator(SEED, "augment", step), flip=True)
    crops = crops.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
    draws = torch.rand(6, generator=make_generator(SEED, "captions", step), dtype=torch.float64)
    mean, std = train.features.mean(0), train.features.std(0, correction=0)
    total, images, texts = 0.0, [], []
    for crop, row, draw in zip(crops, rows, draws.tolist(), strict=True):
        one = crop[None]
        feature = training.student.module(normalise(one, (0.4, 0.5, 0.6), (0.3, 0.2, 0.25)))[0]
        seen = training.teacher.module(normalise(one, (0.5,) * 3, (0.5,) * 3))[0]
        target, guess = (seen - mean) / std, learner.to_teacher(feature)
        total += 1.0 - float(guess @ target / guess.norm() / target.norm())
        own = (train.caption_image_idx == row).nonzero()[:, 0]
        text = train.text_embeds[own[int(draw * len(own))]]
        for found, head, value in (
            (images, learner.dual.image_projection, feature),
            (texts, learner.dual.text_projection, text),
        ):
            vector = head(value[None])[0]
            found.append((vector / vector.norm()).tolist())
    z = np.array(images) @ np.array(texts).T / TAU
    both = sum(math.log(np.exp(side[i]).sum()) - side[i, i] for side in (z, z.T) for i in range(6))
    expected = total / 6 + 0.3 * both / 12
    assert float(training.loss(learner, step)) == pytest.approx(expected, rel=1e-5)
    assert float(made(text_weight=0.0).loss(learner, step)) == pytest.approx(total / 6, rel=1e-5)


def test_without_captions_in_the_loss_the_projections_stay():
    training = made(text_weight=0.0)
    before = [value.clone() for value in training.learner.dual.text_projection.parameters()]
    training.run()
    after = training.learner.dual.text_projection.parameters()
    assert all(torch.equal(old, new) for old, new in zip(before, after, strict=True))


def state(training):
    return {name: value.clone() for name, value in training.learner.state_dict().items()}


@pytest.mark.parametrize("stop_after", [1, 3, 5, 8, 9])
def test_a_resumed_training_equals_an_uninterrupted_one(tmp_path, stop_after):
    def stop(done, total, **shown):
        assert (total, set(shown) - {"val_loss"}) == (9, {"loss"})
        if done == stop_after:
            raise Killed

    whole, place = made(checkpoint_every=2), tmp_path / "c.safetensors"
    course = whole.run()
    assert len(course.losses) == len(course.val_losses) == 3 and course.step == 9
    with pytest.raises(Killed):
        made(checkpoint_every=2).run(place, stop)
    resumed = made(checkpoint_every=2)
    again = resumed.run(place)
    assert again == replace(course, seconds=again.seconds) and again.seconds > 0.0
    expected, found = state(whole), state(resumed)
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_the_seed_decides_the_weights():
    first, other = made(), made(seed=8)
    first.run(), other.run()
    name = "dual.image_encoder.0.weight"
    assert not torch.equal(state(first)[name], state(other)[name])


def test_minutes_are_whole_epochs_at_least_one_and_a_resumed_run_keeps_their_number(tmp_path):
    def stop(done, total, **shown):
        raise Killed

    assert made(epochs=None, minutes=1e-6).run().num_epochs == 1
    place = tmp_path / "c.safetensors"
    with pytest.raises(Killed):
        made(epochs=None, minutes=1e-6).run(place, stop)
    assert made(epochs=None, minutes=60.0).run(place).num_epochs == 1


def test_a_loss_that_is_not_finite_stops_training_and_says_where():
    training = made()
    training.train.text_embeds[:] = math.nan
    with pytest.raises(ValueError, match=r"loss is nan in step 0 of 9; .*lower pretrain\.lr"):
        training.run()


def test_targets_have_no_common_part_that_a_constant_could_meet():
    features = 50.0 + torch.randn(400, 6, generator=make_generator(2)) * torch.arange(6)
    mean, deviation = standard(features)
    targets = (features - mean) / deviation
    assert targets.isfinite().all() and targets[:, 0].abs().max() < 1e-3
    constant = targets[:, 1:].mean(0).expand(400, 5) + 0.1
    assert float(teacher_loss(constant, targets[:, 1:])) == pytest.approx(1.0, abs=0.1)
    assert float(teacher_loss(3.0 * targets, targets)) == pytest.approx(0.0, abs=1e-6)


def pictures(split: str, count: int, teacher: ImageEncoder) -> Split:
    """Toy scenes of 32 px, each with a random text."""
    counts = {f"num_{name}": 1 for name in ("train", "val", "test")} | {f"num_{split}": count}
    config = toy.Config(seed=0, image_size=32, captions_per_image=1, **counts)
    found = [one for one in toy.examples(config, LeftOut(0.0, None)) if one.split == split]
    images = np.stack([np.asarray(one.load().convert("RGB")) for one in found])
    texts = torch.randn(count, 3, generator=make_generator(3))
    features = encode_images(teacher, images, device=CPU)
    return Split(images, torch.arange(count), texts, ("a",) * count, features)


def test_a_vision_transformer_learns_the_features_of_its_teacher_on_toy():
    config = timm.Config(
        name="test_vit", weights="random", kwargs={"img_size": 32}, mean=None, std=None
    )
    teacher = make_encoder()
    section = PretrainSection(epochs=8, batch_size=32, text_weight=0.0, crop_scale=0.7)
    encoder = timm.build(config, seed=0)
    train, val = pictures("train", 320, teacher), pictures("val", 64, teacher)
    course = Pretraining(
        encoder, teacher, train, val, section, tau=TAU, seed=SEED, device=CPU
    ).run()
    mean, deviation = standard(train.features)
    targets = (val.features - mean) / deviation
    # The best that a constant can do: the mean direction
    direction = nn.functional.normalize(targets, dim=1).mean(0)
    constant = float(teacher_loss(direction.expand_as(targets), targets))
    assert course.val_losses[-1] < 0.6 * constant
