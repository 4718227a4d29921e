"""A student step cut into micro-batches has the gradient of the whole batch, whatever their size;
the head sees the batch.
"""

import pytest
import torch

from tasks.core.foundations.seeding import make_generator
from tasks.core.hypergradient.engines import ENGINES
from tasks.core.hypergradient.trajectory import trajectory_gradient
from tasks.core.training.losses import info_nce
from tests.core.hypergradient.engine_problems import make_flat, make_trajectory, relative_errors

NETWORK = "vit"


@pytest.fixture(scope="module")
def flat():
    return make_flat(NETWORK, torch.float64)


@pytest.fixture
def trajectory(flat):
    """Four of five pairs a step: 3 leaves a rest of 1. The similarity factors have no part here."""
    found = make_trajectory(NETWORK, flat)
    found["inputs"] = {name: found["inputs"][name] for name in ("images", "text_embeds")}
    found["batches"] = [torch.tensor([0, 3, 1, 4]), torch.tensor([2, 0, 4, 3])]
    return found


def _loss(flat):
    def loss_fn(theta, rows, step):
        return info_nce(
            *flat.call(
                theta, rows["images"], rows["text_embeds"], make_generator(3, "dropout", step)
            )
        )

    return loss_fn


@pytest.mark.parametrize(
    "engine", [name for name, engine in ENGINES.items() if "micro_batch" not in engine.cannot]
)
@pytest.mark.parametrize("size", [1, 3, 4])
def test_micro_batches_give_the_gradient_of_the_whole_batch(flat, trajectory, engine, size):
    # A finite difference divides the rounding of both ways by eps.
    bound = 1e-6 if "difference" in engine else 1e-12
    expected = trajectory_gradient(_loss(flat), engine=engine, **trajectory)
    found = trajectory_gradient(
        _loss(flat), engine=engine, encode=flat.encode, micro_batch=size, **trajectory
    )
    assert max(relative_errors(found, expected).values()) <= bound


@pytest.mark.parametrize(
    ("engine", "bound"),
    [
        ("double_backward", 1e-9),
        ("forward_over_reverse", 1e-9),
        ("central_difference", 1e-5),
        ("forward_difference", 1e-4),
    ],
)
def test_images_may_be_constant(flat, trajectory, engine, bound):
    images = {"images": trajectory["inputs"].pop("images")}
    expected = trajectory_gradient(_loss(flat), engine="unroll", constants=images, **trajectory)
    found = trajectory_gradient(
        _loss(flat),
        engine=engine,
        constants=images,
        encode=flat.encode,
        micro_batch=3,
        **trajectory,
    )
    assert list(found.inputs) == ["text_embeds"]
    assert max(relative_errors(found, expected).values()) <= bound


def test_networks_with_kinks_keep_their_pieces_in_micro_batches():
    flat = make_flat("mobile_net", torch.float64)
    trajectory = make_trajectory("mobile_net", flat)
    trajectory["inputs"] = {name: trajectory["inputs"][name] for name in ("images", "text_embeds")}
    expected = trajectory_gradient(_loss(flat), engine="unroll", **trajectory)
    found = trajectory_gradient(
        _loss(flat), engine="central_difference", encode=flat.encode, micro_batch=2, **trajectory
    )
    assert max(relative_errors(found, expected).values()) <= 1e-5


def test_memory_options_that_do_not_fit_are_refused(flat, trajectory):
    for engine in ("unroll", "tesla"):
        with pytest.raises(
            ValueError,
            match="allowed are double_backward, forward_over_reverse, central_difference, "
            "forward_difference",
        ):
            trajectory_gradient(
                _loss(flat), engine=engine, encode=flat.encode, micro_batch=2, **trajectory
            )
    with pytest.raises(ValueError, match="micro-batches need `encode` and at least 1 image"):
        trajectory_gradient(_loss(flat), engine="central_difference", micro_batch=2, **trajectory)
    with pytest.raises(ValueError, match="micro-batches need `encode` and at least 1 image"):
        trajectory_gradient(
            _loss(flat),
            engine="central_difference",
            encode=flat.encode,
            micro_batch=0,
            **trajectory,
        )
    del trajectory["inputs"]["images"]
    with pytest.raises(ValueError, match="`encode` needs rows called 'images'"):
        trajectory_gradient(
            _loss(flat), engine="central_difference", encode=flat.encode, **trajectory
        )


def test_parameter_vectors_on_the_host_change_nothing(flat, trajectory):
    expected = trajectory_gradient(_loss(flat), engine="forward_difference", **trajectory)
    found = trajectory_gradient(
        _loss(flat), engine="forward_difference", is_theta_on_host=True, **trajectory
    )
    assert max(relative_errors(found, expected).values()) == 0.0
