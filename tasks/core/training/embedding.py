"""Embeds a whole split with a dual encoder."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from tasks.core.foundations.records import Split
from tasks.core.networks.dual_encoder import DualEncoder
from tasks.core.networks.encoders import ImageEncoder

_IMAGES, _CAPTIONS = 128, 4096  # per forward pass, which bounds memory


def embed_split(
    model: DualEncoder, split: Split, encoder: ImageEncoder, *, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return L2-normalised image (N, d) and caption (T, d) embeddings of a whole split, float32 on
    the CPU.
    """
    img, txt = [], []
    # The model embeds images and captions together. While images are embedded, one caption will do.
    caption = split.text_embeds[:1].to(device)
    with torch.inference_mode():
        for rows in torch.arange(split.num_images).split(_IMAGES):
            if split.features is not None:
                images = split.features[rows].to(device)
            else:
                images = encoder.take(split.images, rows, device)
            img.append(model(images, caption)[0].float().cpu())
        # Captions are several times as many as images, and need the projection only
        for part in split.text_embeds.split(_CAPTIONS):
            txt.append(normalize(model.text_projection(part.to(device)), dim=1).float().cpu())
    # A copy from outside of inference mode may become part of a graph
    return torch.cat(img).clone(), torch.cat(txt).clone()
