"""The start of a model: its pretrained image encoder, with the features of a frozen one.

train_experts builds the start of the distilled encoder, evaluate that of each further student.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tasks.core.networks.encoders import ImageEncoder
from tasks.device import choose_device
from tasks.progress import reporter
from tasks.settings.params import Params
from tasks.store import caching
from tasks.store.artifacts import Key, Ref


def obtain_start(
    params: Params,
    prepared: Ref,
    folder: Path,
    *,
    code: Sequence[str],
    resize: Callable[[ImageEncoder], ImageEncoder] | None = None,
    force: bool = False,
    accept_code: bool = False,
) -> Ref:
    """Return the start artifact in `folder`, built unless a valid one is there.

    Args:
        code: modules that belong to the key beside those of the stage.
        resize: puts a resize in front of the encoder before features are computed. A further
            student that takes images of another size needs it.
    """
    plugin = params.image_encoder
    find = partial(plugin.module.weight_files, plugin.config)
    weights, missing = caching.digest_files(find)
    options = plugin.as_params()
    if weights or missing:
        options["options"].pop("weights")  # the content counts, not the place
    is_frozen = params.model.is_encoder_frozen
    what = {**options, "seed": params.seed, "is_frozen": is_frozen}
    if params.student:
        what["input_size"] = params.input_size
    inputs = {**weights, **({"prepared": prepared.digest} if is_frozen else {})}
    key = Key("train_experts", what, inputs, caching.code_digest(code))

    def build(work: Path) -> dict[str, Any]:
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

        encoder, device = plugin.module.build(plugin.config, seed=params.seed), choose_device()
        who = {
            "what": f"the image encoder {params.model_name}",
            "where": "change model.options (weights, mean or std)",
        }
        why = "weights that are zero, a mean or std that flattens the images"
        check_weights(encoder.module, **who)
        save_tensors(work / ENCODER, encoder.module.state_dict())
        # Everything that follows is keyed by this artifact's digest: what the network does with its
        # weights belongs to it.
        facts = {**options, "mean": encoder.mean, "std": encoder.std}
        (work / "encoder.json").write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n")
        sized = resize(encoder) if resize else encoder
        if not is_frozen:
            check_on_noise(sized, params.prepare_data.image_size, device=device, causes=why, **who)
        else:
            images = map_tensor(prepared.folder / IMAGES, "images")
            features = encode_images(
                sized, images, device=device, progress=reporter(f"encode {params.profile}")
            )
            check_informative(features, lambda row: images[row].tobytes(), causes=why, **who)
            save_tensors(work / FEATURES, {"features": features})
        return {
            "out_dim": encoder.out_dim,
            "num_parameters": sum(p.numel() for p in encoder.module.parameters()),
        }

    return caching.obtain(
        folder,
        key,
        build,
        force=force,
        accept_code=accept_code,
        missing=missing,
        is_unchanged=lambda: caching.digest_files(find) == (weights, None),
    )
