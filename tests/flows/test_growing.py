"""Sets that grow, in the tiny workspace: a larger one begins with a smaller one of its method, or
with an imported one, which is an input with its digest.
"""

import contextlib
import json
from pathlib import Path

import pytest
import torch

from flows.distill import distilled
from flows.refs import Refs
from tasks import embed_captions, evaluate, prepare_data, train_experts
from tasks.core.training.pair_files import load_pairs
from tasks.exchange.imports import import_set
from tasks.exchange.source import open_source
from tasks.settings import params, steps
from tasks.settings.sets import SetName
from tasks.store import artifacts
from tests.exchange.conftest import HEADS
from tests.exchange.test_imports import STATED, published
from tests.workspace import TINY, make_workspace

HOW = {"force": False, "accept_code": False}
SMALL, LARGE = SetName("bi_trajectory", 4), SetName("bi_trajectory", 6)
GROWN = ("distill.matching.begin_with=[4]", "distill.matching.earlier_lr_scale=0.0")


@pytest.fixture(scope="module")
def refs(tmp_path_factory):
    """A workspace with two sizes, in which one expert is trained."""
    settings = (*TINY, *HEADS, "budgets=[4, 6]", "train_experts.num_experts=1")
    folder = make_workspace(tmp_path_factory.mktemp("grown") / "copy", settings).folder
    with contextlib.chdir(folder):
        chosen = params.load()
        prepared = prepare_data.prepare_data.fn(steps.preparation(chosen))
        embeddings = embed_captions.embed_captions.fn(steps.embedding(chosen), prepared)
        start = train_experts.build_start.fn(steps.start(chosen), prepared)
        refs = Refs(prepared, embeddings, start)
        expert = train_experts.train_expert.fn(steps.training(chosen), refs.inputs, 0)
        yield Refs(prepared, embeddings, start, [expert])


def _made(refs, name, *settings, **how):
    """A set with those that it begins with, by name."""
    made = {}
    distilled(params.load(settings), name, refs, made, {**HOW, **how})
    return made


def _begins_with(pairs, earlier):
    images, texts = pairs.images[: earlier.num_pairs], pairs.text_embeds[: earlier.num_pairs]
    return torch.equal(images, earlier.images) and torch.equal(texts, earlier.text_embeds)


def test_a_larger_set_begins_with_the_smaller_one_which_is_its_input(refs):
    alone = _made(refs, SMALL)[SMALL]
    made = _made(refs, LARGE, *GROWN)
    # Its key has no part of what it does not do
    assert made[SMALL].is_cached and made[SMALL].digest == alone.digest
    pairs = load_pairs(made[LARGE].folder)
    assert pairs.num_pairs == 6 and _begins_with(pairs, load_pairs(alone.folder))
    manifest = artifacts.verify(made[LARGE].folder)
    assert manifest.inputs["begin_with"] == alone.digest
    assert pairs.provenance["begins_with"] == {"set": "bi_trajectory-4", "num_pairs": 4}
    assert len(set(pairs.provenance["image_idx"])) == 6
    again = _made(refs, LARGE, *GROWN)
    assert all(ref.is_cached for ref in again.values())
    forced = _made(refs, LARGE, *GROWN, force=True)
    assert forced[SMALL].is_cached and not forced[LARGE].is_cached
    assert forced[LARGE].digest == made[LARGE].digest
    other = _made(refs, LARGE, GROWN[0])
    assert other[SMALL].is_cached and other[LARGE].digest != made[LARGE].digest
    assert not _begins_with(load_pairs(other[LARGE].folder), load_pairs(alone.folder))
    assert list(_made(refs, LARGE)) == [LARGE]


def test_a_set_that_grew_is_exported_for_parameters_that_grow_it_alone(refs):
    _made(refs, LARGE, *GROWN)
    assert open_source(params.load(GROWN), str(LARGE)).pairs.num_pairs == 6
    with pytest.raises(ValueError, match=r"bi_trajectory-6: changed .*begin_with"):
        open_source(params.load(), str(LARGE))


def test_a_set_goes_on_from_an_imported_one_and_has_a_gallery(refs):
    torch.save(published(), "set.pt")
    theirs = import_set(params.load(), Path("set.pt"), "theirs", STATED)
    settings = ("methods.imported=[theirs-4]", "distill.matching.begin_with=[theirs-4]", GROWN[1])
    made = _made(refs, LARGE, *settings)
    pairs, earlier = load_pairs(made[LARGE].folder), load_pairs(theirs[1].folder)
    assert _begins_with(pairs, earlier) and made[theirs[0]].digest == theirs[1].digest
    chosen = params.load(settings)
    shown = (steps.showing(chosen, LARGE), refs.prepared, refs.embeddings, made[LARGE])
    gallery = json.loads((evaluate.make_gallery.fn(*shown).folder / "gallery.json").read_text())
    for row in gallery["rows"][:4]:
        assert row["initial_caption"] == row["nearest_sentence"]
    grown = _made(refs, SMALL, *settings, "distill.matching.earlier_lr_scale=1.0")
    same_size = load_pairs(grown[SMALL].folder)
    assert same_size.num_pairs == 4 and not _begins_with(same_size, earlier)
    words = r"begin_with: received a set of storage float32; allowed is uint8"
    with pytest.raises(ValueError, match=words):
        _made(refs, LARGE, *settings, "distill.matching.storage=uint8")
