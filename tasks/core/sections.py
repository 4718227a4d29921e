"""The parameter sections of the stages, typed once; values live in params.yaml alone and are read
by `tasks/params.py`.

Options of plugins are typed in the plugin's own `Config`. A section holds no default: a value that
is not in params.yaml does not exist.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, get_args

from tasks.core.section import Range, Section

Count = Annotated[int, Range(ge=1)]
Rate = Annotated[float, Range(gt=0.0, le=100.0, unit="(step size)")]
Protocol = Literal["strict", "last", "upstream_best"]
Storage = Literal["float32", "bfloat16_delta"]

# Linear layers of timm's Vision Transformers (a bare `proj` would be the patch embedding too), and
# 1 x 1 convolutions of MobileNetV2.
LoraLinear = Literal["attn.qkv", "attn.proj", "fc1", "fc2"]
LoraConvolution = Literal["conv_pw", "conv_pwl", "conv_head"]
LORA_LINEAR: tuple[str, ...] = get_args(LoraLinear)
LORA_CONVOLUTIONS: tuple[str, ...] = get_args(LoraConvolution)


@dataclass(frozen=True, kw_only=True)
class LoraSection(Section):
    """Low-rank adapters of the image encoder: W x + (alpha / rank) B A x.

    Attributes:
        rank: of the product B A; the paper uses 4.
        alpha: scale of the adapters; alpha = rank adds B A x as it is.
        targets: layers that get one: linear ones of a Vision Transformer, or 1 x 1 convolutions of
            MobileNetV2 and its kin.
    """

    rank: Annotated[int, Range(ge=1, le=1024)]
    alpha: Annotated[float, Range(gt=0.0, le=1024.0)]
    targets: tuple[Literal[LoraLinear, LoraConvolution], ...]


@dataclass(frozen=True, kw_only=True)
class ModelSection(Section):
    """The dual encoder (METHOD 2).

    Attributes:
        trainable: `full`, `lora` (adapters in a frozen encoder), `heads` (both encoders frozen) or
            `text_head`.
        lora: the adapters, for `lora`; null otherwise.
        embed_dim: width of the shared space for `heads`; null otherwise.
        dropout: probability inside the projections.
        tau: temperature of the similarity, for experts, students and evaluation.
    """

    trainable: Literal["full", "lora", "heads", "text_head"]
    lora: LoraSection | None
    embed_dim: Annotated[int, Range(ge=1, le=16384)] | None
    dropout: Annotated[float, Range(ge=0.0, lt=1.0)]
    tau: Annotated[float, Range(gt=0.0, le=10.0)]

    @property
    def is_encoder_frozen(self) -> bool:
        """Whether training leaves the image encoder as it is, so that its features are computed
        once.
        """
        return self.trainable in ("heads", "text_head")


@dataclass(frozen=True, kw_only=True)
class AugmentSection(Section):
    """Augmentation of training images (METHOD 3), drawn per batch from the trainer's generator.

    Attributes:
        crop_scale: smallest area of RandomResizedCrop as a fraction; 1.0 switches the crop off.
        flip: mirror half of the images.
        randaugment_ops, randaugment_magnitude: RandAugment(ops, magnitude of 10); 0 operations
            switch it off.
    """

    crop_scale: Annotated[float, Range(gt=0.0, le=1.0)]
    flip: bool
    randaugment_ops: Annotated[int, Range(ge=0, le=10)]
    randaugment_magnitude: Annotated[int, Range(ge=0, le=10)]

    @property
    def is_off(self) -> bool:
        """Whether images pass unchanged."""
        return self.crop_scale == 1.0 and not self.flip and self.randaugment_ops == 0


@dataclass(frozen=True, kw_only=True)
class ExpertSection(Section):
    """Stage 1 (METHOD 3): plain SGD, one random caption per image and epoch.

    Attributes:
        num_experts: trajectories to store.
        num_epochs: epochs of each; all snapshots 0 .. num_epochs are stored. Distillation reads 0
            .. max_start_epoch - 1 + expert_epochs: this number is enough for one setting, and a
            sweep over those two needs its largest.
        coreset_epochs: epochs of expert 0 after which coresets select in its space (METHOD 7).
            Beyond num_epochs only expert 0 is trained, and of what comes there only this snapshot
            is stored.
        batch_size: pairs per step.
        lr_img, lr_txt: step sizes of the two groups.
        momentum: of SGD; the paper uses 0.
        storage: snapshots as `float32`, or `bfloat16_delta`: their differences to epoch 0 in half
            the bytes, with the error that the expert's manifest states.
    """

    num_experts: Count
    num_epochs: Count
    coreset_epochs: Count
    batch_size: Annotated[int, Range(ge=2, unit="pairs")]
    lr_img: Rate
    lr_txt: Rate
    momentum: Annotated[float, Range(ge=0.0, lt=1.0)]
    storage: Storage
    augment: AugmentSection

    def stored_epochs(self, index: int) -> tuple[int, ...]:
        """Return the epochs after which snapshots of an expert are stored, beside its start; it is
        trained to the last of them.
        """
        further = (
            (self.coreset_epochs,) if index == 0 and self.coreset_epochs > self.num_epochs else ()
        )
        return (*range(1, self.num_epochs + 1), *further)


@dataclass(frozen=True, kw_only=True)
class RecipeSection(Section):
    """How a student is trained on a set (METHOD 8): SGD with momentum, step sizes x0.1 at
    half-time.

    Attributes:
        num_epochs: passes over the set.
        batch_size: pairs per step, at most the set.
        lr_img, lr_txt: step sizes; a distilled set that carries learned ones uses those.
        momentum, weight_decay: of SGD.
        num_validations: times that the validation split is scored, evenly spread, the last epoch
            among them.
    """

    num_epochs: Count
    batch_size: Annotated[int, Range(ge=2, unit="pairs")]
    lr_img: Rate
    lr_txt: Rate
    momentum: Annotated[float, Range(ge=0.0, lt=1.0)]
    weight_decay: Annotated[float, Range(ge=0.0, lt=1.0)]
    num_validations: Count


@dataclass(frozen=True, kw_only=True)
class EvaluateSection(Section):
    """The evaluator: one recipe for every small set, one for the full data, whatever the student.

    Further students (`evaluate.cross_architecture` of params.yaml) are `StudentSection`s.

    Attributes:
        num_eval: students per set, each with its own projections and data order.
        protocol: which epoch's test scores count (METHOD 8).
        small: recipe for coresets and distilled sets.  full: recipe for all of the training split.
    """

    num_eval: Annotated[int, Range(ge=1, unit="students")]
    protocol: Protocol
    small: RecipeSection
    full: RecipeSection


@dataclass(frozen=True, kw_only=True)
class StudentSection(Section):
    """A further student of `evaluate.cross_architecture` (METHOD 8), beside its image encoder's
    name and options.

    Attributes:
        trainable, lora, embed_dim: as in `ModelSection`; dropout and tau are those of `model`.
        input_size: pixels of a side that the encoder takes; images of another size are resized.
            null takes them as prepared.
    """

    trainable: Literal["full", "lora", "heads", "text_head"]
    lora: LoraSection | None
    embed_dim: Annotated[int, Range(ge=1, le=16384)] | None
    input_size: Annotated[int, Range(ge=8, le=1024, unit="px")] | None


@dataclass(frozen=True, kw_only=True)
class ReportSection(Section):
    """What the report shows beside the tables.

    Attributes:
        gallery_pairs: pairs of each distilled set in its gallery.
    """

    gallery_pairs: Annotated[int, Range(ge=1, le=200, unit="pairs")]
