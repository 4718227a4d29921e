"""Calls a dual encoder as a pure function of two flat vectors, which trajectory matching
differentiates.

`Theta` = {"img": (P_img,), "txt": (P_txt,)} holds the trainable parameters in the two groups of
METHOD 2. Parameters with a name that starts with `text_` are the text group, all others the image
group. Read `hypergradient/trajectory.py` next.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

GROUPS = ("img", "txt")

Theta = dict[str, Tensor]

_ENCODER = "image_encoder."


class FlatModel:
    """Calls a dual encoder with parameters taken from flat vectors instead of from the module.

    The module is put into eval mode in place. BatchNorm then uses its running statistics, and no
    layer draws from the global random state. Dropout of the projections is drawn from the generator
    given to `call`. Parameters that do not require a gradient stay in the module, and all calls
    share them.

    Args:
        model: module with `forward(images, text_embeds, generator) -> (img_emb, txt_emb)`; its
            image encoder is called `image_encoder`.

    Raises:
        ValueError: no trainable parameter, or trainable parameters of different dtypes or devices.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model.eval()
        self._layout: dict[str, list[tuple[str, torch.Size]]] = {group: [] for group in GROUPS}
        kinds = set()
        # The order of the module decides where a parameter stands in its vector
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                group = "txt" if name.startswith("text_") else "img"
                self._layout[group].append((name, parameter.shape))
                kinds.add((parameter.dtype, parameter.device))
        if len(kinds) != 1:
            raise ValueError(
                f"a matched model needs trainable parameters of one dtype on one device; received "
                f"{sorted(map(str, kinds)) or 'none'}; change the trainable set or move the "
                "module as a whole"
            )
        self.dtype, self.device = next(iter(kinds))

    def flatten(self) -> Theta:
        """Return copies of the trainable parameters, {"img": (P_img,), "txt": (P_txt,)}; a group
        may be empty.
        """
        parameters = dict(self.model.named_parameters())
        # torch.cat needs at least one part, and a frozen encoder leaves the image group without any
        empty = torch.empty(0, dtype=self.dtype, device=self.device)
        theta: Theta = {}
        for group, layout in self._layout.items():
            parts = [empty]
            for name, _ in layout:
                parts.append(parameters[name].detach().reshape(-1))
            theta[group] = torch.cat(parts)
        return theta

    def layers(self, group: str) -> list[int]:
        """Return how many numbers each parameter of a group takes, in the order of its vector."""
        return [shape.numel() for _, shape in self._layout[group]]

    def call(
        self,
        theta: Mapping[str, Tensor],
        images: Tensor,
        text_embeds: Tensor,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return the (B, d) image and text embeddings under `theta`, differentiable in theta,
        images and text_embeds.

        Args:
            theta: flat vectors as made by `flatten`; the module itself is not changed.
            images: (B, C, H, W) normalised images, or (B, F) features of the frozen encoder.
            text_embeds: (B, D) caption embeddings.
            generator: source of the dropout masks; None switches dropout off.

        Raises:
            ValueError: `theta` has other sizes, or the forward pass changed a buffer of the module.
        """
        outputs: tuple[Tensor, Tensor] = self._call(
            self.model, self._unflatten(theta), images, text_embeds, generator
        )
        return outputs

    def encode(self, theta: Mapping[str, Tensor], images: Tensor) -> Tensor:
        """Return the features (B, F) of images (B, C, H, W) under `theta`. `call` takes them in
        place of the images.

        Raises:
            ValueError: `theta` has other sizes, or the forward pass changed a buffer of the module.
        """
        inside: dict[str, Tensor] = {}
        for name, value in self._unflatten(theta).items():
            # The encoder alone is called, so its parameters are named from inside of it
            if name.startswith(_ENCODER):
                inside[name.removeprefix(_ENCODER)] = value
        features: Tensor = self._call(
            self.model.get_submodule(_ENCODER.removesuffix(".")), inside, images
        )
        return features

    def load(self, theta: Mapping[str, Tensor]) -> None:
        """Copy `theta` into the parameters of the module, in place."""
        parameters = dict(self.model.named_parameters())
        with torch.no_grad():
            for name, value in self._unflatten(theta).items():
                parameters[name].copy_(value)

    def _call(self, module: nn.Module, parameters: dict[str, Tensor], *inputs: object) -> Any:
        # The reverse sweep repeats this call and has to get the same result. A buffer that the call
        # writes, such as running statistics, would change the next one.
        before = self._buffer_versions()
        outputs = torch.func.functional_call(module, parameters, inputs)
        changed = [
            name for name, version in self._buffer_versions().items() if before.get(name) != version
        ]
        if changed:
            raise ValueError(
                f"the forward pass of {type(self.model).__name__} changes its buffers "
                f"{', '.join(changed[:4])} "
                f"({len(changed)} in all), so its gradient would be wrong; allowed are networks "
                "without hidden state "
                "(BatchNorm in eval mode); choose another image_encoder or keep the module in "
                "eval mode"
            )
        return outputs

    def _unflatten(self, theta: Mapping[str, Tensor]) -> dict[str, Tensor]:
        views: dict[str, Tensor] = {}
        for group, layout in self._layout.items():
            sizes = [shape.numel() for _, shape in layout]
            if theta[group].shape != (sum(sizes),):
                raise ValueError(
                    f"theta[{group!r}] must have shape ({sum(sizes)},) for this model; received "
                    f"{tuple(theta[group].shape)}; experts and student must share encoder and "
                    "trainable set"
                )
            # Views, so that gradients arrive in the flat vector
            parts = theta[group].split(sizes) if sizes else ()
            for (name, shape), part in zip(layout, parts, strict=True):
                views[name] = part.view(shape)
        return views

    def _buffer_versions(self) -> dict[str, tuple[int, int]]:
        """Return the identity and the write counter of each buffer. A write changes the counter, a
        replacement the identity.
        """
        return {name: (id(buffer), buffer._version) for name, buffer in self.model.named_buffers()}
