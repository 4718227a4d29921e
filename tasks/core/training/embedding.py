"""A whole split under a dual encoder."""

from __future__ import annotations

import torch
from torch import Tensor

from tasks.core.foundations.records import Split
from tasks.core.networks.dual_encoder import DualEncoder
from tasks.core.networks.encoders import ImageEncoder


def embed_split(
    model: DualEncoder,
    split: Split,
    encoder: ImageEncoder,
    *,
    device: torch.device,
    batch_size: int = 128,
) -> tuple[Tensor, Tensor]:
    """Return L2-normalised image (N, d) and caption (T, d) embeddings of a whole split, float32 on
    the CPU.
    """
    images, texts = [], []
    dummy = split.text_embeds[:1].to(device)
    with torch.inference_mode():
        for first in range(0, split.num_images, batch_size):
            rows = torch.arange(first, min(first + batch_size, split.num_images))
            if split.features is not None:
                batch = split.features[rows].to(device)
            else:
                batch = encoder.take(split.images, rows, device)
            images.append(model(batch, dummy)[0].float().cpu())
        for part in split.text_embeds.split(4096):
            texts.append(
                torch.nn.functional.normalize(model.text_projection(part.to(device)), dim=1)
                .float()
                .cpu()
            )
    return torch.cat(images).clone(), torch.cat(texts).clone()
