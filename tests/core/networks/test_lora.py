"""Adapters start as the seed says, leave the given encoder alone, and are all that an expert of
`lora` trains and stores.
"""

import pytest
import timm
import torch

from tasks.core.distillation.buffer import Buffer
from tasks.core.foundations.seeding import make_generator
from tasks.core.hypergradient.trajectory import trajectory_gradient
from tasks.core.networks.dual_encoder import build_dual_encoder
from tasks.core.networks.functional import FlatModel
from tasks.core.networks.lora import LORA_LINEAR, LoraSection, target_layers, with_adapters
from tasks.core.training.experts import SNAPSHOTS, save_snapshots, train_expert
from tasks.core.training.losses import info_nce
from tasks.settings import params
from tests.core.hypergradient.small_problem import CPU, SECTION
from tests.workspace import ROOT

LORA = LoraSection(rank=3, alpha=6.0, targets=LORA_LINEAR)
TEXT_DIM, WIDTH = 5, 64


def _encoder(name="test_vit", **kwargs):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return timm.create_model(name, num_classes=0, **kwargs).eval()


def _vit():
    return _encoder(img_size=32)


def _model(encoder, seed=1, lora=LORA, trainable="lora"):
    embed_dim = 7 if trainable == "heads" else None
    return build_dual_encoder(
        encoder,
        out_dim=WIDTH,
        text_dim=TEXT_DIM,
        trainable=trainable,
        embed_dim=embed_dim,
        dropout=0.1,
        seed=seed,
        lora=lora,
    )


def _inputs(num=4, dtype=torch.float32):
    images = torch.randn(num, 3, 32, 32, generator=make_generator(0), dtype=dtype)
    return {
        "images": images,
        "text_embeds": torch.randn(num, TEXT_DIM, generator=make_generator(1), dtype=dtype),
    }


class _Pairs:
    num_pairs = 6

    def take(self, rows, captions, pictures):
        inputs = _inputs(6)
        return inputs["images"][rows], inputs["text_embeds"][rows]


def test_adapters_and_the_text_projection_are_all_that_is_trained():
    model = _model(_vit())
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert all(
        "lora_A" in name or "lora_B" in name or name.startswith("text_projection.")
        for name in trained
    )
    assert sum("lora_A" in name for name in trained) == 6 * 4
    # Qkv, proj, fc1, fc2 of each of 6 blocks of width 64
    shapes = [(64, 192), (64, 64), (64, 192), (192, 64)]
    assert FlatModel(model).flatten()["img"].numel() == 6 * sum(3 * (a + b) for a, b in shapes)


def test_the_start_depends_on_the_seed_alone_and_leaves_the_encoder_as_it_was():
    encoder, images = _vit(), _inputs()["images"]
    with torch.no_grad():
        expected = encoder(images)
    state = torch.get_rng_state()
    with_adapters(encoder, LORA, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    first, other = _model(encoder), _model(encoder, seed=2)
    torch.rand(5)
    again = FlatModel(_model(encoder)).flatten()["img"]
    assert torch.equal(FlatModel(first).flatten()["img"], again)
    assert not torch.equal(FlatModel(other).flatten()["img"], again)
    with torch.no_grad():
        assert torch.equal(first.image_encoder(images), expected)  # B = 0
        for name, parameter in first.named_parameters():
            if "lora_B" in name:
                parameter.add_(0.1)
        assert not torch.allclose(first.image_encoder(images), expected)
        assert torch.equal(other.image_encoder(images), expected) and torch.equal(
            encoder(images), expected
        )
    assert all(parameter.requires_grad for parameter in encoder.parameters()) and not hasattr(
        encoder, "peft_config"
    )


def test_an_adapter_adds_alpha_over_rank_times_b_a_x():
    model = _model(_vit())
    layer = model.image_encoder.blocks[2].mlp.fc1
    down, up = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    torch.nn.init.normal_(up, generator=make_generator(4))
    x = torch.randn(5, 64, generator=make_generator(3))
    expected = x @ layer.base_layer.weight.T + layer.base_layer.bias + 2.0 * (x @ down.T @ up.T)
    assert torch.allclose(layer(x), expected, atol=1e-5)
    # U(+-1/8) has 0.58 / 8
    assert (
        float(down.detach().abs().max()) <= 64**-0.5 and float(down.detach().std()) > 0.4 * 64**-0.5
    )


def test_an_adapter_of_a_pointwise_convolution_is_the_same_product_at_every_pixel():
    convolutions = LoraSection(rank=3, alpha=6.0, targets=("conv_pw", "conv_pwl", "conv_head"))
    encoder = _encoder("mobilenetv2_035")
    adapted = with_adapters(encoder, convolutions, seed=1)
    images = _inputs(2)["images"]
    with torch.no_grad():
        assert torch.equal(adapted(images), encoder(images))  # B = 0
    layer = adapted.get_submodule("blocks.1.0.conv_pw")
    down, up = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    torch.nn.init.normal_(up, generator=make_generator(4))
    x = torch.randn(2, down.shape[1], 4, 5, generator=make_generator(3))
    change = torch.einsum("or,ri,bihw->bohw", up[:, :, 0, 0], down[:, :, 0, 0], x)
    assert torch.allclose(layer(x), layer.base_layer(x) + 2.0 * change, atol=1e-5)
    trained = [name for name, parameter in adapted.named_parameters() if parameter.requires_grad]
    pointwise = [
        m for m in encoder.modules() if isinstance(m, torch.nn.Conv2d) and m.kernel_size == (1, 1)
    ]
    assert len(trained) == 2 * len(pointwise) and all(
        "lora_A" in name or "lora_B" in name for name in trained
    )


@pytest.mark.parametrize(
    ("engine", "bound"),
    [("double_backward", 1e-9), ("forward_over_reverse", 1e-9), ("central_difference", 1e-5)],
)
def test_engines_agree_with_unroll_through_adapters(engine, bound):
    flat = FlatModel(
        _model(_vit(), lora=LoraSection(rank=2, alpha=2.0, targets=("attn.qkv", "fc2"))).double()
    )
    inputs, theta = _inputs(dtype=torch.float64), flat.flatten()
    # Away from B = 0, where A has no gradient.
    theta = {
        g: v + 0.05 * torch.randn(v.shape, generator=make_generator(2, g), dtype=v.dtype)
        for g, v in theta.items()
    }

    def gradient(engine):
        logs = {g: torch.tensor(0.05, dtype=torch.float64).log() for g in theta}
        found = trajectory_gradient(
            lambda at, rows, step: info_nce(
                *flat.call(at, rows["images"], rows["text_embeds"], make_generator(3, step)),
                tau=0.07,
            ),
            theta,
            inputs,
            [torch.tensor([0, 1, 2]), torch.tensor([3, 0, 2])],
            logs,
            lambda end: sum((end[g] - theta[g] + 0.01).square().sum() for g in theta),
            engine=engine,
        )
        return torch.cat(
            [v.reshape(-1) for v in (*found.inputs.values(), *found.log_step_sizes.values())]
        )

    expected = gradient("unroll")
    assert float((gradient(engine) - expected).norm() / expected.norm()) <= bound


def test_an_expert_stores_adapters_and_text_projection_only(tmp_path):
    model = _model(_vit())
    snapshots, _ = train_expert(
        model, _Pairs(), SECTION, tau=0.07, seed=0, is_start_shared=False, index=0
    )
    facts = save_snapshots(tmp_path, snapshots, storage="float32", shared={})
    sizes = {group: value.numel() for group, value in FlatModel(model).flatten().items()}
    assert facts["snapshot_bytes"] == 4 * 4 * sum(sizes.values())
    header = 2048  # names and shapes of 8 tensors
    assert (
        facts["snapshot_bytes"]
        < (tmp_path / SNAPSHOTS).stat().st_size
        < facts["snapshot_bytes"] + header
    )
    buffer = Buffer([tmp_path], FlatModel(_model(_vit(), seed=9)).flatten(), device=CPU)
    for epoch in (0, 3):
        assert torch.equal(buffer.snapshot(0, epoch)["img"], snapshots[f"img_{epoch:03d}"])


def test_trained_encoders_are_copies_and_frozen_ones_are_shared():
    encoder = _vit()
    assert _model(encoder, lora=None, trainable="full").image_encoder is not encoder
    assert all(parameter.requires_grad for parameter in encoder.parameters())
    assert _model(encoder, lora=None, trainable="heads").image_encoder is encoder
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    assert all(
        p.requires_grad
        for p in _model(encoder, lora=None, trainable="full").image_encoder.parameters()
    )


def test_encoders_that_adapters_do_not_fit_are_refused():
    allowed = (
        r"allowed are attn\.qkv, attn\.proj, fc1, fc2 of a Vision Transformer, or conv_pw, .*; "
        r"change model\.lora\.targets"
    )
    with pytest.raises(
        ValueError,
        match=r"NormFreeNet has no linear .* named attn\.qkv, attn\.proj, fc1, fc2 for LoRA .*"
        + allowed,
    ):
        _model(_encoder("test_nfnet"))
    with torch.device("meta"):
        beit = timm.create_model("beit_base_patch16_224", num_classes=0)
    with pytest.raises(
        ValueError,
        match=r"Beit reads the weight of blocks\.0\.attn\.qkv without calling it.*" + allowed,
    ):
        target_layers(beit, ("attn.qkv",))
    with pytest.raises(
        ValueError, match=r"at least one target and none twice; received \[\]; " + allowed
    ):
        target_layers(_vit(), ())
    with pytest.raises(ValueError, match="has no linear layer or 1 x 1 convolution named attn"):
        _model(_model(_vit()).image_encoder)  # no adapters on adapters


def test_lora_without_its_options_and_options_without_lora_are_refused():
    with pytest.raises(
        ValueError,
        match=r"model\.lora is for `lora` only and needed there; received None with `lora`",
    ):
        _model(_vit(), lora=None)
    with pytest.raises(
        ValueError, match=r"model\.lora is for `lora` only and needed there; received LoraSection"
    ):
        _model(_vit(), trainable="full")


def test_parameters_take_adapters_with_augmentation_and_refuse_half_of_them():
    options = "{rank: 4, alpha: 4.0, targets: [attn.qkv, fc2]}"
    chosen = params.load(
        ["model.trainable=lora", f"model.lora={options}", "train_experts.augment.flip=true"],
        path=ROOT / "params.yaml",
    )
    assert (
        chosen.model.lora == LoraSection(rank=4, alpha=4.0, targets=("attn.qkv", "fc2"))
        and not chosen.model.is_encoder_frozen
    )
    for settings in (["model.trainable=lora"], [f"model.lora={options}"]):
        with pytest.raises(ValueError, match=r"model\.lora: received .*`lora` needs \{rank: 4"):
            params.load(settings, path=ROOT / "params.yaml")
    with pytest.raises(ValueError, match=r"model\.lora\.targets\.0: received 'proj'"):
        params.load(
            ["model.trainable=lora", "model.lora={rank: 4, alpha: 4.0, targets: [proj]}"],
            path=ROOT / "params.yaml",
        )


@pytest.mark.parametrize("are_images_optimised", [False, True])
def test_what_lies_before_the_first_adapter_is_recorded_for_optimised_images_only(
    are_images_optimised,
):
    model = _model(_vit(), lora=LoraSection(rank=2, alpha=2.0, targets=("attn.qkv",)))
    flat, recorded = FlatModel(model), {}
    for name in ("patch_embed", "blocks.0.norm1", "blocks.0.attn.qkv", "blocks.1"):
        part = model.image_encoder.get_submodule(name)
        part.register_forward_hook(
            lambda module, args, out, name=name: recorded.update({name: out.requires_grad})
        )
    inputs, theta = _inputs(), flat.flatten()
    images = {"images": inputs.pop("images")}
    rows, constants = ({**images, **inputs}, {}) if are_images_optimised else (inputs, images)
    trajectory_gradient(
        lambda at, here, step: info_nce(
            *flat.call(at, here["images"], here["text_embeds"]), tau=0.07
        ),
        theta,
        rows,
        [torch.arange(3)],
        {g: torch.tensor(0.05).log() for g in theta},
        lambda end: sum(end[g].square().sum() for g in theta),
        engine="unroll",
        constants=constants,
    )
    prefix = {"patch_embed": are_images_optimised, "blocks.0.norm1": are_images_optimised}
    assert recorded == {**prefix, "blocks.0.attn.qkv": True, "blocks.1": True}
