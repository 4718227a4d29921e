"""select_coresets: real pairs chosen by each method, in the space of a model warmed up on the data
(METHOD 7).
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks import stages
from tasks.device import choose_device
from tasks.settings.params import Params, Plugin
from tasks.store import caching
from tasks.store.artifacts import Key, Ref

STAGE = stages.STAGES["select_coresets"]
SHARED = "shared.safetensors"


@task(
    cache_policy=NO_CACHE, persist_result=False, tags=["gpu"], task_run_name="{method}-{num_pairs}"
)
def select_coreset(
    params: Params,
    prepared: Ref,
    embeddings: Ref,
    start: Ref,
    warm: Ref,
    method: str,
    num_pairs: int,
    *,
    force: bool = False,
    accept_code: bool = False,
) -> Ref:
    """Return `data/coresets/<profile>/<method>-<num_pairs>`, a PairSet of real pairs.

    Args:
        warm: the expert in whose space pairs are selected, after `train_experts.coreset_epochs`
            epochs (expert_000).
    """
    plugin = params.coresets[method]
    inputs = {
        "prepared": prepared.digest,
        "embeddings": embeddings.digest,
        "start": start.digest,
        "warm": warm.digest,
    }
    shared = make_shared(
        params, prepared, embeddings, start, method, force=force, accept_code=accept_code
    )
    if shared:
        inputs = {**inputs, "shared": shared.digest}
    epochs = params.train_experts.coreset_epochs
    key = Key(
        STAGE.name,
        {
            "method": plugin.as_params(),
            "num_pairs": num_pairs,
            "seed": params.seed,
            "model": asdict(params.model),
            "coreset_epochs": epochs,
        },
        inputs,
        caching.code_digest([*STAGE.code, plugin.module_name, params.image_encoder.module_name]),
    )

    def build(work: Path) -> dict[str, Any]:
        return _select(params, plugin, prepared, embeddings, start, warm, shared, num_pairs, work)

    folder = stages.folder(STAGE.name, params.space(STAGE.name), f"{method}-{num_pairs}")
    return caching.obtain(folder, key, build, force=force, accept_code=accept_code)


def make_shared(
    params: Params,
    prepared: Ref,
    embeddings: Ref,
    start: Ref,
    method: str,
    *,
    force: bool = False,
    accept_code: bool = False,
) -> Ref | None:
    """Return what a method computes once for all budgets (forgetting counts), an artifact of its
    own; None without such a part.
    """
    plugin = params.coresets[method]
    if not hasattr(plugin.module, "prepare"):
        return None
    key = Key(
        STAGE.name,
        {
            "shared": plugin.as_params(),
            "seed": params.seed,
            "model": asdict(params.model),
            "train_experts": _recipe(params),
        },
        {"prepared": prepared.digest, "embeddings": embeddings.digest, "start": start.digest},
        caching.code_digest([*STAGE.code, plugin.module_name, params.image_encoder.module_name]),
    )

    def build(work: Path) -> dict[str, Any]:
        from tasks.core.foundations.tensor_files import save_tensors

        save_tensors(work / SHARED, _prepare(params, plugin, prepared, embeddings, start))
        return {}

    folder = stages.folder(STAGE.name, params.space(STAGE.name), f"{plugin.name}-shared")
    return caching.obtain(folder, key, build, force=force, accept_code=accept_code)


def _prepare(
    params: Params, plugin: Plugin, prepared: Ref, embeddings: Ref, start: Ref
) -> dict[str, Any]:
    import torch

    from tasks.core.foundations.seeding import derive_seed
    from tasks.core.training.epoch import parameter_groups, train_epoch
    from tasks.core.training.split_pairs import SplitPairs
    from tasks.models import load_encoder, new_model, open_split

    device, section = choose_device(), params.train_experts
    encoder = load_encoder(params, start, device)
    train = open_split(params, prepared, embeddings, start, "train")
    pairs = SplitPairs(
        train, encoder, section.augment, device=device, caption_idx=_caption_idx(params, train)
    )

    def run(num_epochs: int, on_batch: Any) -> None:
        model = new_model(params, encoder, train.text_embeds.shape[1], plugin.name)
        optimiser = torch.optim.SGD(
            parameter_groups(model, section.lr_img, section.lr_txt),
            lr=section.lr_txt,
            momentum=section.momentum,
        )
        seed = derive_seed(params.seed, plugin.name)
        for epoch in range(num_epochs):
            train_epoch(
                model,
                pairs,
                optimiser,
                batch_size=section.batch_size,
                tau=params.model.tau,
                seed=seed,
                epoch=epoch,
                on_batch=on_batch,
            )

    found: dict[str, Any] = plugin.module.prepare(plugin.config, train.num_images, run)
    return found


def _select(
    params: Params,
    plugin: Plugin,
    prepared: Ref,
    embeddings: Ref,
    start: Ref,
    warm: Ref,
    shared: Ref | None,
    num_pairs: int,
    work: Path,
) -> dict[str, Any]:
    from tasks.core.distillation.buffer import Buffer
    from tasks.core.foundations.seeding import make_generator
    from tasks.core.foundations.tensor_files import load_tensors
    from tasks.core.networks.encoders import normalise, take_rows
    from tasks.core.networks.functional import FlatModel
    from tasks.core.selection.pool import Pool, check_budget
    from tasks.core.training.embedding import embed_split
    from tasks.core.training.pair_files import save_pairs
    from tasks.core.training.pair_set import PairSet
    from tasks.models import load_encoder, new_model, open_split

    device = choose_device()
    encoder = load_encoder(params, start, device)
    train = open_split(params, prepared, embeddings, start, "train")
    check_budget(num_pairs, train.num_images)
    model = new_model(params, encoder, train.text_embeds.shape[1], "expert", 0)
    flat = FlatModel(model)
    buffer = Buffer([warm.folder], flat.flatten(), device=flat.device)
    flat.load(buffer.snapshot(0, params.train_experts.coreset_epochs))
    image_features, text_features = embed_split(model, train, encoder, device=device)
    caption_idx = _caption_idx(params, train)
    pool = Pool(
        caption_idx=caption_idx,
        image_features=image_features,
        text_features=text_features[caption_idx],
        shared=load_tensors(shared.folder / SHARED) if shared else {},
    )
    chosen = plugin.module.select(
        plugin.config,
        pool,
        num_pairs,
        make_generator(params.seed, "coreset", plugin.name, num_pairs),
    )
    save_pairs(
        work,
        PairSet(
            images=normalise(
                take_rows(train.images, chosen.image_idx), encoder.mean, encoder.std
            ).contiguous(),
            text_embeds=train.text_embeds[chosen.caption_idx],
            mean=encoder.mean,
            std=encoder.std,
            provenance={
                "method": plugin.name,
                "profile": params.profile,
                "image_idx": chosen.image_idx.tolist(),
                "caption_idx": chosen.caption_idx.tolist(),
                "features": f"{params.model_name}, expert 0 after "
                f"{params.train_experts.coreset_epochs} epochs",
            },
        ),
    )
    return {"method": plugin.name, "num_pairs": num_pairs}


def _recipe(params: Params) -> dict[str, Any]:
    """What of the experts' section training for a method's shared part uses."""
    section = asdict(params.train_experts)
    return {
        name: value
        for name, value in section.items()
        if name not in ("num_experts", "num_epochs", "coreset_epochs", "storage")
    }


def _caption_idx(params: Params, train: Any) -> Any:
    """One caption per image, the same for all methods that select."""
    import torch

    from tasks.core.foundations.seeding import make_generator
    from tasks.core.selection.pool import sample_captions

    return sample_captions(
        torch.arange(train.num_images),
        train.caption_image_idx,
        make_generator(params.seed, "coreset_captions"),
    )
