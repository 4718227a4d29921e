"""Sets scored under encoders that they were not distilled with: the pairs that another encoder
sees, and its artifacts.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from tasks.core.data.storage import FEATURES
from tasks.core.evaluation.transfer import at_size, transfer
from tasks.core.foundations.file_names import IMAGES
from tasks.core.foundations.seeding import make_generator
from tasks.core.foundations.tensor_files import load_tensors, map_tensor
from tasks.core.networks.encoders import ImageEncoder, encode_images, normalise
from tasks.core.training.pair_set import PairSet, Similarity
from tasks.keys import Inputs
from tasks.settings import params, steps
from tasks.settings.sets import SetName
from tasks.store import artifacts
from tasks.store.artifacts import Key, Ref
from tests.workspace import TINY, make_workspace

TIMM = (
    "image_encoder: timm, options: {{name: {0}, weights: random, kwargs: {1}, mean: {2}, std: {2}}}"
)
MAIN = TIMM.format("test_nfnet", "{stem_type: 3x3_pool, extra_conv: false}", "null")
VIT = TIMM.format("test_vit", "{img_size: 48}", "[0.4, 0.5, 0.6]")
STUDENTS = (
    f"evaluate.cross_architecture={{twin: {{{MAIN}, trainable: full, lora: null, embed_dim: "
    "null, input_size: null}, "
    f"vit: {{{VIT}, trainable: heads, lora: null, embed_dim: 9, input_size: 48}}}}"
)
OLD, NEW = ((0.5, 0.4, 0.3), (0.2, 0.25, 0.3)), ((0.1, 0.2, 0.6), (0.5, 0.4, 0.7))


def encoder(size: int = 0) -> ImageEncoder:
    return at_size(ImageEncoder(torch.nn.Flatten(), 3, *NEW), size or None)


def pairs_of(raw: torch.Tensor) -> PairSet:
    """Pictures (M, S, S, 3) uint8 as a set in the old normalisation, with everything that a set can
    carry.
    """
    count = len(raw)
    soft = Similarity(torch.ones(count), torch.ones(count, 2), torch.zeros(count, 2), 1.0)
    return PairSet(
        normalise(raw, *OLD),
        torch.eye(count, 4),
        *OLD,
        similarity=soft,
        step_sizes={"img": 0.3, "txt": 0.2},
    )


def test_another_encoder_sees_the_same_pictures_in_its_own_normalisation():
    raw = torch.randint(0, 256, (5, 7, 7, 3), dtype=torch.uint8, generator=make_generator(1))
    pairs = pairs_of(raw)
    found = transfer(pairs, encoder(), None)
    torch.testing.assert_close(found.images, normalise(raw, *NEW), rtol=0, atol=2e-6)
    assert (found.mean, found.std, found.step_sizes) == (*NEW, None)
    assert found.text_embeds is pairs.text_embeds and found.similarity is pairs.similarity


def test_pixels_outside_the_range_of_pictures_stay_outside():
    pairs = pairs_of(torch.full((2, 3, 3, 3), 255, dtype=torch.uint8))
    wide = PairSet(pairs.images + 1.0, pairs.text_embeds, *OLD)
    found = transfer(wide, encoder(), None).images
    pixels = found * torch.tensor(NEW[1]).view(-1, 1, 1) + torch.tensor(NEW[0]).view(-1, 1, 1)
    torch.testing.assert_close(pixels[0, :, 0, 0], 1.0 + torch.tensor(OLD[1]), rtol=0, atol=2e-6)


@pytest.mark.parametrize("size", [5, 11])
def test_pictures_of_another_size_are_resized_as_in_pixel_space(size):
    raw = torch.randint(0, 256, (3, 7, 7, 3), dtype=torch.uint8, generator=make_generator(2))
    pixels = functional.interpolate(
        raw.permute(0, 3, 1, 2) / 255.0, size=(size, size), mode="bilinear", antialias=True
    )
    expected = (pixels - torch.tensor(NEW[0]).view(-1, 1, 1)) / torch.tensor(NEW[1]).view(-1, 1, 1)
    torch.testing.assert_close(
        transfer(pairs_of(raw), encoder(), size).images, expected, rtol=0, atol=4e-6
    )
    torch.testing.assert_close(
        encoder(size).module(normalise(raw, *NEW)), expected.flatten(1), rtol=0, atol=4e-6
    )


def test_an_equal_encoder_is_given_the_very_same_images():
    pairs = pairs_of(torch.zeros(2, 3, 3, 3, dtype=torch.uint8))
    assert transfer(pairs, ImageEncoder(torch.nn.Flatten(), 3, *OLD), 3).images is pairs.images


class Made:
    """The stages up to one distilled and one random set, as plain functions in a workspace."""

    def __init__(self, folder: Path) -> None:
        from tasks import (
            distill,
            embed_captions,
            evaluate,
            prepare_data,
            select_coresets,
            train_experts,
        )

        self.folder = folder
        self.build_student_start = evaluate.build_student_start.fn
        self.train_student = evaluate.train_student.fn
        self.params = params.load([STUDENTS])
        self.prepared = prepare_data.prepare_data.fn(steps.preparation(self.params))
        self.embeddings = embed_captions.embed_captions.fn(
            steps.embedding(self.params), self.prepared
        )
        self.start = train_experts.build_start.fn(steps.start(self.params), self.prepared)
        given = Inputs(self.prepared, self.embeddings, self.start)
        training = steps.training(self.params)
        experts = [train_experts.train_expert.fn(training, given, index) for index in range(2)]
        selection = steps.selection(self.params, SetName("random", 4))
        distillation = steps.distillation(self.params, SetName("bi_trajectory", 4))
        self.sets = {
            "random-4": select_coresets.select_coreset.fn(selection, given, experts[0]),
            "bi_trajectory-4": distill.distill.fn(distillation, given, experts),
            "full": None,
        }

    def score(self, name: str, student: str | None = None, pairs: Ref | None = None) -> Ref:
        """The scores of one student of a set, of the main one unless `student` names another."""
        chosen = self.params.as_student(student) if student else self.params
        start = self.start
        if student:
            start = self.build_student_start(steps.start(chosen), self.prepared)
        work = steps.evaluation(chosen, SetName.parse(name))
        inputs = Inputs(self.prepared, self.embeddings, start)
        return self.train_student(work, inputs, pairs or self.sets[name], 0)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    workspace = make_workspace(tmp_path_factory.mktemp("cross") / "copy", TINY)
    with contextlib.chdir(workspace.folder):
        yield Made(workspace.folder)


def numbers(ref: Ref) -> dict[str, object]:
    """What `score.json` says, without the name of the student."""
    return {
        key: value
        for key, value in json.loads((ref.folder / "score.json").read_text()).items()
        if key != "student"
    }


@pytest.mark.parametrize("name", ["random-4", "full"])
def test_a_further_student_equal_to_the_main_one_scores_the_same(made, name):
    main, twin = made.score(name), made.score(name, "twin")
    assert numbers(main) == numbers(twin)
    assert (
        main.path == f"data/scores/toy/{name}/seed_0"
        and twin.path == f"data/scores/toy/{name}/twin/seed_0"
    )


def test_a_distilled_set_is_scored_under_another_student_with_the_step_sizes_of_the_recipe(made):
    stripped = made.folder / "stripped"
    shutil.copytree(made.sets["bi_trajectory-4"].folder, stripped)
    facts = json.loads((stripped / "pairs.json").read_text())
    assert facts["step_sizes"]
    (stripped / "pairs.json").write_text(json.dumps({**facts, "step_sizes": None}))
    sealed = artifacts.seal(stripped, Key("distill", {}, {}, ""), {})
    by_recipe = numbers(made.score("bi_trajectory-4", pairs=Ref("stripped", sealed.digest)))
    assert numbers(made.score("bi_trajectory-4", "twin")) == by_recipe


def test_a_frozen_student_has_the_features_of_all_images_at_its_own_size_and_normalisation(made):
    student = made.params.as_student("vit")
    start = made.build_student_start(steps.start(student), made.prepared)
    assert start.path == "data/scores/toy/start/vit"
    features = load_tensors(start.folder / FEATURES)["features"]
    images = map_tensor(made.prepared.folder / IMAGES, "images")
    plain = student.image_encoder.module.build(student.image_encoder.config, seed=student.seed)
    assert plain.mean == (0.4, 0.5, 0.6) and images.shape[1] == 32
    resized = functional.interpolate(
        normalise(torch.tensor(images[:5]), plain.mean, plain.std),
        (48, 48),
        mode="bilinear",
        antialias=True,
    )
    with torch.no_grad():
        torch.testing.assert_close(features[:5], plain.module(resized), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(features, encode_images(at_size(plain, 48), images, device="cpu"))
    assert made.build_student_start(steps.start(student), made.prepared).is_cached


def test_scores_of_every_set_under_a_network_of_another_kind_are_kept_apart(made):
    for name in made.sets:
        score = json.loads((made.score(name, "vit").folder / "score.json").read_text())
        assert (score["student"], score["set"]) == ("vit", name)
        assert 0.0 <= score["mean_recall"] <= 100.0
        assert made.score(name, "vit").is_cached
    assert made.score("random-4").path == "data/scores/toy/random-4/seed_0"


PLACED = "trainable: full, lora: null, embed_dim: null, input_size: null"
BAD = [
    ("3", r"evaluate: received .*needs `cross_architecture`, a mapping"),
    ("{vit: {}}", r"cross_architecture\.vit: received \{\}; it needs `image_encoder`"),
    (f"{{seed_0: {{{VIT}}}}}", r"received the student 'seed_0'; .gallery. and .seed_\*. are"),
    (f"{{a/b: {{{VIT}}}}}", r"received the student 'a/b'; allowed are at most 100 letters"),
    (
        f"{{vit: {{{VIT}, trainable: heads, lora: null, embed_dim: null, input_size: null}}}}",
        r"vit\.embed_dim: received None.*512",
    ),
    (
        f"{{vit: {{{VIT}, trainable: full, lora: null, embed_dim: null, input_size: 4}}}}",
        r"vit\.input_size: received 4.*>= 8",
    ),
    (f"{{vit: {{{VIT}, trainable: full, lora: null, embed_dim: null}}}}", r"vit\.input_size"),
    (f"{{vit: {{{VIT}, {PLACED}, small: {{lr_image: 0.1}}}}}}", r"vit\.small\.lr_image"),
    (
        f"{{vit: {{{VIT}, {PLACED}, full: {{num_epochs: 0}}}}}}",
        r"vit\.full\.num_epochs: received 0",
    ),
    (f"{{vit: {{{VIT}, {PLACED}, small: 3}}}}", r"vit\.small: received 3"),
    (
        f"{{test_nfnet-full: {{{MAIN}, trainable: full, lora: null, embed_dim: null, input_size: "
        "null}}",
        r"the name of `model` itself",
    ),
]


def test_a_further_student_changes_the_recipes_for_itself():
    value = f"{{vit: {{{VIT}, {PLACED}, small: {{lr_img: 0.0005}}, full: {{num_epochs: 7}}}}}}"
    chosen = params.load([f"evaluate.cross_architecture={value}"])
    own, main = chosen.as_student("vit").evaluate, chosen.evaluate
    assert own.small == dataclasses.replace(main.small, lr_img=0.0005)
    assert own.full == dataclasses.replace(main.full, num_epochs=7)
    assert main == params.load().evaluate


@pytest.mark.parametrize(("value", "message"), BAD)
def test_a_wrong_further_student_is_refused_with_its_place(value, message):
    with pytest.raises(ValueError, match=message):
        params.load([f"evaluate.cross_architecture={value}"])
