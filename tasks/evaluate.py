"""evaluate: train fresh students on a set and score them through FAISS (METHOD 8); decode a set's
texts for its gallery.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tasks import stages
from tasks.core.foundations.file_names import CURVE, GALLERY, SCORE, SHEET
from tasks.device import choose_device, describe
from tasks.progress import reporter
from tasks.settings.params import Params
from tasks.starts import obtain_start
from tasks.steps import step
from tasks.store import caching
from tasks.store.artifacts import Key, Ref

STAGE = stages.STAGES["evaluate"]
FULL = "full"


@step("start-{params.student}")
def build_student_start(
    params: Params, prepared: Ref, *, force: bool = False, accept_code: bool = False
) -> Ref:
    """Return `data/scores/<profile>/start/<student>`: the encoder of a further student.

    Args:
        params: `params.as_student(name)`.
    """
    from tasks.core.evaluation.transfer import at_size

    folder = stages.folder(
        STAGE.name, params.space(STAGE.name, "start"), "start", params.model_name
    )
    return obtain_start(
        params,
        prepared,
        folder,
        code=[*STAGE.code, params.image_encoder.module_name],
        resize=lambda encoder: at_size(encoder, params.input_size),
        force=force,
        accept_code=accept_code,
    )


@step("{set_name}-{params.model_name}-seed{seed_idx}")
def train_student(
    params: Params,
    prepared: Ref,
    embeddings: Ref,
    start: Ref,
    pairs: Ref | None,
    set_name: str,
    seed_idx: int,
    *,
    force: bool = False,
    accept_code: bool = False,
) -> Ref:
    """Return `data/scores/<profile>/<set>/seed_<k>`: the scores of one student;
    `.../<set>/<student>/seed_<k>` of a further one.

    Args:
        params: of the distilled encoder's student, or `params.as_student(name)`.
        start: of the same student.
        pairs: a coreset or distilled artifact; None trains on the full data.
        set_name: `<method>-<num_pairs>`, or `full`.
    """
    section = params.evaluate
    inputs = {"prepared": prepared.digest, "embeddings": embeddings.digest, "start": start.digest}
    if pairs is not None:
        inputs["pairs"] = pairs.digest
    recipe = asdict(section.full if pairs is None else section.small)
    augment = asdict(params.train_experts.augment) if pairs is None else None
    further = {"student": params.student, "input_size": params.input_size} if params.student else {}
    key = Key(
        STAGE.name,
        {
            "recipe": recipe,
            "augment": augment,
            "protocol": section.protocol,
            "model": asdict(params.model),
            **further,
            "seed": params.seed,
            "seed_idx": seed_idx,
        },
        inputs,
        caching.code_digest([*STAGE.code, params.image_encoder.module_name]),
    )

    def build(work: Path) -> dict[str, Any]:
        return _train(params, prepared, embeddings, start, pairs, set_name, seed_idx, work)

    folder = stages.folder(
        STAGE.name,
        params.space(STAGE.name, set_name),
        set_name,
        *filter(None, [params.student]),
        f"seed_{seed_idx}",
    )
    return caching.obtain(folder, key, build, force=force, accept_code=accept_code)


def _train(
    params: Params,
    prepared: Ref,
    embeddings: Ref,
    start: Ref,
    pairs: Ref | None,
    set_name: str,
    seed_idx: int,
    work: Path,
) -> dict[str, Any]:
    import pandas as pd

    from tasks.core.evaluation.students import train_student
    from tasks.core.foundations.seeding import derive_seed
    from tasks.core.training.pair_set import SetPairs
    from tasks.core.training.similarity import set_loss
    from tasks.core.training.split_pairs import SplitPairs
    from tasks.models import new_model, open_split
    from tasks.search import recall_by_search
    from tasks.student_models import load_student_encoder, open_pairs

    device, section = choose_device(), params.evaluate
    encoder = load_student_encoder(params, start, device)
    train, val, test = (
        open_split(params, prepared, embeddings, start, split) for split in ("train", "val", "test")
    )
    source: SetPairs | SplitPairs
    step_sizes, loss_fn = None, None
    if pairs is None:
        source, recipe = (
            SplitPairs(train, encoder, params.train_experts.augment, device=device),
            section.full,
        )
    else:
        stored, features = open_pairs(params, start, pairs, device)
        source = SetPairs(stored, device=device, features=features)
        step_sizes, loss_fn, recipe = (
            stored.step_sizes,
            set_loss(stored, params.model.tau),
            section.small,
        )
    outcome = train_student(
        new_model(params, encoder, train.text_embeds.shape[1], "student", seed_idx),
        source,
        recipe,
        step_sizes=step_sizes,
        protocol=section.protocol,
        encoder=encoder,
        val=val,
        test=test,
        score=recall_by_search,
        tau=params.model.tau,
        seed=derive_seed(params.seed, "student", seed_idx),
        loss_fn=loss_fn,
        progress=reporter(f"{set_name} seed {seed_idx}"),
    )
    score = {
        "set": set_name,
        "method": set_name.rpartition("-")[0] or set_name,
        # The budget: a set may hold a pair fewer, which paid for its similarity.
        "num_pairs": source.num_pairs if pairs is None else int(set_name.rpartition("-")[2]),
        "student": params.model_name,
        "seed": seed_idx,
        "protocol": section.protocol,
        "chosen_epoch": outcome.chosen_epoch,
        "val_mean_recall": outcome.val["mean_recall"],
        **outcome.test,
    }
    (work / SCORE).write_text(json.dumps(score, indent=1, sort_keys=True) + "\n")
    pd.DataFrame(outcome.curve).assign(set=set_name, seed=seed_idx).to_parquet(
        work / CURVE, index=False
    )
    return {"device": describe()}


@step("gallery-{set_name}")
def make_gallery(
    params: Params,
    prepared: Ref,
    embeddings: Ref,
    pairs: Ref,
    set_name: str,
    *,
    force: bool = False,
    accept_code: bool = False,
) -> Ref:
    """Return `data/scores/<profile>/<set>/gallery`: nearest sentences of a distilled set's texts,
    and a contact sheet.
    """
    key = Key(
        STAGE.name,
        {"gallery_pairs": params.report.gallery_pairs},
        {"prepared": prepared.digest, "embeddings": embeddings.digest, "pairs": pairs.digest},
        caching.code_digest([*STAGE.code, "tasks.reporting.gallery", "tasks.reporting.stored"]),
    )

    def build(work: Path) -> dict[str, Any]:
        return _decode(params, prepared, embeddings, pairs, set_name, work)

    folder = stages.folder(STAGE.name, params.space(STAGE.name, set_name), set_name, "gallery")
    return caching.obtain(folder, key, build, force=force, accept_code=accept_code)


def _decode(
    params: Params, prepared: Ref, embeddings: Ref, pairs: Ref, set_name: str, work: Path
) -> dict[str, Any]:
    from tasks.core.data.storage import load_split
    from tasks.core.training.pair_files import load_pairs
    from tasks.reporting.gallery import write_contact_sheet
    from tasks.reporting.stored import load_gallery
    from tasks.search import nearest

    train = load_split(prepared.folder, embeddings.folder, "train")
    stored = load_pairs(pairs.folder)
    similarity, index = nearest(stored.text_embeds, train.text_embeds)
    rows = [
        {
            "initial_caption": train.captions[caption],
            "initial_image_idx": stored.provenance["image_idx"][row],
            "nearest_sentence": train.captions[int(index[row, 0])],
            "similarity": float(similarity[row, 0]),
        }
        for row, caption in enumerate(stored.provenance["caption_idx"])
    ]
    (work / GALLERY).write_text(json.dumps({"set": set_name, "rows": rows}, indent=1) + "\n")
    write_contact_sheet(load_gallery(work, pairs.folder, params.report.gallery_pairs), work / SHEET)
    return {"num_pairs": len(rows)}
