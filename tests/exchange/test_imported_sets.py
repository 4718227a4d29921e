"""Which imported sets the parameters may name, and which of them still fit today's profile."""

from __future__ import annotations

import contextlib
import shutil
from dataclasses import replace

import pytest
import torch

from tasks.exchange.export import Choice, export
from tasks.exchange.found import imported, without_words
from tasks.exchange.imports import import_set
from tasks.exchange.published import Stated
from tasks.exchange.source import open_source
from tasks.planning.plan import make_plan
from tasks.settings import params
from tests.exchange.conftest import inputs_of
from tests.exchange.test_imports import STATED, published
from tests.exchange.test_real_pairs import a_folder


def test_the_parameters_name_imported_sets_of_sizes_with_random_beside(made, folder):
    with contextlib.chdir(made[0]):
        chosen = params.load(["methods.imported=[theirs-4]"])
        for value, match in (
            ("[theirs-5]", r"received 'theirs-5'; allowed is .* a size of `budgets` \(4\)"),
            ("[theirs]", r"received the set name 'theirs'"),
            ("[full-4]", r"received 'full-4'; allowed is .* not `full`"),
            ("[mine-decoded-4]", r"received 'mine-decoded-4'; allowed is .* without `-decoded`"),
            ("[lors-4]", r"received 'lors-4'; allowed is a name that no method has"),
            ("[../x-4]", r"the set '../x'"),
            ("[a-4, a-4]", "a list of different names"),
            ("theirs-4", "a list of different names"),
        ):
            with pytest.raises(ValueError, match=match):
                params.load([f"methods.imported={value}"])
    with pytest.raises(FileNotFoundError, match=r"theirs-4 is not there; run `vl-distillery impor"):
        imported(chosen)
    torch.save(published(), folder / "set.pt")
    ref = import_set(chosen, folder / "set.pt", "theirs", STATED)[1]
    assert imported(chosen)["theirs-4"].digest == ref.digest


@pytest.mark.parametrize(
    ("setting", "item"),
    [
        ("embed_captions.options.seed=1", "embeddings"),
        ("embed_captions.options.dim=64", "embeddings"),
        ("model.options.mean=[0.1, 0.1, 0.1]", "start"),
        ("prepare_data.image_size=16", "prepared"),
        ("prepare_data.options.seed=5", "prepared"),
    ],
)
def test_a_set_of_another_profile_of_today_is_refused(setting, item, made, folder):
    for name in ("params.yaml", "presets.yaml"):
        shutil.copy(made[0] / name, folder)
    torch.save(published(), folder / "set.pt")
    import_set(made[1], folder / "set.pt", "theirs", STATED)
    before = params.load(["methods.imported=[theirs-4]"])
    imported(before, inputs_of(before).digests())
    after = params.load(["methods.imported=[theirs-4]", setting])
    match = rf"received 'theirs-4', imported for other .*{item}.*import it again"
    with pytest.raises(ValueError, match=match):
        make_plan(after, folder / "none")
    with pytest.raises(ValueError, match=match):
        imported(after, inputs_of(after).digests())


def test_texts_of_ids_and_of_real_pairs_are_sentences_and_others_are_not(made, folder):
    chosen = made[1]
    torch.save(published(), folder / "set.pt")
    sources = {
        "vectors": (folder / "set.pt", STATED),
        "ids": (folder / "herding-4/ids.csv", Stated()),
        "photos": (a_folder(folder / "photos"), Stated("hashed_256")),
    }
    choice = Choice("folder", "png", False, "unknown", "unknown")
    for name, kind in (("herding-4", "selected"), ("bi_trajectory-4", "distilled")):
        export(open_source(chosen, name), folder / name, choice)
        sources[kind] = (folder / name, Stated())
    found = {}
    for name, (path, stated) in sources.items():
        set_name, ref = import_set(chosen, path, name, stated)
        found[str(set_name)] = ref
    assert set(without_words(found)) == {"vectors-4", "distilled-4"}


@pytest.mark.parametrize("name", ["random", "lors", "full", "theirs"])
def test_a_name_or_size_that_the_parameters_refuse_is_not_imported(name, made, folder):
    odd = {item: rows[:3] for item, rows in published().items()}
    torch.save(odd if name == "theirs" else published(), folder / "set.pt")
    size = 3 if name == "theirs" else 4
    with pytest.raises(ValueError, match=rf"--as: received '{name}-{size}'; allowed is a name"):
        import_set(made[1], folder / "set.pt", name, STATED)
    assert not (folder / "data/imported").exists()


def test_an_imported_set_is_not_exported(made, folder):
    torch.save(published(), folder / "set.pt")
    name = import_set(made[1], folder / "set.pt", "theirs", STATED)[0]
    with pytest.raises(ValueError, match=r"SET: received 'theirs-4'.*; of an imported set, pass"):
        open_source(replace(made[1], imported=(name,)), "theirs-4")
