"""What the core computes on a CUDA card is what it computes on the CPU; skipped where there is no
card.

Every other test of the core runs on the CPU. Here the same small problems go to the card, in
float64 against the oracle where that tells more, otherwise in float32 against the CPU, without
dropout (whose masks are drawn on the device).
"""

from dataclasses import replace

import pytest
import torch

from tasks.core.distillation.distillers import bi_trajectory, lors, meta_model, repblend
from tasks.core.evaluation.retrieval import recall
from tasks.core.evaluation.students import train_student
from tasks.core.foundations.seeding import make_generator
from tasks.core.hypergradient.trajectory import trajectory_gradient
from tasks.core.networks.encoders import encode_images
from tasks.core.networks.frozen_features import prepare_frozen
from tasks.core.networks.precision import products, student_model
from tasks.core.training.augment import AugmentSection, augment
from tasks.core.training.experts import train_expert
from tasks.core.training.split_pairs import SplitPairs
from tests.core.hypergradient.engine_problems import (
    BATCH,
    BOUNDS,
    NETWORKS,
    make_flat,
    make_trajectory,
    relative_errors,
    solved,
    student_loss,
)
from tests.core.hypergradient.small_problem import (
    CPU,
    MATCHING,
    NO_AUGMENT,
    RECIPE,
    SECTION,
    SIZE,
    make_encoder,
    make_model,
    make_problem,
    make_split,
)

if not torch.cuda.is_available():
    pytest.skip("no GPU", allow_module_level=True)

CUDA = torch.device("cuda")
EXACT = ("double_backward", "forward_over_reverse")
SOFT = {
    "loss": "ence",
    "lr_sim": 0.02,
    "sim_rank": 2,
    "sim_alpha": 1.0,
    "is_budget_compensated": False,
}
STILL = {**MATCHING, "iterations": 3, "optimiser": "sgd", "momentum": 0.0, "is_dropout_on": False}
METHODS = {
    "bi_trajectory": (bi_trajectory, bi_trajectory.Config(**STILL, include_positive=True)),
    "lors": (lors, lors.Config(**STILL, **SOFT)),
    "repblend": (repblend, repblend.Config(**STILL, **SOFT)),
    "meta_model": (
        meta_model,
        meta_model.Config(**STILL, real_batch_size=16, start_from="fresh", warm_start=None),
    ),
}


@pytest.fixture(scope="module", params=NETWORKS)
def case(request):
    return solved(request.param, CUDA)


@pytest.mark.parametrize(("engine", "bound"), BOUNDS.items())
def test_engines_equal_unrolled_autograd_in_float64(case, engine, bound):
    _, flat, trajectory, oracle = case
    found = trajectory_gradient(student_loss(flat), engine=engine, **trajectory)
    assert max(relative_errors(found, oracle).values()) <= bound


@pytest.mark.parametrize("engine", [*EXACT, "central_difference"])
def test_micro_batches_and_theta_in_pinned_memory_change_nothing(case, engine):
    name, flat, trajectory, _ = case
    if name == "heads":
        pytest.skip("its encoder is frozen: there is no pass of it to cut")
    trajectory = {
        **trajectory,
        "inputs": {n: trajectory["inputs"][n] for n in ("images", "text_embeds")},
    }

    def loss_fn(theta, rows, step):
        rows = {**rows, "left": rows["text_embeds"][:, :2], "right": rows["text_embeds"][:, 2:4]}
        return student_loss(flat)(theta, rows, step)

    whole = trajectory_gradient(loss_fn, engine=engine, **trajectory)
    cut = trajectory_gradient(
        loss_fn, engine=engine, encode=flat.encode, micro_batch=BATCH - 1, **trajectory
    )
    hosted = trajectory_gradient(loss_fn, engine=engine, is_theta_on_host=True, **trajectory)
    assert max(relative_errors(cut, whole).values()) <= (1e-9 if engine in EXACT else 1e-5)
    assert max(relative_errors(hosted, whole).values()) <= (1e-12 if engine in EXACT else 1e-5)


@pytest.mark.parametrize(
    ("engine", "bound"), [("central_difference", 5e-3), ("forward_difference", 4e-2)]
)
def test_differences_are_good_enough_in_float32(case, engine, bound):
    name, _, _, oracle = case
    flat = make_flat(name, torch.float32, CUDA)
    found = trajectory_gradient(student_loss(flat), engine=engine, **make_trajectory(name, flat))
    assert max(relative_errors(found, oracle).values()) <= bound


@pytest.mark.parametrize(("precision", "bound"), [("tf32", 0.1), ("bfloat16", 0.3)])
def test_rounded_products_give_a_gradient_near_that_of_float32(case, precision, bound):
    """As on the CPU, a MobileNet that is trained as a whole is not among them."""
    name, _, _, oracle = case
    if name in ("mobile_net", "hard_net"):
        pytest.skip("bfloat16 is not for this network")
    flat = make_flat(name, torch.float32, CUDA)
    rounded = student_model(flat, precision, is_compiled=False)
    with products(precision):
        found = trajectory_gradient(
            student_loss(rounded), engine="double_backward", **make_trajectory(name, flat)
        )
    errors = relative_errors(found, oracle)
    assert max(errors.values()) <= bound
    assert name == "heads" or errors["images"] > 3e-5  # float32 agrees to less


@pytest.mark.parametrize("trainable", ["full", "heads", "text_head"])
@pytest.mark.parametrize("method", METHODS)
def test_methods_distil_the_same_set(tmp_path, method, trainable):
    module, config = METHODS[method]
    if method == "repblend" and trainable == "full":
        pytest.skip("it blends features of a frozen encoder")
    here, there = (
        make_problem(tmp_path / device.type, trainable, device) for device in (CPU, CUDA)
    )
    expected, found = (module.distill(problem, config, 6) for problem in (here, there))
    assert found.history[-1]["loss"] == pytest.approx(expected.history[-1]["loss"], rel=1e-3)
    for name in ("images", "text_embeds"):
        before = getattr(expected.initial, "images" if name == "images" else "text_embeds")
        got, wanted = (getattr(distilled.pairs, name) - before for distilled in (found, expected))
        assert getattr(found.pairs, name).device.type == "cpu"
        assert float((got - wanted).norm()) <= 5e-3 * float(wanted.norm()) + 1e-7


@pytest.mark.parametrize(
    "change",
    [
        {"precision": "tf32"},
        {"precision": "bfloat16", "engine": "double_backward"},
        {"is_theta_on_host": True},
        {"micro_batch": 2},
        {"is_compiled": True},
        {"goals_per_iteration": 2},
        {"engine": "forward_over_reverse", "student_momentum": 0.9},
    ],
    ids=str,
)
# Torch hides it itself, unless warnings are errors
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
@pytest.mark.parametrize("trainable", ["full", "heads"])
def test_options_run_and_leave_finite_numbers(tmp_path, trainable, change):
    if change.get("is_theta_on_host") and trainable == "heads":
        change = {**change, "engine": "double_backward"}
    config = replace(METHODS["bi_trajectory"][1], is_dropout_on=True, **change)
    found = bi_trajectory.distill(make_problem(tmp_path, trainable, CUDA), config, 6)
    assert bool(found.pairs.images.isfinite().all()) and len(found.history) == config.iterations


@pytest.mark.parametrize("trainable", ["full", "heads"])
def test_a_killed_run_goes_on_from_its_checkpoint(tmp_path, trainable):
    problem, config = (
        make_problem(tmp_path, trainable, CUDA),
        replace(METHODS["bi_trajectory"][1], iterations=7, optimiser="adam"),
    )
    whole = bi_trajectory.distill(problem, config, 6)
    checkpoint = tmp_path / "checkpoint.safetensors"

    def stop(row, iteration):
        if iteration == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bi_trajectory.distill(problem, config, 6, checkpoint=checkpoint, log=stop)
    done = []
    again = bi_trajectory.distill(
        problem,
        config,
        6,
        checkpoint=checkpoint,
        log=lambda row, iteration: done.append(iteration),
    )
    assert done == [5, 6] and len(again.history) == 7  # a checkpoint every five iterations
    assert torch.allclose(again.pairs.images, whole.pairs.images, atol=1e-3)


def test_views_and_dropped_features_stay_on_the_card(tmp_path):
    config = replace(METHODS["bi_trajectory"][1], num_views=2, feature_dropout=0.3)
    for optimise in ("both", "text"):
        found = bi_trajectory.distill(
            make_problem(tmp_path / optimise, "heads", CUDA),
            replace(config, optimise=optimise),
            6,
        )
        assert bool(found.pairs.text_embeds.isfinite().all())


@pytest.mark.parametrize("trainable", ["full", "heads"])
def test_experts_and_students_are_trained_alike(trainable):
    found = {}
    for device in (CPU, CUDA):
        encoder = make_encoder()
        encoder.module.to(device)
        frozen = make_encoder() if trainable == "heads" else None
        model = make_model(encoder, trainable).to(device)
        for projection in filter(None, (model.image_projection, model.text_projection)):
            projection.dropout = 0.0
        train, val, test = (make_split(seed, 23, encoder=frozen) for seed in (0, 1, 2))
        pairs = SplitPairs(train, encoder, NO_AUGMENT, device=device)
        snapshots, losses = train_expert(
            model, pairs, SECTION, tau=0.07, seed=5, is_start_shared=True, index=0
        )
        outcome = train_student(
            model,
            pairs,
            RECIPE,
            step_sizes=None,
            protocol="strict",
            encoder=encoder,
            val=val,
            test=test,
            score=recall,
            tau=0.07,
            seed=1,
        )
        found[device.type] = snapshots, losses, outcome
    (here, losses, outcome), (there, other_losses, other) = found["cpu"], found["cuda"]
    assert other_losses == pytest.approx(losses, rel=1e-4)
    assert all(torch.allclose(there[name], here[name], rtol=1e-3, atol=1e-4) for name in here)
    assert other.test["mean_recall"] == pytest.approx(outcome.test["mean_recall"], abs=5.0)


def test_images_are_augmented_and_encoded_alike():
    images = torch.randint(0, 256, (40, 48, 40, 3), dtype=torch.uint8, generator=make_generator(0))
    section = AugmentSection(crop_scale=0.5, flip=True, randaugment_ops=2, randaugment_magnitude=5)
    here, there = (
        augment(images.to(device), section, make_generator(1)).cpu() for device in (CPU, CUDA)
    )
    off = (here.int() - there.int()).abs()
    # A rounding of the crop may decide what `equalize` does
    assert float((off <= 2).float().mean()) > 0.98
    stored = make_split(num_images=11).images
    assert torch.allclose(
        *(encode_images(make_encoder(), stored, device=device) for device in (CPU, CUDA)),
        rtol=1e-3,
        atol=1e-3,
    )


def test_a_folded_encoder_goes_back_to_the_card():
    import timm

    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = timm.create_model("mobilenetv2_035", num_classes=0).eval().to(CUDA)
    images = torch.randn(3, 3, 32, 32, generator=make_generator(0)).to(CUDA)
    folded = prepare_frozen(encoder, images.cpu())
    assert next(folded.parameters()).device.type == "cuda"
    assert not any(isinstance(part, torch.nn.BatchNorm2d) for part in folded.modules())
    with torch.no_grad():
        assert torch.allclose(folded(images), encoder(images), rtol=1e-2, atol=1e-2)


def test_recall_is_counted_alike():
    images = torch.nn.functional.normalize(
        torch.randn(50, SIZE, generator=make_generator(0)), dim=1
    )
    owner = torch.arange(50).repeat_interleave(3)
    texts = torch.nn.functional.normalize(
        images[owner] + 0.5 * torch.randn(150, SIZE, generator=make_generator(1)), dim=1
    )
    assert recall(images.to(CUDA), texts.to(CUDA), owner.to(CUDA)) == recall(images, texts, owner)
