"""The reverse sweep needs the memory of one student step, however many there are, and T parameter
vectors (METHOD 5).
"""

import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tasks.core.distillation.segments import Segment
from tasks.core.foundations.seeding import make_generator
from tasks.core.hypergradient.engines import ENGINES
from tasks.core.hypergradient.student_step import draw_batches
from tasks.core.hypergradient.trajectory import trajectory_gradient
from tasks.core.networks.functional import FlatModel
from tasks.core.training.losses import info_nce
from tests.core.hypergradient.small_problem import TEXT_DIM, make_encoder, make_model

PAIRS, BATCH, SIZE, FEW, MANY = 9, 8, 40, 2, 12


class LiveTensors(TorchDispatchMode):
    """Bytes of all tensors that came into being since it began and are still there: now, and at
    most.
    """

    def __init__(self):
        super().__init__()
        self.now, self.peak, self._known = 0, 0, {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(found):
            if isinstance(tensor, torch.Tensor):
                self._note(tensor.untyped_storage())
        return found

    def _note(self, storage):
        place, size = storage._cdata, storage.nbytes()

        def forget(_):
            self.now -= size
            del self._known[place]

        if place not in self._known:
            self._known[place] = weakref.ref(storage, forget)
            self.now += size
            self.peak = max(self.peak, self.now)


def _peak(engine, steps):
    """Most bytes of tensors during one gradient, and the bytes of a parameter vector and of the
    rows of a batch.
    """
    flat = FlatModel(make_model(make_encoder()))
    theta = flat.flatten()
    goal = {
        group: value + 0.1 * torch.randn(value.shape, generator=make_generator(0, group))
        for group, value in theta.items()
    }
    inputs = {
        "images": torch.randn(PAIRS, 3, SIZE, SIZE, generator=make_generator(0, "images")),
        "text_embeds": torch.randn(PAIRS, TEXT_DIM, generator=make_generator(0, "texts")),
    }

    def loss(theta, rows, step):
        return info_nce(
            *flat.call(
                theta, rows["images"], rows["text_embeds"], make_generator(0, "dropout", step)
            )
        )

    batches = draw_batches(PAIRS, BATCH, steps, make_generator(1))
    logs = {group: torch.tensor(0.01).log() for group in theta}
    with LiveTensors() as live:
        trajectory_gradient(
            loss, theta, inputs, batches, logs, Segment.between(theta, goal).loss, engine=engine
        )
    rows = sum(value[:BATCH].nbytes for value in inputs.values())
    return live.peak, sum(value.nbytes for value in theta.values()), rows


@pytest.mark.parametrize("engine", [engine for engine in ENGINES if engine != "unroll"])
def test_memory_grows_with_the_steps_by_parameter_vectors_alone(engine):
    """Per step theta_t; `forward_difference` also keeps g_t and the gradient of the batch's
    rows.
    """
    (few, theta, rows), (many, _, _) = _peak(engine, FEW), _peak(engine, MANY)
    kept = 2 * theta + rows if engine == "forward_difference" else theta
    assert few > 1000 * theta  # a step's activations, beside which the vectors are nothing
    assert many - few <= 1.5 * (MANY - FEW) * kept


def test_memory_of_unrolled_steps_grows_with_every_one():
    few, many = _peak("unroll", FEW)[0], _peak("unroll", MANY)[0]
    assert many > 3 * few
