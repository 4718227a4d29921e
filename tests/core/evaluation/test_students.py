"""Protocols choose their epoch as they say, the test split is scored once, and a set trains with
its own loss and step sizes.
"""

from dataclasses import replace

import pytest
import torch

from tasks.core.evaluation.retrieval import recall
from tasks.core.evaluation.students import train_student
from tasks.core.foundations.seeding import make_generator
from tasks.core.networks.encoders import normalise
from tasks.core.training.pair_set import PairSet, SetPairs, Similarity
from tasks.core.training.similarity import set_loss
from tasks.core.training.split_pairs import SplitPairs
from tests.core.hypergradient.small_problem import (
    CPU,
    NO_AUGMENT,
    RECIPE,
    TEXT_DIM,
    make_encoder,
    make_model,
    make_split,
)


def _train(protocol):
    calls = []

    def score(img, txt, owner):
        calls.append(1)
        return recall(img, txt, owner)

    encoder = make_encoder()
    outcome = train_student(
        make_model(encoder),
        SplitPairs(make_split(), encoder, NO_AUGMENT, device=CPU),
        RECIPE,
        step_sizes=None,
        protocol=protocol,
        encoder=encoder,
        val=make_split(1, 17),
        test=make_split(2, 19),
        score=score,
        tau=0.07,
        seed=1,
    )
    return outcome, len(calls)


def test_strict_takes_the_best_validation_epoch_and_touches_test_once():
    outcome, calls = _train("strict")
    best = max(outcome.curve, key=lambda row: row["val_mean_recall"])
    assert calls == 1 and outcome.chosen_epoch == best["epoch"]
    assert outcome.val["mean_recall"] == best["val_mean_recall"]
    assert [row["epoch"] for row in outcome.curve] == [2, 4]


def test_last_takes_the_last_epoch():
    outcome, calls = _train("last")
    assert (calls, outcome.chosen_epoch) == (1, 4)


def test_upstream_best_is_chosen_on_test():
    outcome, _ = _train("upstream_best")
    assert outcome.test["mean_recall"] == pytest.approx(
        max(row["test_mean_recall"] for row in outcome.curve)
    )
    assert outcome.curve[0]["epoch"] == 0


STEP = replace(RECIPE, num_epochs=1, batch_size=9)
TAU = 0.2


def _soft_set():
    """Seven pairs whose similarity is not symmetric and has entries above one half off the
    diagonal.
    """
    raw = torch.tensor(make_split(3, 7).images)
    draw = make_generator(4)
    rows = [torch.randn(7, 2, generator=draw) for _ in range(2)]
    soft = Similarity(torch.rand(7, generator=draw), *rows, alpha=1.5)
    mean = std = (0.5, 0.5, 0.5)
    texts, step_sizes = torch.randn(7, TEXT_DIM, generator=draw), {"img": 0.3, "txt": 0.4}
    return PairSet(
        normalise(raw, mean, std),
        texts,
        mean,
        std,
        similarity=soft,
        step_sizes=step_sizes,
        loss="wbce",
    )


def _one_step(pairs, loss_fn):
    """The parameters of a student after one step on the whole set, as `train_student` makes it."""
    encoder = make_encoder()
    model = make_model(encoder)
    train_student(
        model,
        SetPairs(pairs, device=CPU),
        STEP,
        step_sizes=pairs.step_sizes,
        protocol="last",
        encoder=encoder,
        val=make_split(1, 17),
        test=make_split(2, 19),
        score=recall,
        tau=TAU,
        seed=1,
        loss_fn=loss_fn,
    )
    return dict(model.named_parameters())


def _weighted_bce(img, txt, soft):
    """LoRS' wBCE, entry by entry."""
    terms = {True: [], False: []}
    for i in range(len(img)):
        for j in range(len(txt)):
            target = soft.alpha / 2 * (soft.left[i] * soft.right[j]).sum() + (
                soft.diagonal[i] if i == j else 0.0
            )
            p = torch.sigmoid((img[i] * txt[j]).sum() / TAU)
            terms[bool(target > 0.5)].append(-(target * p.log() + (1 - target) * (1 - p).log()))
    assert len(terms[True]) not in (0, 7)
    return 0.5 * sum(torch.stack(found).mean() for found in terms.values())


def test_a_step_with_a_soft_similarity_is_that_of_torch_optim_with_the_loss_written_out():
    pairs = _soft_set()
    found = _one_step(pairs, set_loss(pairs, TAU))

    model = make_model(make_encoder())
    groups = {"img": [], "txt": []}
    for name, parameter in model.named_parameters():
        groups["txt" if name.startswith("text_") else "img"].append(parameter)
    # Half-time of one epoch is its beginning: both step sizes are a tenth of the learned ones.
    rates = [{"params": groups[name], "lr": 0.1 * pairs.step_sizes[name]} for name in groups]
    optimiser = torch.optim.SGD(
        rates, lr=1.0, momentum=STEP.momentum, weight_decay=STEP.weight_decay
    )
    rows = torch.randperm(7, generator=make_generator(1, "order", 0))
    img, txt = model(pairs.images[rows], pairs.text_embeds[rows], make_generator(1, "dropout", 0))
    soft = replace(
        pairs.similarity,
        **{part: getattr(pairs.similarity, part)[rows] for part in ("diagonal", "left", "right")},
    )
    _weighted_bce(img, txt, soft).backward()
    optimiser.step()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(found[name], parameter, rtol=1e-5, atol=1e-6, msg=name)


def test_the_loss_of_a_set_decides_what_its_students_learn():
    pairs = _soft_set()
    soft, hard = _one_step(pairs, set_loss(pairs, TAU)), _one_step(pairs, None)
    assert not torch.equal(soft["text_projection.fc.weight"], hard["text_projection.fc.weight"])
    named = _one_step(pairs, set_loss(replace(pairs, loss="info_nce"), TAU))
    assert all(torch.equal(named[name], hard[name]) for name in hard)
