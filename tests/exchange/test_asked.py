"""A stored set that the present parameters do not ask for is refused by the parameter's name, and
what has no part in it does not matter.
"""

from __future__ import annotations

import contextlib
import shutil
from dataclasses import replace

import pytest
import torch

from tasks.exchange.found import imported
from tasks.exchange.imports import import_set
from tasks.exchange.source import open_source
from tasks.settings import params, steps
from tasks.store import manifests
from tests.exchange.test_imports import STATED, published


def asked(made, *settings):
    with contextlib.chdir(made[0]):
        return params.load(settings)


@pytest.mark.parametrize(
    ("name", "setting", "words"),
    [
        ("bi_trajectory-4", "distill.matching.iterations=9", "method.options.iterations 2 -> 9"),
        ("bi_trajectory-4", "model.tau=0.5", "bi_trajectory-4: changed model.tau 0.07 -> 0.5"),
        ("lors-4", "distill.options.lors.sim_rank=2", "lors-4: changed method.options.sim_rank"),
        ("lors-4", "train_experts.lr_img=0.5", "expert_000: changed train_experts.lr_img 0.02"),
        ("lors-4", "train_experts.num_experts=3", "lors-4: changed input expert_002"),
        ("herding-4", "train_experts.coreset_epochs=2", "herding-4: changed coreset_epochs 3 -> 2"),
        ("herding-4", "train_experts.batch_size=8", "expert_000: changed train_experts.batch_size"),
        ("herding-4", "seed=3", "start: changed seed 0 -> 3"),
        ("herding-4", "prepare_data.options.seed=5", "prepared: changed options.seed 0 -> 5"),
    ],
)
def test_a_set_of_other_parameters_is_not_exported(name, setting, words, made, inside):
    with pytest.raises(
        ValueError, match=r"SET: received .* otherwise than the parameters"
    ) as error:
        open_source(asked(made, setting), name)
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("bi_trajectory-4", "evaluate.small.num_epochs=9"),
        ("bi_trajectory-4", "distill.options.lors.sim_rank=2"),
        ("bi_trajectory-4", "distill.matching.checkpoint_every=1"),
        ("herding-4", "train_experts.num_experts=3"),
        ("herding-4", "distill.matching.iterations=9"),
    ],
)
def test_what_has_no_part_in_a_set_does_not_matter(name, setting, made, inside):
    assert str(open_source(asked(made, setting), name).name) == name


def test_other_code_and_experts_that_are_gone_do_not_matter(made, folder):
    own = steps.distillation(made[1], open_source(made[1], "lors-4").name).folder
    manifests.write(own, replace(manifests.read(own), code="0" * 64, key="0" * 64))
    for expert in steps.training(made[1]).folder.glob("expert_*"):
        shutil.rmtree(expert)
    assert open_source(made[1], "lors-4").pairs.num_pairs == 3


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("prepare_data.image_size=16", "prepared: changed image_size 32 -> 16"),
        ("embed_captions.options.dim=64", "embeddings: changed options.dim 256 -> 64"),
        ("model.options.mean=[0.1, 0.1, 0.1]", "start: changed options.mean null -> [0.1, 0.1, 0."),
    ],
)
def test_an_imported_set_is_refused_by_parameters_where_nothing_is_made(
    setting, words, made, folder
):
    torch.save(published(), folder / "set.pt")
    import_set(made[1], folder / "set.pt", "theirs", STATED)
    for place in (folder / "data").iterdir():
        if place.is_dir() and place.name != "imported":
            shutil.rmtree(place)
    named = "methods.imported=[theirs-4]"
    assert set(imported(asked(made, named))) == {"theirs-4"}
    with pytest.raises(ValueError, match="imported for other") as error:
        imported(asked(made, named, setting))
    assert words in str(error.value)


def test_a_set_is_not_imported_for_artifacts_of_other_parameters(made, folder):
    torch.save(published(), folder / "set.pt")
    chosen = asked(made, "prepare_data.options.seed=5")
    with pytest.raises(ValueError, match=r"prepared/toy: received .*seed 0 -> 5.*train_experts` f"):
        import_set(chosen, folder / "set.pt", "theirs", STATED)
    assert not (folder / "data/imported").exists()


def test_an_older_import_is_imported_again(made, folder):
    torch.save(published(), folder / "set.pt")
    place = import_set(made[1], folder / "set.pt", "theirs", STATED)[1].folder
    found = manifests.read(place)
    manifests.write(place, replace(found, facts={"git": found.facts["git"]}))
    with pytest.raises(ValueError, match=r"versions: it does not say.*import it again"):
        imported(asked(made, "methods.imported=[theirs-4]"))
