"""Flipped bytes in every kind of checkpoint: each is named, and the result is that of an
undisturbed run.
"""

import dataclasses
import random
import shutil

import pytest
import torch

from tasks.core.distillation.distillers import lors, meta_model
from tests.core.distillation.method_samples import LORS, META, WARM
from tests.core.hypergradient.small_problem import make_problem
from tests.core.training.test_experts import _train
from tests.faults.rounds import flip, rounds


class Killed(Exception):
    pass


def _expert(checkpoint=None, is_killed=False):
    snapshots, losses = _train(checkpoint, 2 if is_killed else None)
    return [snapshots[name] for name in sorted(snapshots)], losses


def _distilled(module, config, problem, last):
    def make(checkpoint=None, is_killed=False):
        def log(row, iteration):
            if is_killed and iteration == last:
                raise Killed

        found = module.distill(problem, config, 6, checkpoint=checkpoint, log=log)
        return [found.pairs.images, found.pairs.text_embeds], found.history

    return make


def _kinds(folder):
    problem = make_problem(folder, "heads")
    short = dataclasses.replace(LORS, iterations=5, checkpoint_every=1)
    warm = dataclasses.replace(META, warm_start=WARM, iterations=4, checkpoint_every=2)
    return {
        "expert": _expert,
        "distillation": _distilled(lors, short, problem, 3),
        "warm start": _distilled(meta_model, warm, problem, 8),
    }


def _outcome(make, *args):
    try:
        return make(*args)
    except Exception as stop:
        if "Killed" not in type(stop).__name__:
            raise
        return None


@pytest.mark.parametrize("kind", ["expert", "distillation", "warm start"])
def test_a_flipped_checkpoint_is_named_and_the_result_is_the_same(tmp_path, kind):
    make, draw = _kinds(tmp_path)[kind], random.Random(0)
    expected, history = make()
    clean = tmp_path / "clean"
    clean.mkdir()
    assert _outcome(make, clean / "c", True) is None
    names = sorted(path.name for path in clean.iterdir())
    assert len(names) >= 2
    for number in range(rounds(8)):
        place = tmp_path / f"round{number}"
        shutil.copytree(clean, place)
        name = names[number % len(names)]
        flip(place / name, draw)
        is_read = not name.endswith(".before")  # the one before is read where the last is damaged
        if not is_read:
            flip(place / name.removesuffix(".before"), draw)
        with pytest.warns(UserWarning, match=r"checkpoint .* does not match its sha256"):
            got, again = make(place / "c")
        assert all(map(torch.equal, got, expected)) and again == history
