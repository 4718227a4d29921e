"""embed_captions: caption texts -> embeddings of the frozen text encoder, computed once and never
again.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks import stages
from tasks.device import choose_device
from tasks.progress import reporter
from tasks.settings.params import Params
from tasks.store import caching
from tasks.store.artifacts import Key, Ref

STAGE = stages.STAGES["embed_captions"]


@task(cache_policy=NO_CACHE, persist_result=False)
def embed_captions(
    params: Params, prepared: Ref, *, force: bool = False, accept_code: bool = False
) -> Ref:
    """Return `data/caption_embeddings/<profile>/<text encoder>`, built unless a valid one is
    there.
    """
    plugin = params.text_encoder
    find = partial(plugin.module.weight_files, plugin.config)
    weights, missing = caching.digest_files(find)
    options = plugin.as_params()
    if weights or missing:
        options["options"].pop("weights")  # the content counts, not the place
    key = Key(
        STAGE.name,
        options,
        {"prepared": prepared.digest, **weights},
        caching.code_digest([*STAGE.code, plugin.module_name]),
    )

    def build(work: Path) -> dict[str, Any]:
        import pandas as pd

        from tasks.core.data.storage import EMBEDDINGS
        from tasks.core.foundations.file_names import CAPTIONS
        from tasks.core.foundations.tensor_files import save_tensors
        from tasks.core.networks.informative import check_informative

        captions = pd.read_parquet(prepared.folder / CAPTIONS)["text"].tolist()
        embeds = plugin.module.embed(
            plugin.config,
            captions,
            device=choose_device(),
            progress=reporter(f"embed {params.profile}"),
        )
        check_informative(
            embeds,
            captions.__getitem__,
            what=f"the text encoder {plugin.name}",
            causes="weights that are zero, a tokenizer of another network or language",
            where="change embed_captions.options (weights, pooling or dtype)",
        )
        save_tensors(work / EMBEDDINGS, {"embeddings": embeds})
        return {"num_captions": len(embeds), "dim": embeds.shape[1]}

    return caching.obtain(
        stages.folder(STAGE.name, params.space(STAGE.name), plugin.module.label(plugin.config)),
        key,
        build,
        force=force,
        accept_code=accept_code,
        missing=missing,
        is_unchanged=lambda: caching.digest_files(find) == (weights, None),
    )
