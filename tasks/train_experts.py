"""train_experts: the shared start (encoder, frozen features) and one trajectory per expert (METHOD
3).
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks import caching, stages
from tasks.artifacts import Key, Ref
from tasks.device import choose_device
from tasks.params import Params
from tasks.progress import reporter

STAGE = stages.STAGES["train_experts"]
LOGGER = logging.getLogger("vl_distillery")


@task(cache_policy=NO_CACHE, persist_result=False, tags=["gpu"])
def build_start(
    params: Params, prepared: Ref, *, force: bool = False, accept_code: bool = False
) -> Ref:
    """Return `data/experts/<profile>/<model>/start`: the image encoder that all share, and its
    features when it is frozen.

    That of a further student (`params.as_student`) is an output of evaluate:
    `data/scores/<profile>/start/<student>`.
    """
    plugin = params.image_encoder
    weights, missing = caching.digest_files(lambda: plugin.module.weight_files(plugin.config))
    options = plugin.as_params()
    if weights or missing:
        options["options"].pop("weights")  # the content counts, not the place
    is_frozen = params.model.is_encoder_frozen
    inputs = {**weights, **({"prepared": prepared.digest} if is_frozen else {})}
    what = {
        **options,
        "seed": params.seed,
        "is_frozen": is_frozen,
        **({"input_size": params.input_size} if params.student else {}),
    }
    key = Key("train_experts", what, inputs, caching.code_digest(_code(params)))

    def build(work: Path) -> dict[str, Any]:
        from tasks.core.encoders import encode_images
        from tasks.core.storage import FEATURES, IMAGES
        from tasks.core.tensor_files import map_tensor, save_tensors
        from tasks.core.transfer import at_size
        from tasks.models import ENCODER

        encoder = plugin.module.build(plugin.config, seed=params.seed)
        save_tensors(work / ENCODER, encoder.module.state_dict())
        # Everything that follows is keyed by this artifact's digest: what the network does with its
        # weights belongs to it.
        facts = {**options, "mean": encoder.mean, "std": encoder.std}
        (work / "encoder.json").write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n")
        if is_frozen:
            images = map_tensor(prepared.folder / IMAGES, "images")
            sized = at_size(encoder, params.input_size)
            features = encode_images(
                sized, images, device=choose_device(), progress=reporter(f"encode {params.profile}")
            )
            save_tensors(work / FEATURES, {"features": features})
        return {
            "out_dim": encoder.out_dim,
            "num_parameters": sum(p.numel() for p in encoder.module.parameters()),
        }

    place = (
        ("evaluate", params.space("evaluate", "start"), "start")
        if params.student
        else (STAGE.name, params.space(STAGE.name))
    )
    folder = stages.folder(*place, params.model_name, *(() if params.student else ("start",)))
    return caching.obtain(folder, key, build, force=force, accept_code=accept_code, missing=missing)


@task(cache_policy=NO_CACHE, persist_result=False, tags=["gpu"], task_run_name="expert-{index}")
def train_expert(
    params: Params,
    prepared: Ref,
    embeddings: Ref,
    start: Ref,
    index: int,
    *,
    force: bool = False,
    accept_code: bool = False,
) -> Ref:
    """Return `data/experts/<profile>/<model>/expert_<index>`: the snapshots of one expert."""
    section = asdict(params.train_experts)
    # More experts, or more of the first, do not change the others
    for name in ("num_experts", "num_epochs", "coreset_epochs"):
        section.pop(name)
    section["stored_epochs"] = params.train_experts.stored_epochs(index)
    key = Key(
        STAGE.name,
        {
            "train_experts": section,
            "model": asdict(params.model),
            "seed": params.seed,
            "index": index,
        },
        {"prepared": prepared.digest, "embeddings": embeddings.digest, "start": start.digest},
        caching.code_digest(_code(params)),
    )
    folder = stages.folder(
        STAGE.name, params.space(STAGE.name), params.model_name, f"expert_{index:03d}"
    )
    return caching.obtain(
        folder,
        key,
        lambda work: _train(params, prepared, embeddings, start, index, work),
        force=force,
        accept_code=accept_code,
    )


def _train(
    params: Params, prepared: Ref, embeddings: Ref, start: Ref, index: int, work: Path
) -> dict[str, Any]:
    from tasks.core.checkpoints import NAME
    from tasks.core.experts import save_snapshots, train_expert
    from tasks.core.functional import FlatModel
    from tasks.core.seeding import derive_seed
    from tasks.core.training import SplitPairs
    from tasks.models import load_encoder, new_model, open_split

    device, section = choose_device(), params.train_experts
    encoder = load_encoder(params, start, device)
    train = open_split(params, prepared, embeddings, start, "train")
    model = new_model(params, encoder, train.text_embeds.shape[1], "expert", index)
    # Adapters and projections begin differently in each expert; only the encoder as a whole begins
    # the same in all.
    is_start_shared = params.model.trainable == "full"
    shared = {"img": FlatModel(model).flatten()["img"].cpu()} if is_start_shared else {}
    snapshots, losses = train_expert(
        model,
        SplitPairs(train, encoder, section.augment, device=device),
        section,
        tau=params.model.tau,
        seed=derive_seed(params.seed, "expert", index),
        is_start_shared=is_start_shared,
        index=index,
        checkpoint=work / NAME,
        progress=reporter(f"expert {index}"),
    )
    facts = save_snapshots(work, snapshots, storage=section.storage, start=shared)
    LOGGER.info(
        "expert %d: %.2f MB as %s, relative error of the differences to epoch 0 at most %.1e",
        index, facts["snapshot_bytes"] / 1e6, section.storage, facts["storage_error"],
    )  # fmt: skip
    return {"losses": losses, **facts}


def _code(params: Params) -> list[str]:
    return [*STAGE.code, params.image_encoder.module_name]
