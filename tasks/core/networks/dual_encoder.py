"""Builds the dual encoder of METHOD 2: an image encoder, a text projection, and with `heads` an
image projection.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Annotated, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from tasks.core.foundations.section import Range, Section, Share
from tasks.core.foundations.seeding import make_generator
from tasks.core.networks.lora import LoraSection, with_adapters

Trainable = Literal["full", "lora", "heads", "text_head"]
EmbedDim = Annotated[int, Range(ge=1, le=16384)] | None


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

    trainable: Trainable
    lora: LoraSection | None
    embed_dim: EmbedDim
    dropout: Share
    tau: Annotated[float, Range(gt=0.0, le=10.0)]

    @property
    def is_encoder_frozen(self) -> bool:
        """Whether training leaves the image encoder as it is. Its features are then computed once
        per image.
        """
        return self.trainable in ("heads", "text_head")


TRAINABLE_SETS: tuple[str, ...] = get_args(Trainable)


class Projection(nn.Module):
    """p = Linear(d_in, d)(x); LayerNorm(dropout(Linear(d, d)(GELU(p))) + p) (Wu et al., TMLR 2024).

    With `hidden_layers` 0 it is LayerNorm(p). With more than one, Linear(d, d)(GELU(.)) is repeated
    inside the dropout.

    Args:
        d_in, d: input and output width.
        hidden_layers: number of hidden layers, each of width d; the paper has one.
        dropout: probability that a number is dropped; applied only when `forward` gets a generator.
        generator: draws the initial weights, uniform in +-1/sqrt(fan_in).
    """

    def __init__(
        self,
        d_in: int,
        d: int,
        *,
        dropout: float,
        generator: torch.Generator,
        hidden_layers: int = 1,
    ) -> None:
        super().__init__()
        self.projection = nn.Linear(d_in, d)
        hidden = [nn.Linear(d, d) for _ in range(hidden_layers)]
        self.fc = _stacked(hidden)
        self.norm = nn.LayerNorm(d)
        self.dropout = dropout
        for layer in (self.projection, *hidden):
            # The range in which torch's Linear begins, but drawn from our generator
            bound = layer.in_features**-0.5
            with torch.no_grad():
                layer.weight.uniform_(-bound, bound, generator=generator)
                layer.bias.uniform_(-bound, bound, generator=generator)

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return (B, d) for x (B, d_in). With a generator, dropout is on and draws its mask from
        it.
        """
        p = self.projection(x)
        if self.fc is None:
            return self.norm(p)
        hidden = self.fc(functional.gelu(p))
        if generator is not None and self.dropout > 0.0:
            hidden = drop(hidden, self.dropout, generator)
        return self.norm(hidden + p)


def _stacked(layers: list[nn.Linear]) -> nn.Module | None:
    """Return the layers with GELU between them, or None where there are none."""
    # One layer stays itself: stored weights call it `fc.weight`, not `fc.0.weight`
    if len(layers) < 2:
        return layers[0] if layers else None
    parts: list[nn.Module] = [layers[0]]
    for layer in layers[1:]:
        parts += [nn.GELU(), layer]
    return nn.Sequential(*parts)


def drop(x: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Return x with a random `share` of its numbers set to zero and the others scaled up.

    Random from `generator`. torch's own dropout draws from the global random state, so the two
    sweeps over a student step would see different masks.
    """
    # torch draws only on the device of the generator; `.to(x)` moves the mask
    is_kept = torch.rand(x.shape, generator=generator, device=generator.device) >= share
    return x * is_kept.to(x) / (1.0 - share)


class DualEncoder(nn.Module):
    """Maps images (or frozen features of them) and caption embeddings into one space.

    Args:
        image_encoder: (B, C, H, W) -> (B, d_img).
        image_projection: (B, d_img) -> (B, d), or None when d = d_img.
        text_projection: (B, d_txt) -> (B, d).
    """

    def __init__(
        self,
        image_encoder: nn.Module,
        image_projection: Projection | None,
        text_projection: Projection,
    ) -> None:
        super().__init__()
        self.image_encoder = image_encoder
        self.image_projection = image_projection
        self.text_projection = text_projection

    def forward(
        self, images: Tensor, text_embeds: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return L2-normalised image and text embeddings, both (B, d).

        Args:
            images: (B, C, H, W) in the encoder's normalised space, or (B, d_img) features, which
                skip the encoder.
            text_embeds: (B, d_txt) caption embeddings.
            generator: source of the dropout masks (image projection first); None turns dropout off.
        """
        # Features of a frozen encoder (B, d_img) come from outside, computed once
        features = self.image_encoder(images) if images.ndim == 4 else images
        # The order of the projections is the order in which they draw from the generator
        if self.image_projection is not None:
            features = self.image_projection(features, generator)
        txt = self.text_projection(text_embeds, generator)
        return functional.normalize(features, dim=1), functional.normalize(txt, dim=1)


def build_dual_encoder(
    image_encoder: nn.Module,
    *,
    out_dim: int,
    text_dim: int,
    trainable: str,
    embed_dim: int | None,
    dropout: float,
    seed: int,
    lora: LoraSection | None = None,
    hidden_layers: int = 1,
) -> DualEncoder:
    """Return a dual encoder with fresh projections and `requires_grad` set for one trainable set.

    Args:
        image_encoder: copied where it is trained, so that every model begins with the same weights.
            A frozen one is shared, and its `requires_grad` is switched off in place.
        out_dim, text_dim: widths of image features and caption embeddings.
        trainable: `full` (encoder and text projection), `lora` (adapters and text projection),
            `heads` (both projections, encoder frozen) or `text_head`.
        embed_dim: width of the shared space, for `heads` only. The others need None, and their
            shared space has the width `out_dim`.
        dropout: see `Projection`.
        seed: seed of the projections and adapters.
        lora: the adapters, for `lora` only.
        hidden_layers: of each projection.

    Raises:
        ValueError: the trainable set is unknown. It needs `embed_dim` or `lora` and did not get it,
            or got it and would ignore it. The encoder has no layer that `lora` names.
    """
    if trainable not in TRAINABLE_SETS:
        raise ValueError(
            f"unknown trainable set {trainable!r}; available: {', '.join(TRAINABLE_SETS)}; "
            "change `model.trainable`"
        )
    if (trainable == "heads") != (embed_dim is not None):
        raise ValueError(
            f"model.embed_dim is for `heads` only and needed there; received {embed_dim} with "
            f"`{trainable}`"
        )
    if (trainable == "lora") != (lora is not None):
        raise ValueError(
            f"model.lora is for `lora` only and needed there; received {lora} with `{trainable}`"
        )
    # Without an image projection, texts are projected to the width of the image features
    width = embed_dim or out_dim
    if lora is not None:
        image_encoder = with_adapters(image_encoder, lora, seed=seed)
    elif trainable == "full":
        # Training changes weights in place, and the next model has to begin with the given ones
        image_encoder = copy.deepcopy(image_encoder).requires_grad_(True)
    else:
        image_encoder.requires_grad_(False)
    projection = None
    if trainable == "heads":
        projection = Projection(
            out_dim,
            width,
            dropout=dropout,
            # One generator a projection, so that neither shifts the draws of the other
            generator=make_generator(seed, "image_projection"),
            hidden_layers=hidden_layers,
        )
    text = Projection(
        text_dim,
        width,
        dropout=dropout,
        generator=make_generator(seed, "text_projection"),
        hidden_layers=hidden_layers,
    )
    return DualEncoder(image_encoder, projection, text)
