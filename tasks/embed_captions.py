"""embed_captions: caption texts -> embeddings of the frozen text encoder, computed once and never
again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tasks import stages
from tasks.device import choose_device
from tasks.progress import reporter
from tasks.settings.params import Params
from tasks.steps import step
from tasks.store import caching
from tasks.store.artifacts import Key, Ref

STAGE = stages.STAGES["embed_captions"]


@step()
def embed_captions(
    params: Params, prepared: Ref, *, force: bool = False, accept_code: bool = False
) -> Ref:
    """Return `data/caption_embeddings/<profile>/<text encoder>`, built unless a valid one is
    there.
    """
    plugin = params.text_encoder
    weights, missing = caching.digest_files(lambda: plugin.module.weight_files(plugin.config))
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
        import torch

        from tasks.core.data.storage import EMBEDDINGS
        from tasks.core.foundations.file_names import CAPTIONS
        from tasks.core.foundations.tensor_files import save_tensors

        captions = pd.read_parquet(prepared.folder / CAPTIONS)["text"].tolist()
        embeds = plugin.module.embed(
            plugin.config,
            captions,
            device=choose_device(),
            progress=reporter(f"embed {params.profile}"),
        )
        bad = (~torch.isfinite(embeds).all(1)).nonzero()[:, 0]
        if len(bad):
            raise ValueError(
                f"text encoder {plugin.name} gave non-finite embeddings for {len(bad)} captions, "
                f"first {captions[int(bad[0])]!r}; "
                "all must be finite; change embed_captions.options (weights or dtype)"
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
    )
