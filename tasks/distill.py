"""distill: synthetic pairs whose students follow the experts' trajectories (METHOD 4), one artifact
per method and size.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from tasks import stages
from tasks.core.foundations.file_names import HISTORY, INITIAL
from tasks.device import choose_device, describe
from tasks.progress import reporter
from tasks.settings.params import Params
from tasks.steps import step
from tasks.store import caching
from tasks.store.artifacts import Key, Ref

STAGE = stages.STAGES["distill"]


@step("{method}-{num_pairs}")
def distill(
    params: Params,
    prepared: Ref,
    embeddings: Ref,
    start: Ref,
    experts: list[Ref],
    method: str,
    num_pairs: int,
    *,
    force: bool = False,
    accept_code: bool = False,
) -> Ref:
    """Return `data/distilled/<profile>/<method>/<method>-<num_pairs>`: a PairSet, its initial
    pairs, and the history.
    """
    plugin = params.distillers[method]
    options = plugin.as_params()
    options["options"].pop("checkpoint_every", None)  # how often is not what
    key = Key(
        STAGE.name,
        {
            "method": options,
            "num_pairs": num_pairs,
            "seed": params.seed,
            "model": asdict(params.model),
        },
        {
            "prepared": prepared.digest,
            "embeddings": embeddings.digest,
            "start": start.digest,
            **{f"expert_{index:03d}": ref.digest for index, ref in enumerate(experts)},
        },
        caching.code_digest([*STAGE.code, plugin.module_name, params.image_encoder.module_name]),
    )
    folder = stages.folder(
        STAGE.name, params.space(STAGE.name), method, f"{method}-{num_pairs}"
    )  # one folder a method: DVC output of its matrix stage
    return caching.obtain(
        folder,
        key,
        lambda work: _distill(
            params, prepared, embeddings, start, experts, method, num_pairs, work
        ),
        force=force,
        accept_code=accept_code,
    )


def _distill(
    params: Params,
    prepared: Ref,
    embeddings: Ref,
    start: Ref,
    experts: list[Ref],
    method: str,
    num_pairs: int,
    work: Path,
) -> dict[str, Any]:
    import pandas as pd

    from tasks.core.distillation.buffer import Buffer
    from tasks.core.distillation.run import Problem
    from tasks.core.foundations.checkpoints import NAME
    from tasks.core.foundations.seeding import derive_seed
    from tasks.core.foundations.tensor_files import save_tensors
    from tasks.core.networks.functional import FlatModel
    from tasks.core.training.pair_files import save_pairs
    from tasks.models import is_encoder_frozen, load_encoder, new_model, open_split

    plugin, device = params.distillers[method], choose_device()
    encoder = load_encoder(params, start, device)
    train = open_split(params, prepared, embeddings, start, "train")
    text_dim = train.text_embeds.shape[1]
    flat = FlatModel(new_model(params, encoder, text_dim, "expert", 0))
    problem = Problem(
        flat=flat,
        encoder=encoder,
        train=train,
        buffer=Buffer([ref.folder for ref in experts], flat.flatten(), device=flat.device),
        is_encoder_frozen=is_encoder_frozen(params),
        seed=derive_seed(params.seed, "distill", num_pairs),
        fresh_start=lambda number: FlatModel(
            new_model(params, encoder, text_dim, "fresh", number)
        ).flatten(),
    )
    report = reporter(f"{method}-{num_pairs}")
    found = plugin.module.distill(
        problem,
        plugin.config,
        num_pairs,
        tau=params.model.tau,
        checkpoint=work / NAME,
        log=lambda row, iteration: report(iteration + 1, plugin.config.total_iterations),
    )
    provenance = {
        "method": method,
        "profile": params.profile,
        "image_idx": found.start.image_idx.tolist(),
        "caption_idx": found.start.caption_idx.tolist(),
    }
    save_pairs(work, found.pairs.with_provenance(provenance))
    save_tensors(work / INITIAL, {"images": found.start.images, "text_embeds": found.start.texts})
    pd.DataFrame(found.history).rename_axis("iteration").reset_index().to_parquet(
        work / HISTORY, index=False
    )
    return {
        "method": method,
        "num_pairs": num_pairs,
        "final_loss": found.history[-1]["loss"],
        "device": describe(),
    }
