"""One outer iteration of 8 student steps on random pairs: what `engine_table.py` and
`precision_table.py` measure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from tasks.core.distillation.segments import Segment
from tasks.core.foundations.seeding import make_generator
from tasks.core.hypergradient.engines import ENGINES
from tasks.core.hypergradient.student_step import draw_batches
from tasks.core.hypergradient.trajectory import Gradient, trajectory_gradient
from tasks.core.networks.dual_encoder import build_dual_encoder
from tasks.core.networks.frozen_features import FrozenFeatures
from tasks.core.networks.functional import FlatModel
from tasks.core.networks.image_encoders import timm
from tasks.core.networks.precision import student_model
from tasks.core.training.losses import info_nce

TEXT_DIM, STEPS = 64, 8
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Size:
    """Pairs of the set and of a batch, pixels and rounds of timing."""

    pairs: int
    batch: int
    pixels: int
    rounds: int


FULL, QUICK = Size(64, 32, 64, 5), Size(8, 4, 64, 2)


@dataclass(frozen=True)
class Way:
    """How the gradient of an iteration is computed.

    Attributes:
        engine: of `engines.ENGINES`.
        is_compiled: the image encoder is; first derivatives alone.
        is_theta_on_host: parameter vectors in pinned host memory.
    """

    engine: str
    is_compiled: bool = False
    is_theta_on_host: bool = False

    @property
    def name(self) -> str:
        """What tables call it."""
        compiled = ", compiled" * self.is_compiled
        return f"{self.engine}{compiled}{', theta on the host' * self.is_theta_on_host}"


@dataclass(frozen=True)
class Network:
    """A timm network, its size, the ways to measure and the targets of memory and time against
    `unroll`.
    """

    kwargs: dict[str, Any]
    size: Size
    ways: tuple[Way, ...]
    memory_target: float
    time_target: float


_ALL = (*map(Way, ENGINES), Way("forward_difference", is_compiled=True))
_LARGE = tuple(map(Way, ("unroll", "double_backward", "central_difference", "forward_difference")))
_ON_CARD = (*_ALL[:-2], Way("forward_difference", is_theta_on_host=True))
SMALL = {
    "test_nfnet": Network({}, FULL, _ALL, 0.15, 0.8),
    "test_vit": Network({"img_size": 64}, FULL, _ALL, 0.30, 0.6),
}
NATIVE = {  # batches that `unroll` can hold twice in 24 GiB
    "nfnet_l0": Network({}, Size(8, 4, 224, 2), _LARGE, 0.15, 0.8),
    "vit_tiny_patch16_224": Network({}, Size(32, 16, 224, 2), (*_LARGE, _ALL[-1]), 0.30, 0.6),
}
CARD = {  # batches that `unroll` can hold in 80 GB of GPU memory
    "nfnet_l0": Network({}, Size(32, 16, 224, 3), _ON_CARD, 0.15, 0.8),
    "vit_tiny_patch16_224": Network({}, Size(128, 64, 224, 3), _ON_CARD, 0.30, 0.6),
    "vit_base_patch16_224": Network({}, Size(32, 16, 224, 3), _ON_CARD, 0.30, 0.6),
}
NETWORKS = {**CARD, **SMALL, **NATIVE}


class Iteration:
    """One outer iteration, ready to run in any way with plain or, if `is_compiled`, compiled
    student steps.

    Args:
        network: of `NETWORKS`.
        trainable: `full`, or `heads`, whose images pass the frozen encoder once.
        size: of the set and its batches.
    """

    def __init__(
        self,
        network: str,
        trainable: str,
        size: Size,
        *,
        is_compiled: bool = False,
        device: torch.device = CPU,
    ) -> None:
        config = timm.Config(
            name=network, weights="random", kwargs=NETWORKS[network].kwargs, mean=None, std=None
        )
        encoder = timm.build(config, seed=0)
        self.model = build_dual_encoder(
            encoder.module, out_dim=encoder.out_dim, text_dim=TEXT_DIM, trainable=trainable,
            embed_dim=encoder.out_dim if trainable == "heads" else None, dropout=0.1, seed=0,
        ).to(device)  # fmt: skip
        self.device = device
        self.flat = student_model(FlatModel(self.model), "float32", is_compiled=is_compiled)
        self.is_frozen = trainable == "heads"
        self.theta = self.flat.flatten()
        target = {
            g: v + 0.02 * v.norm() * self._draw(g, *v.shape) / len(v) ** 0.5
            for g, v in self.theta.items()
        }
        self.segment = Segment.between(self.theta, target)
        images = self._draw("images", size.pairs, 3, size.pixels, size.pixels)
        # As the outer state holds them
        self.images = images.contiguous(memory_format=torch.channels_last)
        self.texts = self._draw("texts", size.pairs, TEXT_DIM)
        self.batches = draw_batches(
            size.pairs, size.batch, STEPS, make_generator(0, "engine_table", "batches")
        )
        self.logs = {
            "img": torch.tensor(0.02, device=device).log(),
            "txt": torch.tensor(0.1, device=device).log(),
        }

    def run(self, way: Way) -> Gradient:
        """Return the gradient; with frozen encoders through features, and pulled back to pixels."""
        used = torch.cat(self.batches).to(self.device)
        frozen = (
            FrozenFeatures(self.model.image_encoder, self.images, used) if self.is_frozen else None
        )
        inputs = {
            "images": self.images if frozen is None else frozen.values,
            "text_embeds": self.texts,
        }
        found = trajectory_gradient(
            self._loss,
            self.theta,
            inputs,
            self.batches,
            self.logs,
            self.segment.loss,
            engine=way.engine,
            is_theta_on_host=way.is_theta_on_host,
        )
        if frozen is not None:
            found.inputs["images"] = frozen.pull_back(found.inputs["images"])
        return found

    def _loss(
        self, theta: dict[str, torch.Tensor], rows: dict[str, torch.Tensor], step: int
    ) -> torch.Tensor:
        masks = make_generator(3, "dropout", step, device=self.device)
        return info_nce(*self.flat.call(theta, rows["images"], rows["text_embeds"], masks))

    def _draw(self, name: str, *shape: int) -> torch.Tensor:
        """The same numbers on every device."""
        return torch.randn(*shape, generator=make_generator(0, "engine_table", name)).to(
            self.device
        )
