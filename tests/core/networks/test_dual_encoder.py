"""The dual encoder trains what its trainable set says, and its flat form equals the module and the
unrolled gradient.
"""

import pytest
import timm
import torch

from tasks.core.foundations.seeding import make_generator
from tasks.core.hypergradient.trajectory import trajectory_gradient
from tasks.core.networks.dual_encoder import Projection, build_dual_encoder
from tasks.core.networks.functional import FlatModel
from tasks.core.training.losses import info_nce


def _model(trainable, name="test_vit", embed_dim=None):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = timm.create_model(
            name, num_classes=0, **({"img_size": 32} if "vit" in name else {})
        )
    model = build_dual_encoder(
        encoder,
        out_dim=encoder.num_features,
        text_dim=6,
        trainable=trainable,
        embed_dim=embed_dim,
        dropout=0.1,
        seed=1,
    )
    return model.double()


@pytest.mark.parametrize(
    ("trainable", "embed_dim"), [("full", None), ("heads", 7), ("text_head", None)]
)
def test_flat_model_equals_the_module(trainable, embed_dim):
    model = _model(trainable, embed_dim=embed_dim)
    flat = FlatModel(model)
    images = torch.randn(3, 3, 32, 32, generator=make_generator(0), dtype=torch.float64)
    texts = torch.randn(3, 6, generator=make_generator(1), dtype=torch.float64)
    theta = flat.flatten()
    assert (theta["img"].numel() > 0) == (trainable != "text_head")
    for got, expected in zip(
        flat.call(theta, images, texts, make_generator(5)),
        model(images, texts, make_generator(5)),
        strict=True,
    ):
        assert torch.equal(got, expected)
        assert torch.allclose(got.norm(dim=1), torch.ones(3, dtype=torch.float64))


@pytest.mark.parametrize("name", ["test_vit", "test_nfnet"])
@pytest.mark.parametrize(
    ("engine", "bound"),
    [("double_backward", 1e-9), ("forward_over_reverse", 1e-9), ("central_difference", 1e-5)],
)
def test_engines_agree_with_unroll_on_real_networks_with_dropout(name, engine, bound):
    flat = FlatModel(_model("full", name))
    inputs = {
        "images": torch.randn(4, 3, 32, 32, generator=make_generator(0), dtype=torch.float64),
        "text_embeds": torch.randn(4, 6, generator=make_generator(1), dtype=torch.float64),
    }
    theta = flat.flatten()
    goal = {
        g: v + 0.01 * torch.randn(v.shape, generator=make_generator(2, g), dtype=v.dtype)
        for g, v in theta.items()
    }

    def loss(at, rows, step):
        return info_nce(
            *flat.call(at, rows["images"], rows["text_embeds"], make_generator(3, step))
        )

    def terminal(end):
        return sum(
            (end[g] - goal[g]).square().sum() / (theta[g] - goal[g]).square().sum() for g in theta
        )

    def gradient(engine):
        logs = {g: torch.tensor(0.05, dtype=torch.float64).log() for g in theta}
        found = trajectory_gradient(
            loss,
            theta,
            inputs,
            [torch.tensor([0, 1, 2]), torch.tensor([3, 0, 2])],
            logs,
            terminal,
            engine=engine,
        )
        return torch.cat(
            [v.reshape(-1) for v in (*found.inputs.values(), *found.log_step_sizes.values())]
        )

    expected = gradient("unroll")
    assert float((gradient(engine) - expected).norm() / expected.norm()) <= bound


def test_settings_that_would_be_ignored_are_refused():
    with pytest.raises(ValueError, match="embed_dim is for `heads` only"):
        _model("full", embed_dim=7)
    with pytest.raises(ValueError, match="available: full, lora, heads, text_head"):
        _model("all")


def _head(hidden_layers):
    draw = make_generator(3)
    head = Projection(5, 7, dropout=0.0, generator=draw, hidden_layers=hidden_layers)
    return head.double()


def test_a_projection_of_one_hidden_layer_is_the_paper_s():
    head, plain = _head(1), Projection(5, 7, dropout=0.0, generator=make_generator(3)).double()
    names = ["projection.weight", "projection.bias", "fc.weight", "fc.bias"]
    assert list(head.state_dict()) == [*names, "norm.weight", "norm.bias"]
    for name, weights in plain.state_dict().items():
        assert torch.equal(head.state_dict()[name], weights)


@pytest.mark.parametrize("hidden_layers", [0, 1, 2, 3])
def test_a_projection_repeats_its_hidden_layer(hidden_layers):
    head, x = _head(hidden_layers), torch.randn(4, 5, generator=make_generator(4)).double()
    weights = [p for p in head.parameters() if p.ndim == 2]
    biases = [p for name, p in head.named_parameters() if name.endswith("bias")]
    assert len(weights) == 1 + hidden_layers
    p = hidden = x @ weights[0].T + biases[0]
    for weight, bias in zip(weights[1:], biases[1:-1], strict=True):
        hidden = torch.nn.functional.gelu(hidden) @ weight.T + bias
    total = p if hidden_layers == 0 else hidden + p
    expected = torch.nn.functional.layer_norm(total, (7,))
    assert torch.allclose(head(x), expected, atol=1e-12)
