"""Heads on the features of an encoder tell features that say something from those that do not."""

from dataclasses import replace

import torch

from tasks.core.evaluation.heads import NUM_STUDENTS, recalls_of_heads
from tasks.core.foundations.seeding import make_generator
from tests.core.hypergradient.small_problem import CPU, make_encoder, make_split

HOW = {"dropout": 0.1, "tau": 0.07, "seed": 3, "device": CPU}


def test_features_of_colours_find_captions_of_colours_and_noise_does_not():
    encoder = make_encoder()
    train, val = make_split(0, 200, encoder=encoder), make_split(1, 41, encoder=encoder)
    found = recalls_of_heads(encoder, train, val, **HOW)
    assert len(found) == NUM_STUDENTS and len(set(found)) > 1
    assert found == recalls_of_heads(encoder, train, val, **HOW)
    draw = make_generator(4)
    noise = [
        replace(split, features=torch.randn(split.features.shape, generator=draw))
        for split in (train, val)
    ]
    assert min(found) > 2.0 * max(recalls_of_heads(encoder, *noise, **HOW))
