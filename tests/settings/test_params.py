"""Every profile is valid, and a wrong parameter is refused with its place, what came and what is
allowed.
"""

import pytest
import yaml

from tasks.settings import params
from tasks.settings.overrides import override
from tasks.settings.sets import SetName

PROFILES = sorted(params.read_tree()["profiles"])


@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_is_valid(profile):
    assert params.load([f"profile={profile}"]).profile == profile


def test_the_four_datasets_have_profiles():
    assert {"toy", "flickr8k", "flickr30k", "coco"} <= set(PROFILES)


def test_override_reaches_the_active_profile_from_its_section_or_from_the_top():
    short = params.load(["distill.options.bi_trajectory.iterations=7", "methods.coresets=[random]"])
    long = params.load(["profiles.toy.distill.options.bi_trajectory.iterations=7"])
    assert (
        short.distillers["bi_trajectory"].config.iterations
        == long.distillers["bi_trajectory"].config.iterations
        == 7
    )
    assert list(short.coresets) == ["random"] and short.sets == [
        SetName("random", 20),
        SetName("random", 50),
        *short.sets[2:],
    ]
    assert short.digest != long.digest


def test_the_outer_optimiser_is_one_name_or_one_for_each_kind_of_tensor():
    one, each = (
        params.load([f"distill.matching.optimiser={value}"])
        for value in ("sgd", "{img: adam, txt: adam, sim: adam, step_size: sgd}")
    )
    assert one.distillers["bi_trajectory"].as_params()["options"]["optimiser"] == "sgd"
    config = each.distillers["bi_trajectory"].config
    assert [config.optimiser_of(kind) for kind in ("img", "txt", "sim", "step_size")] == [
        "adam",
        "adam",
        "adam",
        "sgd",
    ]
    assert one.digest != each.digest


BAD = [
    ("profile=cifar", r"unknown profile 'cifar'; available: coco, .*toy"),
    (
        "distill.syn_stepz=1",
        r"unknown key 'syn_stepz' in profiles\.toy\.distill; allowed: matching, options",
    ),
    ("seed", r"--set takes section\.key=value, received 'seed'"),
    ("seed=-1", r"profiles\.toy\.seed: received -1.*>= 0"),
    ("seed=zero", r"profiles\.toy\.seed: received 'zero'"),
    ("train_experts.batch_size=1", r"train_experts\.batch_size: received 1.*>= 2 pairs"),
    ("train_experts.lr_img=0", r"train_experts\.lr_img: received 0"),
    ("train_experts.lr_img=.nan", r"train_experts\.lr_img: received nan"),
    ("train_experts.num_experts=1.5", r"train_experts\.num_experts: received 1\.5"),
    ("train_experts.momentum='0.9'", r"train_experts\.momentum: received '0\.9'"),
    ("train_experts.augment.flip=1", r"augment\.flip: received 1"),
    (
        "evaluate.protocol=best",
        r"evaluate\.protocol: received 'best'.*'strict', 'last' or 'upstream_best'",
    ),
    ("model.image_encoder=resnet", r"unknown image encoder 'resnet'; available: timm"),
    (
        "embed_captions.text_encoder=gpt",
        r"unknown text encoder 'gpt'; available: hashed, transformers",
    ),
    (
        "prepare_data.dataset=mnist",
        r"unknown dataset 'mnist'; available: blip_json, coco_json, csv, flickr_table, folder, "
        r"karpathy, parquet, toy, webdataset",
    ),
    ("prepare_data.image_size=4", r"prepare_data\.image_size: received 4.*>= 8 and <= 1024 px"),
    (
        "methods.coresets=[random,k_means]",
        r"unknown coreset 'k_means'; available: clip_cov, forgetting, herding, "
        r"k_center, matched_prototypes, random",
    ),
    ("methods.coresets=[herding]", r"random selection is in every table"),
    ("methods.distillers=[bi_trajectory,bi_trajectory]", r"list of different names"),
    ("budgets=[50,20]", r"budgets: received \(50, 20\).*ascending"),
    ("budgets=[]", r"budgets: received \(\)"),
    ("model.embed_dim=64", r"embed_dim: received 64 with trainable 'full'"),
    ("distill.options.bi_trajectory.max_start_epoch=9", r"need experts of 9 epochs"),
    (
        "distill.options.bi_trajectory.lr_img={100: 1.0}",
        r"lr_img: received \{100: 1\.0\} for 20 pairs",
    ),
    (
        "distill.matching.optimiser=rmsprop",
        r"distill\.matching\.optimiser: received 'rmsprop': .*'sgd' or 'adam'",
    ),
    (
        "distill.matching.optimiser={img: adam, txt: sgd}",
        r"distill\.matching\.optimiser\..*\.sim: received .*, in which 'sim' is missing",
    ),
    (
        "distill.matching.optimiser={img: adam, txt: sgd, sim: sgd, step_size: x}",
        r"optimiser\..*\.step_size: received 'x'.*'sgd' or 'adam'",
    ),
    (
        "distill.options.bi_trajectory.engine=fast",
        r"options\.bi_trajectory\.engine: received 'fast'",
    ),
]


@pytest.mark.parametrize(("override", "message"), BAD, ids=[override for override, _ in BAD])
def test_wrong_parameter_is_refused(override, message):
    with pytest.raises(ValueError, match=message):
        params.load([override])


def test_unknown_and_missing_keys_are_refused(tmp_path):
    tree = params.read_tree()
    tree["profiles"]["toy"]["evaluate"]["num_evals"] = 3
    with pytest.raises(ValueError, match=r"profiles\.toy\.evaluate\.num_evals: received 3"):
        params.parse(tree)
    tree = params.read_tree()
    del tree["profiles"]["toy"]["train_experts"]
    with pytest.raises(ValueError, match=r"needed: .*train_experts"):
        params.parse(tree)
    (tmp_path / "p.yaml").write_text("a: [1")
    with pytest.raises(ValueError, match="not valid YAML"):
        params.load(path=tmp_path / "p.yaml")
    with pytest.raises(FileNotFoundError, match="run from the top folder"):
        params.load(path=tmp_path / "none.yaml")


def test_a_frozen_encoder_refuses_augmentation():
    settings = ["profile=flickr8k", "train_experts.augment.flip=true"]
    with pytest.raises(ValueError, match=r"frozen .*without augmentation; set crop_scale"):
        params.load(settings)


def test_a_method_between_two_experts_refuses_one():
    one, mdm = "train_experts.num_experts=1", "methods.distillers=[mdm]"
    assert params.load([one]).train_experts.num_experts == 1
    with pytest.raises(
        ValueError, match=r"num_experts: received 1; mdm .* needs at least 2; raise"
    ):
        params.load([one, mdm])
    own = "{blend: 0.5, weight: 0.8, bandwidth: 0.5, mini_batch_size: 64, real_batch_size: 64}"
    warm = f"{{method: mdm, options: {own}, step_size_scale: 1.0}}"
    named = f"distill.options.meta_model.warm_start={warm}"
    with pytest.raises(ValueError, match=r"mdm .*options\.meta_model\) needs at least 2"):
        params.load([one, "methods.distillers=[meta_model]", named])


def test_parts_have_to_divide_a_picture():
    size = params.load().prepare_data.image_size
    parts = next(number for number in (3, 4) if size % number)
    with pytest.raises(ValueError, match=rf"\.parts: received {parts} with pictures of {size} px"):
        params.load([f"distill.matching.parts={parts}"])
    with pytest.raises(ValueError, match=r"\.parts: received 2 with pictures of 5 px"):
        params.load(["distill.matching.parts=2", "distill.matching.picture_size=5"])


def test_pictures_are_not_larger_than_the_data():
    size = params.load().prepare_data.image_size
    with pytest.raises(ValueError, match=rf"picture_size: received {size + 1} with data of {size}"):
        params.load([f"distill.matching.picture_size={size + 1}"])
    assert params.load([f"distill.matching.picture_size={size}"])


def test_floats_are_written_with_a_point():
    """YAML readers disagree about 1e-3: a number that one of them takes for text must not be in the
    file.
    """

    def leaves(node):
        for value in (
            node.values() if isinstance(node, dict) else node if isinstance(node, list) else []
        ):
            yield from leaves(value) if isinstance(value, dict | list) else [value]

    texts = [
        leaf for leaf in leaves(yaml.safe_load(params.PARAMS.read_text())) if isinstance(leaf, str)
    ]
    assert not [
        text
        for text in texts
        if text[:1].isdigit() and "e" in text and text.replace("e", "").replace("-", "").isdigit()
    ]


def test_options_of_a_method_overlay_what_all_methods_share() -> None:
    tree = params.read_tree()
    override(tree, "distill.matching.iterations=5")
    override(tree, "distill.options.bi_trajectory.syn_steps=3")
    config = params.parse(tree).distillers["bi_trajectory"].config
    assert (config.iterations, config.syn_steps) == (5, 3)


def test_a_method_without_options_of_its_own_has_what_all_methods_share() -> None:
    tree = params.read_tree()
    override(tree, "methods.distillers=[bi_trajectory]")
    del tree["profiles"]["toy"]["distill"]["options"]["bi_trajectory"]
    with pytest.raises(ValueError, match=r"bi_trajectory\.include_positive"):
        params.parse(tree)


def test_one_budget_of_a_mapping_can_be_overridden() -> None:
    tree = params.read_tree()
    override(tree, "distill.matching.lr_img={20: 1.0, 50: 2.0}")
    override(tree, "distill.matching.lr_img.50=3.0")
    assert params.parse(tree).distillers["bi_trajectory"].config.lr_img == {20: 1.0, 50: 3.0}


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("seed=-1", "seed: received -1, allowed is >= 0; change it there or with --set"),
        ("model.dropout=1.5", "model.dropout: received 1.5, allowed is >= 0 and < 1; change"),
        ("seed=[1, 2]", r"seed: received \[1, 2\]: allowed is a whole number; change"),
    ],
)
def test_what_was_received_is_said_once(setting, message):
    with pytest.raises(ValueError, match=rf"profiles\.toy\.{message}") as raised:
        params.load((setting,))
    assert str(raised.value).count("received") == 1
