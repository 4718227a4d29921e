"""The cells of the presets, in every profile: valid, what their names say, and with settings that
fit their networks.
"""

from __future__ import annotations

import pytest

from tasks.core.distillation.matching_config import MatchingConfig
from tasks.settings import params
from tests.workspace import ROOT

PROFILES = sorted(params.read_tree(ROOT / "params.yaml")["profiles"])
PAPER = {
    "main",
    "methods",
    "single_modality",
    "initialisation",
    "lora",
    "vision_encoders",
    "text_encoders",
    "cross_architecture",
}


@pytest.mark.parametrize("profile", PROFILES)
def test_every_cell_of_every_preset_is_valid_and_has_random_selection_and_a_known_network(profile):
    import timm
    from torchvision.models import list_models

    known = {"timm": timm.is_model, "torchvision": list_models().__contains__}
    found = params.presets([f"profile={profile}"])
    assert set(found) >= PAPER
    for name, preset in found.items():
        cells = params.load_cells(name, [f"profile={profile}"])
        assert list(cells) == list(preset.cells)
        for chosen in cells.values():
            assert "random" in chosen.coresets and chosen.profile == profile
            for plugin in (
                chosen.image_encoder,
                *(student.image_encoder for student in chosen.students.values()),
            ):
                assert known[plugin.name](plugin.config.name)


def test_a_cell_named_after_a_network_has_that_network():
    for profile in PROFILES:
        cells = params.load_cells("vision_encoders", [f"profile={profile}"])
        for cell in set(cells) & {"nfnet_l0", "nf_resnet50", "nf_regnet_b1", "mobilenetv2_100"}:
            assert cells[cell].image_encoder.config.name == cell, profile
        texts = params.load_cells("text_encoders", [f"profile={profile}"])
        for cell in set(texts) & {"bert", "distilbert", "clip"}:
            assert cell in texts[cell].text_encoder.config.name, profile


@pytest.mark.parametrize("profile", PROFILES)
def test_a_cell_named_after_what_it_starts_from_starts_from_that(profile):
    cells = params.load_cells("initialisation", [f"profile={profile}"])
    assert len(cells) == 4
    for cell, chosen in cells.items():
        for config in (plugin.config for plugin in chosen.distillers.values()):
            assert f"{config.init_image}_image_{config.init_text}_text" == cell


def test_no_two_values_share_a_dotted_path_which_dvc_exp_show_refuses():
    def paths(node, path):
        return (
            [found for key, value in node.items() for found in paths(value, (*path, str(key)))]
            if isinstance(node, dict)
            else [path]
        )

    dotted = [".".join(path) for path in paths(params.read_tree(ROOT / "params.yaml"), ())]
    assert len(dotted) == len(set(dotted))


@pytest.mark.parametrize("profile", PROFILES)
def test_cells_that_share_a_folder_agree_in_everything_that_its_stage_reads(profile):
    made: dict[tuple[str, str], object] = {}
    for preset in params.presets([f"profile={profile}"]):
        for chosen in params.load_cells(preset, [f"profile={profile}"]).values():
            read = (chosen.text_encoder, chosen.image_encoder, chosen.model, chosen.train_experts)
            assert made.setdefault(("train_experts", chosen.space("train_experts")), read) == read
            for method, plugin in chosen.distillers.items():
                assert made.setdefault((method, chosen.space("distill")), (*read, plugin)) == (
                    *read,
                    plugin,
                )


@pytest.mark.parametrize("profile", PROFILES)
def test_a_cell_of_cross_architecture_scores_its_sets_under_another_network(
    profile,
):
    cells = params.load_cells("cross_architecture", [f"profile={profile}"])
    assert set(cells) == {"pixels_and_texts", "text_only", "reverse"} | (
        {"views", "views_parts_five_texts"} if profile == "flickr8k" else set()
    )
    back = cells.pop("reverse")
    for chosen, distiller in (
        *((cell, back) for cell in cells.values()),
        (back, cells["text_only"]),
    ):
        (student,) = chosen.students.values()
        assert (student.image_encoder, student.model) == (distiller.image_encoder, distiller.model)
        assert student.image_encoder != chosen.image_encoder


@pytest.mark.parametrize("profile", ["flickr8k", "flickr8k_small", "flickr8k_full"])
def test_on_flickr8k_a_trained_network_takes_small_steps_and_a_frozen_one_large_ones(
    profile,
):
    """Steps of 0.1 leave the features of a MobileNetV2 at once; projections on a frozen encoder
    hardly move with 0.005.
    """
    largest = {"full": 0.005, "lora": 0.05, "heads": 0.1}
    for preset in params.presets([f"profile={profile}"]):
        for cell, chosen in params.load_cells(preset, [f"profile={profile}"]).items():
            lr = largest[chosen.model.trainable]
            recipes = (chosen.train_experts, chosen.evaluate.small, chosen.evaluate.full)
            assert [recipe.lr_img for recipe in recipes] == [lr] * 3, (preset, cell)
            for config in (plugin.config for plugin in chosen.distillers.values()):
                if not isinstance(config, MatchingConfig):
                    continue  # it trains no students, so it has no steps
                assert lr / 2 <= config.step_size_img <= lr, (preset, cell)
                if not chosen.model.is_encoder_frozen:
                    assert chosen.train_experts.momentum == config.student_momentum == 0.9, (
                        preset,
                        cell,
                    )
                    assert config.optimiser == "adam", (preset, cell)
