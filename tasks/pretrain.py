"""pretrain: an image encoder is trained on a teacher and on captions, and its weights become one
file (METHOD 2).

No stage: profiles name the file as `weights`, like one that came from elsewhere. Checkpoints lie in
a work folder of `data/`, so that a run which was killed goes on with the same command.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean

from tasks import keys, preflight
from tasks.core.data.storage import FEATURES, load_split
from tasks.core.evaluation import heads
from tasks.core.foundations.checkpoints import NAME
from tasks.core.foundations.durable import sync, write_text
from tasks.core.foundations.file_names import IMAGES
from tasks.core.foundations.records import Split
from tasks.core.foundations.seeding import derive_seed
from tasks.core.foundations.tensor_files import map_tensor, save_tensors
from tasks.core.networks.encoders import ImageEncoder, encode_images
from tasks.core.training.pretraining import Course, Pretraining
from tasks.device import choose_device, describe
from tasks.progress import reporter
from tasks.settings.pretraining import RANDOM, Work, check_free
from tasks.store import artifacts, caching, disk
from tasks.store.artifacts import Key, Ref

LOGGER = logging.getLogger("vl_distillery")
FORMAT_VERSION, WEIGHTS = 1, "weights.safetensors"


@dataclass(frozen=True)
class Pretrained:
    """What was made.

    Attributes:
        recall, teacher_recall: means over heads on the features of both, percent of validation.
    """

    course: Course
    recall: float
    teacher_recall: float


def check(work: Work) -> None:
    """Check both encoders before any data are prepared, see `preflight`."""
    preflight.check(work.params, "train_experts", with_weights=False)
    preflight.check(work.teacher, "train_experts")
    teacher = work.teacher.image_encoder
    if getattr(teacher.config, "weights", None) == RANDOM:
        LOGGER.warning(
            "the teacher %s has random weights, and teaches little; choose one with --teacher",
            teacher.label,
        )


def pretrain(work: Work, prepared: Ref, embeddings: Ref) -> Pretrained:
    """Train, write the weights and the json beside them, and return how good they are.

    Raises:
        ValueError, FileNotFoundError: the target exists, the teacher's weights are not there, or a
            loss is not finite.
    """
    key, folder = _key(work, prepared, embeddings), work.target.parent
    place = artifacts.work_folder(key, work.target)
    partial = work.target.with_name(f".partial-{work.target.name}")
    with artifacts.lock(work.target):
        check_free(work.target)  # another run may have written it meanwhile
        # A folder that cannot be written is told before an hour of training
        with disk.reachable("--to", work.target):
            folder.mkdir(parents=True, exist_ok=True)
            partial.touch()
            partial.unlink()
        with disk.explained(place):
            place.mkdir(parents=True, exist_ok=True)
            done = _made(work, key, prepared, embeddings, place)
        with disk.explained(folder):
            _put(place / WEIGHTS, partial, work.target)
        shutil.rmtree(place)
    return done


def _key(work: Work, prepared: Ref, embeddings: Ref) -> Key:
    plugins = (work.params.image_encoder, work.teacher.image_encoder)
    teacher, weights, missing = keys.of_encoder(work.teacher.image_encoder)
    if missing:
        raise missing
    section = asdict(work.section)
    section.pop("checkpoint_every")  # changes no result
    what = {
        "encoder": work.params.image_encoder.as_params(),
        "teacher": teacher,
        "pretrain": section,
        "model": {"dropout": work.params.model.dropout, "tau": work.params.model.tau},
        "seed": work.params.seed,
    }
    inputs = {"prepared": prepared.digest, "embeddings": embeddings.digest, **weights}
    code = caching.code_digest(["tasks.pretrain", *(plugin.module_name for plugin in plugins)])
    return Key("pretrain", what, inputs, code)


def _made(work: Work, key: Key, prepared: Ref, embeddings: Ref, place: Path) -> Pretrained:
    """Train and score in the work folder, and write both files there."""
    device, seed, model = choose_device(), work.params.seed, work.params.model
    own, other = work.params.image_encoder, work.teacher.image_encoder
    data = (prepared.folder, embeddings.folder)
    teacher = other.module.build(other.config, seed=seed)
    train, val = _splits(*data, place / "teacher", teacher, other.label)
    training = Pretraining(
        own.module.build(own.config, seed=seed),
        teacher,
        train,
        val,
        work.section,
        tau=model.tau,
        seed=derive_seed(seed, "pretrain"),
        device=device,
    )
    course = training.run(place / NAME, reporter(f"pretrain {own.label}"))
    save_tensors(place / WEIGHTS, training.student.module.state_dict())
    # Read as a profile will read it: what is scored is what was written
    from_file = replace(own.config, weights=str(place / WEIGHTS))
    written = own.module.build(from_file, seed=seed)
    shown = _splits(*data, place / "encoder", written, own.label)

    def recalls(encoder: ImageEncoder, splits: tuple[Split, Split]) -> list[float]:
        return heads.recalls_of_heads(
            encoder, *splits, dropout=model.dropout, tau=model.tau, seed=seed, device=device
        )

    scores = {"encoder": recalls(written, shown), "teacher": recalls(teacher, (train, val))}
    facts = {
        "format_version": FORMAT_VERSION,
        "weights": work.target.name,
        "sha256": artifacts.file_digest(place / WEIGHTS),
        "profile": work.params.profile,
        **key.params,
        "inputs": key.inputs,
        "num_images": train.num_images,
        "num_epochs": course.num_epochs,
        "num_steps": course.step,
        "losses": course.losses,
        "val_losses": course.val_losses,
        "seconds": course.seconds,
        "val_mean_recall": scores,
        "heads": {"embed_dim": heads.EMBED_DIM, **asdict(heads.RECIPE)},
        "device": describe(),
        "git": caching.git_state(),
    }
    (place / f"{WEIGHTS}.json").write_text(json.dumps(facts, indent=1) + "\n")
    return Pretrained(course, fmean(scores["encoder"]), fmean(scores["teacher"]))


def _splits(
    prepared: Path, embeddings: Path, folder: Path, encoder: ImageEncoder, label: str
) -> tuple[Split, Split]:
    """Return training and validation split with the features of an encoder, kept in `folder`."""
    images = map_tensor(prepared / IMAGES, "images")
    told = reporter(f"pretrain features by {label}")
    features = encode_images(encoder, images, device=choose_device(), progress=told)
    folder.mkdir(exist_ok=True)
    save_tensors(folder / FEATURES, {"features": features})
    train, val = (load_split(prepared, embeddings, name, folder) for name in ("train", "val"))
    return train, val


def _put(made: Path, partial: Path, target: Path) -> None:
    """Bring the weights and the json to their places, whole or not at all."""
    try:
        with disk.explained(partial):
            disk.check_space(partial.parent, made.stat().st_size)
            with made.open("rb") as source, partial.open("wb") as copy:
                shutil.copyfileobj(source, copy)
            sync(partial)
        # First: alone it is no weights, and the next run writes it again
        facts = made.with_name(f"{made.name}.json").read_text()
        write_text(target.with_name(f"{target.name}.json"), facts)
        os.replace(partial, target)
        sync(target.parent)
    finally:
        partial.unlink(missing_ok=True)
