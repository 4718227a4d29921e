"""train_experts: makes the shared start (encoder, frozen features) and one trajectory per expert
(METHOD 3).
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from tasks import keys, stages
from tasks.device import choose_device
from tasks.keys import Inputs
from tasks.progress import reporter
from tasks.settings.steps import Start, Training
from tasks.starts import obtain_start
from tasks.step import step
from tasks.store import caching
from tasks.store.artifacts import Ref

LOGGER = logging.getLogger("vl_distillery")


@step()
def build_start(
    work: Start, prepared: Ref, *, force: bool = False, accept_code: bool = False
) -> Ref:
    """Return `data/experts/<profile>/<model>/start`: the image encoder that all experts share.

    It holds the features of the images too when the encoder is frozen.
    """
    code = stages.STAGES["train_experts"].code
    return obtain_start(work, prepared, code=code, force=force, accept_code=accept_code)


@step("expert-{index}")
def train_expert(
    work: Training, inputs: Inputs, index: int, *, force: bool = False, accept_code: bool = False
) -> Ref:
    """Return `data/experts/<profile>/<model>/expert_<index>`: the snapshots of one expert."""
    return caching.obtain(
        work.folder / f"expert_{index:03d}",
        keys.of_expert(work, inputs, index),
        lambda place: _train(work, inputs, index, place),
        force=force,
        accept_code=accept_code,
    )


def _train(work: Training, inputs: Inputs, index: int, place: Path) -> dict[str, Any]:
    from tasks.core.foundations.checkpoints import NAME
    from tasks.core.foundations.seeding import derive_seed
    from tasks.core.networks.functional import FlatModel
    from tasks.core.training.experts import save_snapshots, train_expert
    from tasks.core.training.split_pairs import SplitPairs
    from tasks.models import load_encoder, new_model, open_split

    device, section, network = choose_device(), work.section, work.network
    encoder = load_encoder(network, inputs.start, device)
    train = open_split(network, inputs, "train")
    model = new_model(network, encoder, train.text_embeds.shape[1], "expert", index)
    # Adapters and projections begin differently in each expert; only the encoder as a whole begins
    # the same in all.
    is_start_shared = network.model.trainable == "full"
    shared = {"img": FlatModel(model).flatten()["img"].cpu()} if is_start_shared else {}
    snapshots, losses = train_expert(
        model,
        SplitPairs(train, encoder, section.augment, device=device),
        section,
        tau=network.model.tau,
        seed=derive_seed(network.seed, "expert", index),
        is_start_shared=is_start_shared,
        index=index,
        checkpoint=place / NAME,
        progress=reporter(f"train_experts expert {index}"),
    )
    facts = save_snapshots(place, snapshots, storage=section.storage, shared=shared)
    LOGGER.info(
        "expert %d: %.2f MB as %s, relative error of the differences to epoch 0 at most %.1e",
        index, facts["snapshot_bytes"] / 1e6, section.storage, facts["storage_error"],
    )  # fmt: skip
    return {"losses": losses, **facts}
