"""A probe of the network finds kinks that differences cannot follow and operations without second
derivatives, before any iteration.
"""

import dataclasses
import warnings

import pytest
import torch
from torch import nn

from tasks.core.distillation.distillers.bi_trajectory import Config, distill
from tasks.core.distillation.engine_probe import engine_of_network, examine, saved_bytes
from tasks.core.foundations.seeding import make_generator
from tasks.core.networks.dual_encoder import build_dual_encoder
from tasks.core.networks.functional import FlatModel
from tests.core.hypergradient.small_problem import MATCHING, make_model, make_problem

CONFIG = Config(**MATCHING, include_positive=True)
TEXT_DIM, WIDTH = 7, 32
EXACT = ("unroll", "double_backward", "forward_over_reverse", "tesla")


def _flat(activation, *, width=WIDTH):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = [
            nn.Conv2d(3, 16, 3),
            activation,
            nn.Conv2d(16, 16, 3),
            activation,
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        ]
        encoder = nn.Sequential(*layers, nn.Linear(16, width)).eval()
    return FlatModel(
        build_dual_encoder(
            encoder,
            out_dim=width,
            text_dim=TEXT_DIM,
            trainable="full",
            embed_dim=None,
            dropout=0.1,
            seed=0,
        )
    )


def _pairs(count=6):
    return torch.randn(count, 3, 24, 24, generator=make_generator(0, "x")), torch.randn(
        count, TEXT_DIM, generator=make_generator(0, "y")
    )


def _chosen(activation, engine, num_pairs=6):
    return engine_of_network(
        _flat(activation),
        dataclasses.replace(CONFIG, engine=engine),
        *_pairs(num_pairs),
        5,
        is_encoder_frozen=False,
    )


@pytest.mark.parametrize(
    ("activation", "engine"),
    [
        (nn.GELU(), "central_difference"),
        (nn.ReLU(), "central_difference"),
        (nn.SELU(), "double_backward"),
        (nn.Hardsigmoid(), "central_difference"),
    ],
    ids=str,
)
def test_auto_is_exact_on_networks_whose_kinks_are_not_held_and_differentiable_twice(
    activation, engine
):
    assert _chosen(activation, "auto") == engine == _chosen(activation, "auto", num_pairs=2)


@pytest.mark.parametrize("engine", EXACT)
def test_an_exact_engine_without_second_derivatives_is_refused_in_four_parts(engine):
    what, allowed = (
        rf"engine: received '{engine}', .* that Sequential does not have",
        "allowed are central_difference and .*; change",
    )
    with pytest.raises(ValueError, match=rf"{what} \(.*hardsigmoid_backward.*\); {allowed}"):
        _chosen(nn.Hardsigmoid(), engine)
    assert _chosen(nn.SELU(), engine) == engine


def test_distillation_refuses_it_before_the_first_iteration(tmp_path):
    problem = make_problem(tmp_path)
    broken = dataclasses.replace(
        problem.encoder, module=nn.Sequential(*problem.encoder.module, nn.Hardsigmoid())
    )
    problem, rows = (
        dataclasses.replace(problem, encoder=broken, flat=FlatModel(make_model(broken))),
        [],
    )
    with pytest.raises(ValueError, match=r"second derivatives that Sequential does not have"):
        distill(
            problem,
            dataclasses.replace(CONFIG, engine="double_backward"),
            6,
            log=lambda row, _: rows.append(row),
        )
    assert not rows
    found = distill(problem, dataclasses.replace(CONFIG, iterations=1), 6)
    assert len(found.history) == 1


@pytest.mark.parametrize("engine", ["central_difference", "forward_difference"])
def test_differences_that_are_wrong_on_a_network_are_named(engine):
    with pytest.warns(
        UserWarning,
        match=rf"engine: received '{engine}', but differences are off by \d+% of .* under "
        r"Sequential, .*allowed.*change",
    ):
        assert _chosen(nn.SELU(), engine) == engine
    for activation in (nn.GELU(), nn.ReLU(), nn.Hardsigmoid()):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert _chosen(activation, engine) == engine


def test_the_probe_finds_the_same_every_time_and_changes_nothing():
    flat, state = _flat(nn.ReLU()), torch.get_rng_state()
    before = {name: value.clone() for name, value in flat.model.state_dict().items()}
    first, second = (examine(flat, CONFIG, *_pairs(4), 5) for _ in range(2))
    assert first == second and 0.0 < first.error < 1e-2 and first.memory_bytes is None
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in flat.model.state_dict().items())


def test_the_graph_of_the_exact_engine_grows_with_the_images_alone():
    small, large = (saved_bytes(_flat(nn.GELU()), *_pairs(count)) for count in (3, 6))
    # Of three images; each layer keeps its input and what comes back from behind
    activations = 3 * 16 * (22 * 22 + 20 * 20) * 4
    assert 2 * activations < large - small < 6 * activations and large == pytest.approx(
        2 * small, rel=0.1
    )


def test_frozen_and_compiled_encoders_are_not_probed():
    """On both SELU would ask for second derivatives of the encoder."""
    flat = _flat(nn.SELU())
    for changes, is_frozen, engine in (
        ({}, True, "double_backward"),
        ({"is_compiled": True}, False, "central_difference"),
    ):
        config = dataclasses.replace(CONFIG, **changes)
        assert engine_of_network(flat, config, *_pairs(), 5, is_encoder_frozen=is_frozen) == engine
