"""Sections, plugins, seeding, records and tensor files."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tasks.core.foundations import plugins
from tasks.core.foundations.section import Range
from tasks.core.foundations.seeding import derive_seed, make_generator
from tasks.core.foundations.tensor_files import map_tensor, save_tensors
from tasks.core.training.pair_files import load_pairs, save_pairs
from tasks.core.training.pair_set import PairSet, Similarity


def test_names_give_independent_and_repeatable_generators():
    draw = torch.rand(3, generator=make_generator(1, "a"))
    assert torch.equal(draw, torch.rand(3, generator=make_generator(1, "a")))
    assert not torch.equal(draw, torch.rand(3, generator=make_generator(1, "b")))
    assert derive_seed(1, "a", 2) != derive_seed(1, "a", 3)


def test_range_names_what_is_allowed():
    with pytest.raises(ValueError, match="received 0, allowed is > 0 pairs"):
        Range(gt=0, unit="pairs").check(0)


def test_unknown_plugin_names_where_to_change_it():
    with pytest.raises(ValueError, match=r"'nope'.*available.*here\.yaml"):
        plugins.load("coresets", "nope", where="here.yaml")


def test_mapped_tensor_equals_what_was_saved(tmp_path):
    value = torch.randint(0, 255, (5, 3, 2), dtype=torch.uint8, generator=make_generator(0))
    save_tensors(tmp_path / "t.safetensors", {"b": torch.zeros(3), "a": value})
    mapped = map_tensor(tmp_path / "t.safetensors", "a")
    assert np.array_equal(mapped, value.numpy()) and not mapped.flags.writeable
    with pytest.raises(ValueError, match="'c'"):
        map_tensor(tmp_path / "t.safetensors", "c")


def test_pair_set_survives_the_disk_and_refuses_nan(tmp_path):
    generator = make_generator(0)
    images, texts = (
        torch.randn(3, 3, 5, 4, generator=generator),
        torch.randn(3, 7, generator=generator),
    )
    pairs = PairSet(
        images,
        texts,
        (0.5,) * 3,
        (0.5,) * 3,
        step_sizes={"img": 0.1, "txt": 0.2},
        provenance={"method": "random"},
    )
    save_pairs(tmp_path, pairs)
    again = load_pairs(tmp_path)
    assert torch.equal(again.images, images) and torch.equal(again.text_embeds, texts)
    assert (again.step_sizes, again.provenance, again.mean) == (
        pairs.step_sizes,
        pairs.provenance,
        pairs.mean,
    )
    with pytest.raises(ValueError, match="non-finite"):
        PairSet(images * float("nan"), texts, (0.5,) * 3, (0.5,) * 3)


@pytest.mark.parametrize("size", [0.0, -0.1, float("inf"), float("nan")])
def test_a_pair_set_has_positive_step_sizes(size):
    with pytest.raises(
        ValueError,
        match=r"PairSet\.step_sizes: received .*allowed are positive finite numbers; lower "
        r"lr_step_size",
    ):
        PairSet(
            torch.zeros(2, 3, 5, 4),
            torch.zeros(2, 7),
            (0.5,) * 3,
            (0.5,) * 3,
            step_sizes={"img": 0.1, "txt": size},
        )


@pytest.mark.parametrize("part", ["diagonal", "left", "right"])
def test_a_pair_set_has_a_finite_similarity(part):
    soft = Similarity(torch.ones(2), torch.ones(2, 3), torch.zeros(2, 3), alpha=1.0)
    soft = replace(soft, **{part: getattr(soft, part) / 0.0})
    with pytest.raises(ValueError, match=rf"PairSet\.sim_{part} has non-finite values"):
        PairSet(
            torch.zeros(2, 3, 5, 4),
            torch.zeros(2, 7),
            (0.5,) * 3,
            (0.5,) * 3,
            similarity=soft,
            loss="ence",
        )
