"""embed_captions: caption texts -> embeddings of the frozen text encoder, computed once and never
again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tasks import keys
from tasks.device import choose_device
from tasks.progress import reporter
from tasks.settings.steps import Embedding
from tasks.step import step
from tasks.store import caching, holding
from tasks.store.artifacts import Ref


@step()
def embed_captions(
    work: Embedding, prepared: Ref, *, force: bool = False, accept_code: bool = False
) -> Ref:
    """Return `data/caption_embeddings/<profile>/<text encoder>`, built unless a valid one is
    there.
    """
    key, missing = keys.of_embeddings(work, prepared)
    plugin = work.text_encoder

    def build(place: Path) -> dict[str, Any]:
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
            progress=reporter(f"embed_captions by {work.folder.name}"),
        )
        check_informative(
            embeds,
            captions.__getitem__,
            what=f"the text encoder {plugin.name}",
            causes="weights that are zero, a tokenizer of another network or language",
            where="change embed_captions.options (weights, pooling or dtype)",
        )
        save_tensors(place / EMBEDDINGS, {"embeddings": embeds})
        facts = {"num_captions": len(embeds), "dim": embeds.shape[1]}
        # Weights that came by a name: the key has the name alone, so their digests are facts
        if files := plugin.module.fetched(plugin.config):
            weights = {path.name: holding.known_digest(path) for path in files}
            facts |= {"revision": files[0].parent.name, "weights": weights}
        return facts

    return caching.obtain(
        work.folder,
        key,
        build,
        force=force,
        accept_code=accept_code,
        missing=missing,
        is_unchanged=lambda: keys.of_embeddings(work, prepared) == (key, None),
    )
