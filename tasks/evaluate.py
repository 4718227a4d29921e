"""evaluate: trains fresh students on a set and scores them through FAISS (METHOD 8). It also scores
linear heads in closed form, and finds captions for the gallery of a set.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tasks import keys, stages
from tasks.core.foundations.file_names import CURVE, GALLERY, SCORE, SHEET
from tasks.device import describe
from tasks.keys import Inputs
from tasks.settings.steps import Evaluation, Showing, Start
from tasks.starts import obtain_start
from tasks.step import step
from tasks.store import caching
from tasks.store.artifacts import Ref


@step("start-{work.network.name}")
def build_student_start(
    work: Start, prepared: Ref, *, force: bool = False, accept_code: bool = False
) -> Ref:
    """Return `data/scores/<profile>/start/<student>`: the encoder of a further student."""
    from tasks.core.evaluation.transfer import at_size

    return obtain_start(
        work,
        prepared,
        code=stages.STAGES["evaluate"].code,
        resize=lambda encoder: at_size(encoder, work.network.input_size),
        force=force,
        accept_code=accept_code,
    )


@step("{work.set_name}-{work.network.name}-seed{seed_idx}")
def train_student(
    work: Evaluation,
    inputs: Inputs,
    pairs: Ref | None,
    seed_idx: int,
    *,
    force: bool = False,
    accept_code: bool = False,
) -> Ref:
    """Return `data/scores/<profile>/<set>/seed_<k>`: the scores of one student;
    `.../<set>/<student>/seed_<k>` of a further one.

    Args:
        inputs: with the start of the same network.
        pairs: a coreset or distilled artifact; None trains on the full data.
    """
    return caching.obtain(
        work.folder / f"seed_{seed_idx}",
        keys.of_score(work, inputs, pairs, seed_idx),
        lambda place: _train(work, inputs, pairs, seed_idx, place),
        force=force,
        accept_code=accept_code,
    )


def _train(
    work: Evaluation, inputs: Inputs, pairs: Ref | None, seed_idx: int, place: Path
) -> dict[str, Any]:
    from tasks.student_models import train_student

    student = train_student(work, inputs, pairs, seed_idx)
    sizes = {
        # The budget: a set may hold a pair fewer, which paid for its similarity.
        "num_pairs": work.set_name.num_pairs or student.num_pairs,
        **asdict(student.size),
    }
    return _write(work, sizes, seed_idx, student.outcome, place)


def _write(
    work: Evaluation, sizes: dict[str, Any], seed_idx: int, outcome: Any, place: Path
) -> dict[str, Any]:
    """Write the score and the curve of an `Outcome`, and return the facts of its artifact."""
    import pandas as pd

    score = {
        "set": str(work.set_name),
        "method": work.set_name.label,
        **sizes,
        "student": work.network.name,
        "seed": seed_idx,
        "protocol": work.section.protocol,
        "chosen_epoch": outcome.chosen_epoch,
        "val_mean_recall": outcome.val["mean_recall"],
        **outcome.test,
    }
    (place / SCORE).write_text(json.dumps(score, indent=1, sort_keys=True) + "\n")
    # Curves of all students are joined in the report, so each row says of whom it is
    curve = pd.DataFrame(outcome.curve).assign(set=str(work.set_name), seed=seed_idx)
    curve.to_parquet(place / CURVE, index=False)
    return {"device": describe()}


@step("{work.set_name}-{work.network.name}")
def score_ceiling(
    work: Evaluation,
    inputs: Inputs,
    images: Ref | None,
    *,
    force: bool = False,
    accept_code: bool = False,
) -> Ref:
    """Return `data/scores/<profile>/<ceiling>/seed_0`: the scores of linear heads in closed form.

    Args:
        work: names one of `sets.ceilings`, with the network of a frozen encoder.
        inputs: with the start of the same network.
        images: a coreset in the span of its images; None for any pairs.
    """

    def build(place: Path) -> dict[str, Any]:
        from tasks.student_models import score_ceiling

        outcome, num_images = score_ceiling(work, inputs, images)
        # Nothing is stored and no pair is trained on
        unknown = dict.fromkeys(("training_pairs", "num_bytes", "bits"))
        sizes = {"num_pairs": work.set_name.num_pairs or num_images, **unknown}
        return _write(work, sizes, 0, outcome, place)

    key = keys.of_ceiling(work, inputs, images)
    return caching.obtain(work.folder / "seed_0", key, build, force=force, accept_code=accept_code)


@step("gallery-{work.set_name}")
def make_gallery(
    work: Showing,
    prepared: Ref,
    embeddings: Ref,
    pairs: Ref,
    *,
    force: bool = False,
    accept_code: bool = False,
) -> Ref:
    """Return `data/scores/<profile>/<set>/gallery`: nearest sentences of a distilled set's texts,
    and a contact sheet.
    """
    return caching.obtain(
        work.folder,
        keys.of_gallery(work, prepared, embeddings, pairs),
        lambda place: _decode(work, prepared, embeddings, pairs, place),
        force=force,
        accept_code=accept_code,
    )


def _decode(
    work: Showing, prepared: Ref, embeddings: Ref, pairs: Ref, place: Path
) -> dict[str, Any]:
    from tasks.core.data.storage import load_split
    from tasks.core.training.pair_files import load_pairs
    from tasks.reporting.gallery import write_contact_sheet
    from tasks.reporting.stored import load_gallery
    from tasks.search import nearest

    train = load_split(prepared.folder, embeddings.folder, "train")
    stored = load_pairs(pairs.folder)
    # A synthetic text is a vector without words: the nearest real caption stands for it
    shown = stored.first_texts
    # The first text of each picture is shown
    similarity, index = nearest(stored.text_embeds[shown], train.text_embeds)
    image_idx, caption_idx = (stored.provenance[name] for name in ("image_idx", "caption_idx"))
    rows = []
    for row, text in enumerate(shown.tolist()):
        rows.append(
            {
                "initial_caption": train.captions[caption_idx[text]],
                # A picture of parts starts from `parts**2` images; the first one is named
                "initial_image_idx": image_idx[row * stored.parts**2],
                "nearest_sentence": train.captions[int(index[row, 0])],
                "similarity": float(similarity[row, 0]),
            }
        )
    content = {"set": str(work.set_name), "rows": rows}
    (place / GALLERY).write_text(json.dumps(content, indent=1) + "\n")
    write_contact_sheet(load_gallery(place, pairs.folder, work.gallery_pairs), place / SHEET)
    return {"num_pairs": len(rows)}
