"""Small networks of each family, and a trajectory of three student steps on them, for tests of the
gradient engines.
"""

import timm
import torch

from tasks.core.distillation.segments import Segment
from tasks.core.foundations.seeding import derive_seed, make_generator
from tasks.core.hypergradient.student_step import draw_batches
from tasks.core.hypergradient.trajectory import Gradient, trajectory_gradient
from tasks.core.networks.dual_encoder import build_dual_encoder
from tasks.core.networks.encoders import ready
from tasks.core.networks.functional import FlatModel
from tasks.core.networks.lora import LoraSection
from tasks.core.training.student_losses import soft_contrastive

PAIRS, BATCH, STEPS, TEXT_DIM = 5, 3, 3, 7
# Largest relative error against `unroll` in float64.
BOUNDS = {
    "double_backward": 1e-9,
    "forward_over_reverse": 1e-9,
    "central_difference": 1e-5,
    "forward_difference": 1e-5,
}

# name -> (timm network, arguments, pixels, trainable set)
NETWORKS = {
    "nf_net": ("test_nfnet", {}, 40, "full"),
    "vit": ("test_vit", {"img_size": 32}, 32, "full"),
    "lora_vit": ("test_vit", {"img_size": 32}, 32, "lora"),
    "mobile_net": ("mobilenetv2_035", {}, 32, "full"),
    "hard_net": ("mobilenetv3_small_050", {}, 64, "full"),  # hard swish, hard sigmoid, ReLU
    "heads": ("test_vit", {"img_size": 32}, 32, "heads"),
}


def make_flat(name: str, dtype: torch.dtype, device: torch.device | str = "cpu") -> FlatModel:
    """Random weights, the same on every device; BatchNorm gets the statistics of noise images,
    frozen.
    """
    network, arguments, pixels, trainable = NETWORKS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(0, name))
        encoder = timm.create_model(network, num_classes=0, **arguments)
    _calibrate(encoder, torch.randn(32, 3, pixels, pixels, generator=make_generator(0, "noise")))
    encoder = ready(encoder)
    width = encoder(torch.zeros(1, 3, pixels, pixels)).shape[1]
    lora = (
        LoraSection(rank=4, alpha=4.0, targets=("attn.qkv", "attn.proj", "fc1", "fc2"))
        if trainable == "lora"
        else None
    )
    model = build_dual_encoder(
        encoder,
        out_dim=width,
        text_dim=TEXT_DIM,
        trainable=trainable,
        embed_dim=6 if trainable == "heads" else None,
        dropout=0.1,
        seed=0,
        lora=lora,
    )
    if lora is not None:
        # Adapters start at zero, where half of their gradients vanish.
        for parameter in (p for p in model.image_encoder.parameters() if p.requires_grad):
            parameter.data.normal_(
                std=0.1, generator=make_generator(0, "adapters", str(tuple(parameter.shape)))
            )
    return FlatModel(model.to(device, dtype))


def make_trajectory(name: str, flat: FlatModel) -> dict:
    """Arguments of `trajectory_gradient` but for `loss_fn`: images, texts and the two factors of a
    soft similarity as inputs.

    The numbers are the same on every device.
    """

    def draw(label, *shape):
        return torch.randn(*shape, generator=make_generator(0, label), dtype=torch.float64).to(
            flat.device, flat.dtype
        )

    pixels = NETWORKS[name][2]
    theta = flat.flatten()
    goal = {
        group: value + 5e-3 * value.norm() * draw("goal" + group, *value.shape) / len(value) ** 0.5
        for group, value in theta.items()
    }
    # Deep ReLU networks are curved so strongly that larger steps drown the gradient in float32.
    sizes = {"img": 1e-3 if name in ("mobile_net", "hard_net") else 0.02, "txt": 0.1}
    return {
        "theta0": theta,
        "inputs": {
            "images": draw("images", PAIRS, 3, pixels, pixels),
            "text_embeds": draw("texts", PAIRS, TEXT_DIM),
            "left": 0.3 * draw("left", PAIRS, 2),
            "right": 0.3 * draw("right", PAIRS, 2),
        },
        "batches": draw_batches(PAIRS, BATCH, STEPS, make_generator(1)),
        "log_step_sizes": {
            group: torch.tensor(size, dtype=flat.dtype, device=flat.device).log()
            for group, size in sizes.items()
        },
        "terminal": Segment.between(theta, goal).loss,
    }


def student_loss(flat: FlatModel):
    """Soft contrastive loss with dropout; the masks depend on the step only."""

    def loss_fn(theta, rows, step):
        img, txt = flat.call(
            theta,
            rows["images"],
            rows["text_embeds"],
            make_generator(3, "dropout", step, device=flat.device),
        )
        similarity = (
            torch.eye(len(img), dtype=img.dtype, device=img.device) + rows["left"] @ rows["right"].T
        )
        return soft_contrastive("wbce", img, txt, similarity)

    return loss_fn


def solved(name: str, device: torch.device | str = "cpu") -> tuple[str, FlatModel, dict, Gradient]:
    """The network's name, its float64 model, trajectory and oracle."""
    flat = make_flat(name, torch.float64, device)
    trajectory = make_trajectory(name, flat)
    return (
        name,
        flat,
        trajectory,
        trajectory_gradient(student_loss(flat), engine="unroll", **trajectory),
    )


def relative_errors(received, expected) -> dict[str, float]:
    """|received - expected| / |expected| of each input, and of the step sizes of both groups as one
    vector.
    """
    pairs = {name: (received.inputs[name], expected.inputs[name]) for name in expected.inputs}
    pairs["step_sizes"] = tuple(
        torch.stack(list(found.log_step_sizes.values())) for found in (received, expected)
    )
    return {
        name: float((a.double() - b.double()).norm() / b.double().norm())
        for name, (a, b) in pairs.items()
    }


def _calibrate(encoder: torch.nn.Module, images: torch.Tensor) -> None:
    norms = [
        module
        for module in encoder.modules()
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm)
    ]
    encoder.eval()
    for norm in norms:
        norm.train()
        norm.momentum = None
        norm.reset_running_stats()
    with torch.no_grad():
        encoder(images)
    encoder.eval()
