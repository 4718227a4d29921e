"""Makes the start of a model: its pretrained image encoder, with the features of a frozen one.

train_experts builds the start of the distilled encoder, evaluate that of each further student.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tasks import keys
from tasks.core.networks.encoders import ImageEncoder
from tasks.device import choose_device
from tasks.progress import reporter
from tasks.settings.steps import Start
from tasks.store import caching
from tasks.store.artifacts import Ref


def obtain_start(
    work: Start,
    prepared: Ref,
    *,
    code: Sequence[str],
    resize: Callable[[ImageEncoder], ImageEncoder] | None = None,
    force: bool = False,
    accept_code: bool = False,
) -> Ref:
    """Return the start artifact, built unless a valid one is there.

    Args:
        code: modules of the stage, which belong to the key.
        resize: puts a resize in front of the encoder before features are computed. A further
            student that takes images of another size needs it.
    """
    network = work.network
    key, missing = keys.of_start(network, prepared, code)

    def build(place: Path) -> dict[str, Any]:
        from tasks.core.data.storage import FEATURES
        from tasks.core.foundations.file_names import IMAGES
        from tasks.core.foundations.tensor_files import map_tensor, save_tensors
        from tasks.core.networks.encoders import encode_images
        from tasks.core.networks.informative import (
            check_informative,
            check_on_noise,
            check_weights,
        )
        from tasks.models import ENCODER

        plugin, device = network.image_encoder, choose_device()
        encoder = plugin.module.build(plugin.config, seed=network.seed)
        who = {
            "what": f"the image encoder {network.name}",
            "where": "change model.options (weights, mean or std)",
        }
        why = "weights that are zero, a mean or std that flattens the images"
        # Before anything is stored: a network of zeros would still end with a table of recalls
        check_weights(encoder.module, **who)
        save_tensors(place / ENCODER, encoder.module.state_dict())
        # Everything that follows is keyed by this artifact's digest: what the network does with its
        # weights belongs to it.
        facts = {
            "name": plugin.name,
            "options": key.params["options"],
            "mean": encoder.mean,
            "std": encoder.std,
        }
        (place / "encoder.json").write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n")
        images = map_tensor(prepared.folder / IMAGES, "images")
        sized = resize(encoder) if resize else encoder
        if network.model.is_encoder_frozen:
            progress = reporter(f"train_experts features by {network.name}")
            features = encode_images(sized, images, device=device, progress=progress)
            check_informative(features, lambda row: images[row].tobytes(), causes=why, **who)
            save_tensors(place / FEATURES, {"features": features})
        else:
            check_on_noise(sized, images.shape[1], device=device, causes=why, **who)
        return {
            "out_dim": encoder.out_dim,
            "num_parameters": sum(p.numel() for p in encoder.module.parameters()),
        }

    return caching.obtain(
        work.folder,
        key,
        build,
        force=force,
        accept_code=accept_code,
        missing=missing,
        is_unchanged=lambda: keys.of_start(network, prepared, code) == (key, None),
    )
