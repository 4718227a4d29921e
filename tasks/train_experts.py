"""train_experts: the shared start (encoder, frozen features) and one trajectory per expert (METHOD
3).
"""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tasks import stages
from tasks.device import choose_device
from tasks.progress import reporter
from tasks.settings.params import Params
from tasks.starts import obtain_start
from tasks.steps import step
from tasks.store import caching
from tasks.store.artifacts import Key, Ref

STAGE = stages.STAGES["train_experts"]
LOGGER = logging.getLogger("vl_distillery")


@step()
def build_start(
    params: Params, prepared: Ref, *, force: bool = False, accept_code: bool = False
) -> Ref:
    """Return `data/experts/<profile>/<model>/start`: the image encoder that all experts share.

    It holds the features of the images too when the encoder is frozen.
    """
    folder = stages.folder(STAGE.name, params.space(STAGE.name), params.model_name, "start")
    return obtain_start(
        params, prepared, folder, code=_code(params), force=force, accept_code=accept_code
    )


@step("expert-{index}")
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
    from tasks.core.foundations.checkpoints import NAME
    from tasks.core.foundations.seeding import derive_seed
    from tasks.core.networks.functional import FlatModel
    from tasks.core.training.experts import save_snapshots, train_expert
    from tasks.core.training.split_pairs import SplitPairs
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
