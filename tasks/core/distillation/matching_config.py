"""Defines and checks the options that methods share (METHOD 4): those of the outer loop, and those
of trajectory matching. A method's `Config` extends either.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from tasks.core.foundations.section import BatchSize, Choice, Count, Range, Section, Share
from tasks.core.hypergradient.engine_choice import explain_engine
from tasks.core.hypergradient.engines import DIFFERENCES, ENGINES, check_memory
from tasks.core.networks.precision import Precision
from tasks.core.training.eight_bits import Storage

# Options that segments of experts alone read, and their values where there are none
NO_SEGMENTS: dict[str, Any] = {
    "merge_branches": False,
    "starts": "joint",
    "num_phases": 1,
    "convex_epochs": None,
    "distance": "squared",
}

PerBudget = float | dict[int, float]
CountPerBudget = Count | dict[int, Count]
Initial = Literal["real", "noise", "k_means"]
Optimiser = Literal["sgd", "adam"]
Kind = Literal["img", "txt", "sim", "step_size"]  # of a tensor that the outer loop updates
Distance = Literal["squared", "norm"]
Weights = Literal["none", "mass", "learned"]
UpTo1000 = Annotated[int, Range(ge=1, le=1000)]
StepSize = Annotated[float, Range(gt=0.0, le=100.0)]
LogStepSizeRate = Annotated[float, Range(ge=0.0, le=10.0)]


@dataclass(frozen=True, kw_only=True)
class OptimiserSection(Section):
    """The outer optimiser of each kind of tensor, named like its `lr_*`.

    Attributes:
        img, txt: of pixels and of text embeddings.
        sim: of further tensors, the similarity of LoRS; means nothing where there are none.
        step_size: of log beta.
    """

    img: Optimiser
    txt: Optimiser
    sim: Optimiser
    step_size: Optimiser


@dataclass(frozen=True, kw_only=True)
class OuterConfig(Section):
    """Options of the outer loop, which moves pairs along a gradient. Every method has these.

    Attributes:
        iterations: outer updates.
        optimiser: `sgd` (the paper) or `adam` for all tensors, or one for each kind {img: adam,
            txt: adam, sim: adam, step_size: sgd}.
        momentum: of that SGD; 0.5 in the paper.
        lr_img, lr_txt: outer step sizes of pixels and text embeddings, one number or one per budget
            {100: 1.0e+2}.
        lr_decay: `none`, or `cosine`: all outer step sizes fall to zero along half a cosine over
            the iterations.
        optimise: `both`, or one modality alone (ablation).
        init_image, init_text: `real`, `noise` or `k_means`, see `initialisation.py`.
        num_views: views of each image: itself, and random crops and mirrors of it. Every student
            step draws one for each pair; a method without students draws one an iteration. More
            than 1 needs a frozen encoder, and helps with encoders yet unseen. Views are encoded
            once where images stay as they are (`optimise: text`), else anew in every iteration.
        micro_batch: images per pass through the encoder, to bound memory, with the same result;
            null: the whole mini-batch. `mdm` takes it with a frozen encoder alone.
        precision: of matrix products in student steps and in the frozen encoder, see
            `precision.py`; the difference engines need `float32`.
        is_compiled: compile the image encoder, for frozen encoders and the difference engines;
            needs a C++ compiler.
        texts_per_image: texts that an image has; a student step draws one of them for each image
            of its mini-batch.
        parts: a stored picture is made of parts x parts images, each with its own texts, see
            `parts.py`. The cost of an iteration grows with their number.
        picture_size: side of a stored picture in pixels; students see its parts enlarged to the
            size of the data. null: the size of the data.
        storage: `uint8` rounds pixels to 8 bits and texts to float16 inside the loop, see
            `eight_bits.py`, and stores them so; `float32` rounds nothing.
        begin_with: finished sets that larger ones go on from: sizes of sets of this method, and
            names of imported sets. The pairs of the largest that fits come first.
        earlier_lr_scale: factor of the outer steps of those pairs; 0.0 leaves them as they are.
        checkpoint_every: iterations between checkpoints.
    """

    iterations: Count
    optimiser: Optimiser | OptimiserSection
    momentum: Share
    lr_img: PerBudget
    lr_txt: PerBudget
    lr_decay: Literal["none", "cosine"]
    optimise: Literal["both", "image", "text"]
    init_image: Initial
    init_text: Initial
    num_views: Annotated[int, Range(ge=1, le=64)]
    micro_batch: Annotated[int, Range(ge=1, unit="images")] | None
    precision: Precision
    is_compiled: bool
    texts_per_image: Annotated[int, Range(ge=1, le=16)]
    parts: Annotated[int, Range(ge=1, le=4, unit="parts a side")]
    picture_size: Annotated[int, Range(ge=1, unit="pixels")] | None
    storage: Storage
    begin_with: tuple[Annotated[int, Range(ge=2, unit="pairs")] | str, ...]
    earlier_lr_scale: Annotated[float, Range(ge=0.0, le=1.0)]
    checkpoint_every: Annotated[int, Range(ge=1, unit="iterations")]

    @property
    def needs_experts(self) -> bool:
        """Whether the method reads trajectories of experts. Without one that does, none is
        trained.
        """
        return False

    @property
    def min_experts(self) -> int:
        """Fewest experts that the method works with."""
        return 1

    @property
    def total_iterations(self) -> int:
        """Outer updates in all, with those of a method that has several parts."""
        return self.iterations

    def optimiser_of(self, kind: Kind) -> Optimiser:
        """Return the outer optimiser of one kind of tensor."""
        if isinstance(self.optimiser, str):
            return self.optimiser
        found: Optimiser = getattr(self.optimiser, kind)
        return found

    def outer_decay(self, iteration: int) -> float:
        """Return the factor of all outer step sizes in an iteration, 0..1."""
        if self.lr_decay == "none":
            return 1.0
        return 0.5 * (1.0 + math.cos(math.pi * iteration / self.iterations))


@dataclass(frozen=True, kw_only=True)
class MatchingConfig(OuterConfig):
    """Options of the matching loop: those of the outer loop, and of the students inside it.

    Attributes:
        syn_steps: student steps per iteration, T.
        student_momentum: of the student's steps, 0 in the paper. The velocity starts at zero in
            each iteration.
        expert_epochs: epochs of the expert that the student has to follow, R.
        max_start_epoch: start epochs are drawn from 0 .. max_start_epoch - 1.
        starts: `joint`: both groups start at one epoch; `independent`: each at its own, from a
            range of its own, see `displacements.py` (AMD).
        num_phases: parts of the iterations; start epochs reach max_start_epoch - 1 in the last one,
            and the same share of it as of the phases before (PTM-ST).
        convex_epochs: null: trajectories as they are stored; a number: straight ones, from epoch 0
            to this one, with start epochs of any real value, see `displacements.py` (PTM-ST). In an
            earlier phase that end is earlier by as many epochs as the last start is.
        distance: of student and target: `squared`, or `norm` as in AMD.
        goals_per_iteration: goals that an outer update averages over, each with its own
            mini-batches and dropout. A goal of `bi_trajectory` is a segment. With a frozen encoder
            further goals are cheap: images are encoded once for all.
        mini_batch_size: synthetic pairs per student step, one number or one per budget; larger than
            the set means the whole set.
        lr_step_size: outer step size of log beta.
        step_size_img, step_size_txt: initial beta of the two groups.
        merge_branches: one ratio for both groups together (LoRS on COCO).
        is_dropout_on: dropout in the student steps, the same mask in forward and reverse.
        feature_dropout: share of the image encoder's features that each student step sets to zero;
            the others are scaled up (Srivastava et al., JMLR 2014). Texts then carry over better to
            other encoders.
        weights: of pairs in the student's loss. `none`: all alike; `mass`: the share of k-means
            that a pair stands for, see `initialisation.py`; `learned`: they start as those, or as
            equal ones without k-means.
        lr_weights: outer step size of the logarithms of learned weights; their optimiser is that of
            `sim`.
        engine: gradient engine of `engines.py`, or `auto`, see `engine_choice.py`.
        is_theta_on_host: keep the student's T parameter vectors in the memory of the host.
    """

    syn_steps: UpTo1000
    student_momentum: Share
    expert_epochs: Count
    max_start_epoch: Count
    starts: Literal["joint", "independent"]
    num_phases: UpTo1000
    convex_epochs: Count | None
    distance: Distance
    goals_per_iteration: UpTo1000
    mini_batch_size: BatchSize | dict[int, BatchSize]
    lr_step_size: LogStepSizeRate
    step_size_img: StepSize
    step_size_txt: StepSize
    merge_branches: bool
    is_dropout_on: bool
    feature_dropout: Share
    weights: Weights
    lr_weights: Annotated[float, Range(ge=0.0, le=10.0)]
    engine: Annotated[str, Choice("auto", *ENGINES)]
    is_theta_on_host: bool

    @property
    def needs_experts(self) -> bool:
        """See `OuterConfig`: matching follows them."""
        return True

    @property
    def last_epoch(self) -> int:
        """Return the last epoch of an expert that a segment reads."""
        return self.convex_epochs or self.max_start_epoch - 1 + self.expert_epochs

    def last_start(self, iteration: int) -> float:
        """Return the latest start epoch of an iteration; it grows from phase to phase."""
        phase = iteration * self.num_phases // self.iterations
        return (self.max_start_epoch - 1) * (phase + 1) / self.num_phases

    def engine_for(self, *, is_encoder_frozen: bool) -> str:
        """Return the engine that was asked for, or what `auto` is before a network was probed."""
        if self.engine != "auto":
            return self.engine
        return explain_engine(is_encoder_frozen=is_encoder_frozen)[0]


def for_budget(
    value: PerBudget | CountPerBudget, num_pairs: int, name: str, *, is_zero_allowed: bool = False
) -> float:
    """Return the value for one budget.

    Raises:
        ValueError: no entry for the budget, or a value that is not positive, nor an allowed 0.
    """
    found = value.get(num_pairs) if isinstance(value, dict) else value
    is_zero = is_zero_allowed and found == 0.0
    if found is None or not (is_zero or 0.0 < found < math.inf):
        allowed = "a positive number or 0" if is_zero_allowed else "a positive number"
        raise ValueError(
            f"{name}: received {value!r} for {num_pairs} pairs; allowed is {allowed}, or "
            "a mapping with one for every budget; change it there or in distill.matching"
        )
    return float(found)


def check_matching(
    config: MatchingConfig, num_epochs: int, budgets: tuple[int, ...], *, trainable: str, where: str
) -> None:
    """Raise ValueError when the experts are too short for the method, a budget has no step size, or
    options contradict each other.

    A method that reads less of the experts calls `check_starts` or neither, and `check_options`.

    Args:
        num_epochs: of the experts.
        budgets: numbers of pairs that the method will be asked for.
        trainable: the model's trainable set.
        where: place of the options in params.yaml, for the message.
    """
    needed = config.max_start_epoch - 1 + config.expert_epochs
    if needed > num_epochs:
        raise ValueError(
            f"{where}: max_start_epoch {config.max_start_epoch} and expert_epochs "
            f"{config.expert_epochs} need experts of {needed} epochs; "
            f"train_experts.num_epochs is {num_epochs}; raise it or lower them"
        )
    convex = config.convex_epochs
    if convex is not None and not needed <= convex <= num_epochs:
        raise ValueError(
            f"{where}.convex_epochs: received {convex}; segments end at epoch {needed} "
            f"(max_start_epoch {config.max_start_epoch}, expert_epochs {config.expert_epochs}), "
            f"experts at {num_epochs} (train_experts.num_epochs); allowed is null, or {needed} to "
            f"{num_epochs}; change {where}.convex_epochs"
        )
    _check_starts_differ(config, trainable=trainable, where=where)
    check_options(config, budgets, trainable=trainable, where=where)


def _check_starts_differ(config: MatchingConfig, *, trainable: str, where: str) -> None:
    """Refuse options of start epochs that would change nothing."""
    if config.max_start_epoch == 1:
        for name, plain in (("starts", "joint"), ("num_phases", 1)):
            if getattr(config, name) != plain:
                raise ValueError(
                    f"{where}.{name}: received {getattr(config, name)} with max_start_epoch 1, "
                    f"where all students start at epoch 0; allowed is {plain}; change it there or "
                    "raise max_start_epoch"
                )
    if config.starts == "independent" and trainable == "text_head":
        raise ValueError(
            f"{where}.starts: received independent with trainable 'text_head', which has no "
            f"parameters of images; allowed is joint; change {where}.starts or model.trainable"
        )


def check_starts(config: MatchingConfig, num_epochs: int, *, where: str) -> None:
    """Raise ValueError when experts of `num_epochs` do not have all start epochs."""
    if config.max_start_epoch - 1 > num_epochs:
        raise ValueError(
            f"{where}.max_start_epoch: received {config.max_start_epoch} with experts of "
            f"{num_epochs} epochs (train_experts.num_epochs); "
            f"allowed is 1 to {num_epochs + 1}; raise that or lower it"
        )


def check_options(
    config: MatchingConfig, budgets: tuple[int, ...], *, trainable: str, where: str
) -> None:
    """Raise ValueError when a budget has no step size, or options contradict each other; see
    `check_matching`.
    """
    is_encoder_trained = trainable in ("full", "lora")
    engine = config.engine_for(is_encoder_frozen=not is_encoder_trained)
    # A frozen encoder runs before the steps, in parts of any size
    micro_batch = config.micro_batch if is_encoder_trained else None
    check_memory(
        engine,
        micro_batch=micro_batch,
        is_theta_on_host=config.is_theta_on_host,
        where=where,
    )
    if config.num_views > 1 and is_encoder_trained:
        raise ValueError(
            f"{where}.num_views: received {config.num_views} with trainable {trainable!r}; "
            "allowed is 1, or more with a frozen encoder "
            f"(heads, text_head); change {where}.num_views or model.trainable"
        )
    if config.weights == "mass" and "k_means" not in (config.init_image, config.init_text):
        raise ValueError(
            f"{where}.weights: received 'mass' with init_image {config.init_image!r} and init_text "
            f"{config.init_text!r}; allowed is it with k_means as one of both; change weights or "
            "those (they may come from distill.matching)"
        )
    _check_precision(config, engine, is_encoder_trained=is_encoder_trained, where=where)
    check_outer(config, budgets, where=where)
    for num_pairs in budgets:
        for_budget(config.mini_batch_size, num_pairs, f"{where}.mini_batch_size")


def check_outer(config: OuterConfig, budgets: tuple[int, ...], *, where: str) -> None:
    """Raise ValueError when a budget has no outer step size; see `check_matching`."""
    for num_pairs in budgets:
        for name in ("lr_img", "lr_txt"):
            for_budget(getattr(config, name), num_pairs, f"{where}.{name}")


def _check_precision(
    config: MatchingConfig, engine: str, *, is_encoder_trained: bool, where: str
) -> None:
    reason = ENGINES[engine].refused_precisions.get(config.precision)
    if reason is not None:
        raise ValueError(
            f"{where}.precision: received {config.precision!r} with the engine {engine!r} "
            f"(`engine: {config.engine}`), {reason}; change {where}.precision or {where}.engine"
        )
    is_differentiated_twice = is_encoder_trained and ENGINES[engine].needs_second_derivatives
    if config.is_compiled and is_differentiated_twice:
        raise ValueError(
            f"{where}.is_compiled: received true with the engine {engine!r}, which needs second "
            "derivatives that compiled code does not "
            f"have; allowed are {', '.join(DIFFERENCES)}, or a frozen encoder; change "
            f"{where}.engine or set {where}.is_compiled: false"
        )
