"""Pretrains an image encoder from random weights on a frozen teacher's features and on captions
(METHOD 2).

`tasks/pretrain.py` calls it and stores the weights. Every draw is named by the seed and its step.
So training goes on from a checkpoint of any step as if it had not stopped.
Shape suffixes: B images of a batch, N of a split, F features of the teacher.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional

from tasks.core.foundations.checkpoints import load_checkpoint, save_checkpoint
from tasks.core.foundations.records import Split
from tasks.core.foundations.section import BatchSize, Count, Range, Section, Share
from tasks.core.foundations.seeding import make_generator
from tasks.core.foundations.text_spans import TextSpans
from tasks.core.networks.dual_encoder import DualEncoder, Projection
from tasks.core.networks.encoders import ImageEncoder, encode_images, normalise, take_rows
from tasks.core.training.adamw import adamw, moments, schedule, set_moments
from tasks.core.training.augment import AugmentSection, augment
from tasks.core.training.losses import info_nce

_UNTIMED, _TIMED = 1, 4  # steps by which `minutes` become epochs
_LEAST_DEVIATION = 0.01  # of the mean one, for features of a teacher that hardly vary


@dataclass(frozen=True, kw_only=True)
class PretrainSection(Section):
    """How an image encoder is pretrained (METHOD 2): by AdamW, with warm-up and cosine decay.

    One of `epochs` and `minutes` is given.

    Attributes:
        epochs: passes over the training images.
        minutes: as many whole epochs as fit into them, by the time of the first steps.
        batch_size: images per step; a rest of an epoch is left out.
        lr: largest step size.
        weight_decay: of matrices and kernels; vectors have none.
        warm_up: share of all steps in which the step size rises.
        text_weight: of InfoNCE with the captions, beside the teacher's term; 0 leaves it out.
        embed_dim: width of the space of that InfoNCE.
        crop_scale: smallest area of a random crop as a fraction; half of the crops are mirrored.
        checkpoint_every: steps between checkpoints; it changes no result.
    """

    epochs: Count | None = None
    minutes: Annotated[float, Range(gt=0.0, le=1e6, unit="minutes")] | None = None
    batch_size: BatchSize = 64
    lr: Annotated[float, Range(gt=0.0, le=1.0, unit="(step size)")] = 0.001
    weight_decay: Share = 0.05
    warm_up: Share = 0.05
    text_weight: Annotated[float, Range(ge=0.0, le=100.0)] = 0.1
    embed_dim: Annotated[int, Range(ge=1, le=16384)] = 512
    crop_scale: Annotated[float, Range(gt=0.0, le=1.0)] = 0.35
    checkpoint_every: Count = 50


@dataclass
class Course:
    """How far training is, and how it went.

    Attributes:
        num_epochs: in all.
        step: steps that are done.
        total: sum of the losses of the present epoch.
        losses: mean loss of each epoch.
        val_losses: the teacher's term on the validation images after each epoch.
        seconds: of training, over all processes that had a part in it.
    """

    num_epochs: int
    step: int = 0
    total: float = 0.0
    losses: list[float] = field(default_factory=list)
    val_losses: list[float] = field(default_factory=list)
    seconds: float = 0.0


class Learner(nn.Module):
    """The encoder in training, with a linear map to the teacher's features and two projections."""

    def __init__(
        self, encoder: ImageEncoder, teacher_dim: int, text_dim: int, embed_dim: int, seed: int
    ) -> None:
        super().__init__()
        # Each part has a generator of its own, so that none shifts the draws of another
        names = ("image_projection", "text_projection", "to_teacher")
        for_image, for_text, draw = (make_generator(seed, name) for name in names)
        image = Projection(encoder.out_dim, embed_dim, dropout=0.0, generator=for_image)
        text = Projection(text_dim, embed_dim, dropout=0.0, generator=for_text)
        self.dual = DualEncoder(encoder.module, image, text)
        self.to_teacher = nn.Linear(encoder.out_dim, teacher_dim)
        bound = encoder.out_dim**-0.5
        for parameter in self.to_teacher.parameters():
            nn.init.uniform_(parameter, -bound, bound, generator=draw)


def teacher_loss(predicted_BF: Tensor, target_BF: Tensor) -> Tensor:
    """Return the mean of 1 - cos(prediction, target) over the images, 0..2."""
    return (1.0 - functional.cosine_similarity(predicted_BF, target_BF, dim=1)).mean()


def standard(features_NF: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and deviation (F,) of a teacher's features, by which targets are standardised.

    Without them a constant would come near to features that share a large mean, as those after a
    ReLU do.
    """
    deviation_F, mean_F = torch.std_mean(features_NF, dim=0, correction=0)
    return mean_F, deviation_F.clamp_min(_LEAST_DEVIATION * float(deviation_F.mean()))


class Pretraining:
    """Training of one encoder; `run` does all of it.

    Args:
        student: its module is trained in place, in eval mode: statistics of BatchNorm stay.
        teacher: the frozen encoder.
        train, val: with the features of the teacher.
        tau: temperature of InfoNCE.
        seed: of all draws.
    """

    def __init__(
        self,
        student: ImageEncoder,
        teacher: ImageEncoder,
        train: Split,
        val: Split,
        section: PretrainSection,
        *,
        tau: float,
        seed: int,
        device: torch.device,
    ) -> None:
        assert train.features is not None and val.features is not None
        self.student, self.teacher, self.train, self.val = student, teacher, train, val
        self.section, self.tau, self.seed, self.device = section, tau, seed, device
        student.module.requires_grad_(True)
        teacher.module.to(device).requires_grad_(False)
        dims = teacher.out_dim, train.text_embeds.shape[1], section.embed_dim
        self.learner = Learner(student, *dims, seed).to(device)
        self.optimiser = adamw(self.learner, section.lr, section.weight_decay)
        self.batch_size = min(section.batch_size, train.num_images)
        self.steps_per_epoch = train.num_images // self.batch_size
        self.texts = TextSpans(train.caption_image_idx, train.num_images)
        self.crops = AugmentSection(
            crop_scale=section.crop_scale, flip=True, randaugment_ops=0, randaugment_magnitude=0
        )
        self.mean_F, self.deviation_F = (part.to(device) for part in standard(train.features))

    def run(
        self, checkpoint: Path | None = None, progress: Callable[..., None] | None = None
    ) -> Course:
        """Train, and return how it went.

        Args:
            checkpoint: file to resume from and to write to.
            progress: called after each step with (steps done, steps in all, loss=, val_loss=).

        Raises:
            ValueError: a loss that is not finite; names the step and the last finite loss.
        """
        course = self._begun(checkpoint)
        num_steps, started = course.num_epochs * self.steps_per_epoch, time.monotonic()
        earlier, last = course.seconds, math.nan
        while course.step < num_steps:
            loss = self._take_step(self.learner, self.optimiser, course.step, num_steps)
            if not math.isfinite(loss):
                raise ValueError(
                    f"the training loss is {loss} in step {course.step} of {num_steps}; the last "
                    f"finite loss was {last:.4g}; lower pretrain.lr by --set"
                )
            last, course.step, course.total = loss, course.step + 1, course.total + loss
            done = (course.step - 1) % self.steps_per_epoch + 1
            shown = {"loss": course.total / done}
            if done == self.steps_per_epoch:
                course.losses.append(shown["loss"])
                course.val_losses.append(self._val_loss(course.step))
                course.total = 0.0
            course.seconds = earlier + time.monotonic() - started
            is_due = course.step % self.section.checkpoint_every == 0 or course.step == num_steps
            if checkpoint is not None and is_due:
                self._save(checkpoint, course)
            if course.val_losses:
                shown["val_loss"] = course.val_losses[-1]
            if progress:
                progress(course.step, num_steps, **shown)
        return course

    def _val_loss(self, step: int) -> float:
        """Return the validation loss; the last step may leave the finite numbers unseen."""
        loss = self.validate()
        if not math.isfinite(loss):
            raise ValueError(
                f"the validation loss is {loss} after {step} steps; lower pretrain.lr by --set"
            )
        return loss

    def loss(self, learner: Learner, step: int) -> Tensor:
        """Return the loss of one batch (METHOD 2): crops, captions and order belong to the step."""
        epoch, within = divmod(step, self.steps_per_epoch)
        order = torch.randperm(
            self.train.num_images, generator=make_generator(self.seed, "order", epoch)
        )
        rows = order[within * self.batch_size : (within + 1) * self.batch_size]
        raw = take_rows(self.train.images, rows, self.device)
        raw = augment(raw, self.crops, make_generator(self.seed, "augment", step))
        # The same crop for both, each in its own normalisation
        with torch.no_grad():
            seen = self.teacher.module(normalise(raw, self.teacher.mean, self.teacher.std))
        features = learner.dual.image_encoder(normalise(raw, self.student.mean, self.student.std))
        loss = teacher_loss(learner.to_teacher(features), self._standardised(seen))
        if self.section.text_weight > 0.0:
            chosen = self.texts.draw(rows, make_generator(self.seed, "captions", step))
            img, txt = learner.dual(features, self.train.text_embeds[chosen].to(self.device))
            loss = loss + self.section.text_weight * info_nce(img, txt, tau=self.tau)
        return loss

    def validate(self) -> float:
        """Return the teacher's term on all validation images, without crops."""
        features = encode_images(self.student, self.val.images, device=self.device)
        assert self.val.features is not None
        targets = self._standardised(self.val.features.to(self.device))
        with torch.no_grad():
            return float(teacher_loss(self.learner.to_teacher(features.to(self.device)), targets))

    def _standardised(self, features_BF: Tensor) -> Tensor:
        return (features_BF - self.mean_F) / self.deviation_F

    def _take_step(
        self, learner: Learner, optimiser: torch.optim.Optimizer, step: int, num_steps: int
    ) -> float:
        for group in optimiser.param_groups:
            group["lr"] = self.section.lr * schedule(step, num_steps, self.section.warm_up)
        loss = self.loss(learner, step)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        return float(loss.detach())

    def _begun(self, checkpoint: Path | None) -> Course:
        """Return the course of the checkpoint, loaded into the learner, or a new one."""
        stored = load_checkpoint(checkpoint) if checkpoint else None
        if stored is None:
            course = Course(self.section.epochs or self._epochs_in_minutes())
            # So that a run by the clock that is killed goes on with the same number of epochs
            if checkpoint is not None:
                self._save(checkpoint, course)
            return course
        parts, state = stored
        self.learner.load_state_dict(parts["learner"])
        set_moments(self.optimiser, parts)
        return Course(**state)

    def _save(self, checkpoint: Path, course: Course) -> None:
        parts = {"learner": self.learner.state_dict(), **moments(self.optimiser)}
        save_checkpoint(checkpoint, parts, asdict(course))

    def _epochs_in_minutes(self) -> int:
        """Return how many whole epochs fit into `minutes`, at least one, by steps of a copy."""
        assert self.section.minutes is not None
        learner = copy.deepcopy(self.learner)
        optimiser, started = adamw(learner, self.section.lr, self.section.weight_decay), 0.0
        for step in range(_UNTIMED + _TIMED):
            # The first step allocates, and counts for nothing
            if step == _UNTIMED:
                started = time.monotonic()
            self._take_step(learner, optimiser, 0, self.steps_per_epoch)
        seconds = (time.monotonic() - started) / _TIMED * self.steps_per_epoch
        started = time.monotonic()
        self.validate()
        seconds += time.monotonic() - started
        return max(1, int(60.0 * self.section.minutes / seconds))
