"""Presets: a cell shares what it does not change, and a preset run for real makes its table."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pandas as pd
import pytest
import yaml

from tasks.keys import Inputs
from tasks.settings import params, steps
from tasks.settings.overrides import override
from tasks.settings.sets import FULL, SetName
from tasks.stages import folder
from tests.workspace import ROOT, TINY, Workspace, make_workspace


def test_a_variant_has_folders_of_its_own_only_for_what_builds_on_its_changes():
    image = params.load(variant="single_modality/image")
    assert image.distillers["bi_trajectory"].config.optimise == "image"
    for stage in ("prepare_data", "embed_captions", "train_experts", "select_coresets"):
        assert image.space(stage) == "toy", stage
    for stage in ("distill", "evaluate"):
        assert image.space(stage) == "toy+single_modality-image", stage
    assert image.space("evaluate", SetName.parse("bi_trajectory-20")) == "toy+single_modality-image"
    assert (
        image.space("evaluate", SetName.parse("random-20"))
        == image.space("evaluate", SetName.parse("full"))
        == "toy"
    )


def test_a_cell_without_a_change_and_a_list_of_methods_or_sizes_are_the_profile_itself():
    both = params.load(["budgets=[30]"], variant="single_modality/both")
    assert list(both.coresets) == ["random"] and both.general.budgets == (30,)
    assert {both.space(stage) for stage in ("train_experts", "distill", "evaluate")} == {"toy"}


def test_another_text_encoder_shares_the_images_alone():
    words = params.load(variant="text_encoders/words")
    assert words.space("prepare_data") == "toy"
    assert {
        words.space(stage)
        for stage in ("embed_captions", "train_experts", "select_coresets", "distill")
    } == {"toy+text_encoders-words"}
    assert (
        words.space("evaluate", SetName.parse("full"))
        == words.space("evaluate", SetName.parse("random-20"))
        == "toy+text_encoders-words"
    )


def test_equal_cells_of_two_presets_share_their_folder():
    cells = params.load_cells("vision_encoders"), params.load_cells("lora")
    assert (
        cells[0]["vit"].space("train_experts") == cells[1]["full"].space("train_experts") != "toy"
    )


def test_cells_that_differ_in_distillation_share_the_students_of_coresets_and_full_data():
    cells = params.load_cells("cross_architecture")
    both, text = cells["pixels_and_texts"], cells["text_only"]
    assert {
        chosen.space("evaluate", name)
        for chosen in (both, text)
        for name in (SetName("random", 20), SetName(FULL))
    } == {"toy"}
    others = [chosen.as_student("test_resnet") for chosen in (both, text)]
    shared = {
        chosen.space("evaluate", name)
        for chosen in others
        for name in (SetName("random", 20), SetName(FULL), SetName("start"))
    }
    # Beside the outputs of the profile
    assert shared == {"toy+cross_architecture-pixels_and_texts"}
    assert both.space("evaluate", SetName.parse("bi_trajectory-20")) == "toy"
    assert (
        text.space("evaluate", SetName.parse("bi_trajectory-20"))
        == "toy+cross_architecture-text_only"
    )
    assert [chosen.space("evaluate", SetName.parse("bi_trajectory-20")) for chosen in others] == [
        "toy+cross_architecture-pixels_and_texts", "toy+cross_architecture-text_only",
    ]  # fmt: skip


def test_cells_of_two_presets_with_one_network_share_its_experts():
    reverse, resnet = (
        params.load(variant="cross_architecture/reverse"),
        params.load(variant="vision_encoders/resnet"),
    )
    assert (
        reverse.space("train_experts")
        == resnet.space("train_experts")
        == "toy+vision_encoders-resnet"
    )
    assert reverse.space("distill") == "toy+cross_architecture-reverse" != resnet.space("distill")


def test_a_setting_among_the_others_names_the_variant_and_comes_after_them():
    chosen = params.load(
        [
            "variant=single_modality/text",
            "distill.matching.optimise=image",
            "distill.matching.iterations=3",
        ]
    )
    assert chosen == params.load(["distill.matching.iterations=3"], variant="single_modality/text")
    config = chosen.distillers["bi_trajectory"].config
    assert (config.optimise, config.iterations) == ("text", 3)


def test_a_variant_of_a_wrong_name_is_refused_with_the_names():
    with pytest.raises(
        ValueError, match=r"unknown preset 'tables'; available: main, methods, trajectories"
    ):
        params.load(variant="tables/both")
    with pytest.raises(
        ValueError,
        match=r"preset 'single_modality': received the cell 'sound'; allowed: both, image, text",
    ):
        params.load(variant="single_modality/sound")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (
            "presets.main.cells={Best Of: {}}",
            r"presets\.main: received the name 'Best Of'; allowed are small letters",
        ),
        (
            "presets.main.cells.all={model.rank: 4}",
            r"presets\.main\.all: model\.rank: unknown key 'rank'",
        ),
        ("presets.main.cells.all=[]", r"presets\.main\.all: received \[\]; allowed is a mapping"),
        (
            "presets.main={all: {}}",
            r"presets\.main: received the keys all; allowed and needed: cells, every, title",
        ),
        (
            "presets.main.every={profile: coco}",
            r"presets\.main\.every: received .*without `profile`",
        ),
        (
            "profiles.toy.presets={tables: {}}",
            r"profiles\.toy\.presets: received tables; allowed are presets",
        ),
        ("presets.main.cells.all={model.tau: -1.0}", r"profiles\.toy\.model\.tau: received -1\.0"),
    ],
)
def test_a_wrong_preset_is_refused_with_its_place(setting, message):
    with pytest.raises(ValueError, match=message):
        params.load([setting], variant="main/all")


def test_the_presets_of_a_profile_are_reached_from_the_top():
    override(tree := params.read_tree(), "profiles.toy.presets.text_encoders.words={}")
    assert params.parse(tree, variant="text_encoders/words").space("distill") == "toy"


def test_variants_lie_beside_the_outputs_of_dvc():
    """An artifact of a variant inside an output of the profile would make `dvc status` differ."""
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    outs = [
        out if isinstance(out, str) else next(iter(out))
        for stage in stages.values()
        for out in stage["outs"]
    ]
    outs = [out.replace("${profile}", "toy").replace("/${item.method}", "") for out in outs]
    image = params.load(variant="single_modality/image")
    for stage, parts in (
        ("distill", ("bi_trajectory", "bi_trajectory-20")),
        ("evaluate", ("bi_trajectory-20", "seed_0")),
    ):
        made = folder(stage, image.space(stage), *parts)
        assert not [out for out in outs if made.is_relative_to(out)]


MINIATURE = (
    "methods.coresets=[random]",
    "budgets=[4]",
    "prepare_data.options.num_train=48",
    "prepare_data.options.num_val=12",
    "prepare_data.options.num_test=12",
    "train_experts.num_experts=1",
    "distill.matching.iterations=1",
    "distill.matching.syn_steps=2",
    "distill.matching.mini_batch_size=4",
    "evaluate.small.num_epochs=1",
    "evaluate.small.num_validations=1",
)


CELLS = (
    "lora/lora",
    "vision_encoders/resnet",
    "text_encoders/words",
    "methods/lors",
    "methods/repblend",
    "methods/tesla",
    "methods/meta_model",
    "initialisation/noise_image_real_text",
    "initialisation/real_image_noise_text",
    "initialisation/noise_image_noise_text",
    "cross_architecture/text_only",
    "cross_architecture/reverse",
)


@pytest.mark.parametrize("name", CELLS)
def test_a_cell_with_other_networks_or_methods_is_distilled_and_scored(
    name, tmp_path_factory, monkeypatch
):
    from tasks import distill, embed_captions, evaluate, prepare_data, train_experts

    chosen = params.load(MINIATURE, variant=name, path=ROOT / "params.yaml")
    monkeypatch.chdir(tmp_path_factory.getbasetemp())  # cells share what they do not change
    prepared = prepare_data.prepare_data.fn(steps.preparation(chosen))
    embeddings = embed_captions.embed_captions.fn(steps.embedding(chosen), prepared)
    start = train_experts.build_start.fn(steps.start(chosen), prepared)
    inputs = Inputs(prepared, embeddings, start)
    experts = [train_experts.train_expert.fn(steps.training(chosen), inputs, 0)]
    name = SetName(*chosen.distillers, 4)
    made = distill.distill.fn(steps.distillation(chosen, name), inputs, experts)
    assert made.folder.parent.parent == folder("distill", chosen.space("distill"))
    for student in (chosen, *map(chosen.as_student, chosen.students)):
        if student.student:
            start = evaluate.build_student_start.fn(steps.start(student), prepared)
        given = replace(inputs, start=start)
        score = evaluate.train_student.fn(steps.evaluation(student, name), given, made, 0)
        assert (
            pd.read_json(score.folder / "score.json", typ="series")["student"] == student.model_name
        )


def test_the_full_data_train_the_vit_of_the_toy_cells(tmp_path, monkeypatch):
    """Two epochs reach several times chance, which is 2.7; with the step sizes of the other
    networks they stay near it.
    """
    from tasks import embed_captions, evaluate, prepare_data, train_experts

    chosen = params.load(variant="lora/full", path=ROOT / "params.yaml")
    recipe = replace(chosen.evaluate.full, num_epochs=2, num_validations=1)
    chosen = replace(chosen, evaluate=replace(chosen.evaluate, full=recipe))
    monkeypatch.chdir(tmp_path)
    prepared = prepare_data.prepare_data.fn(steps.preparation(chosen))
    embeddings = embed_captions.embed_captions.fn(steps.embedding(chosen), prepared)
    start = train_experts.build_start.fn(steps.start(chosen), prepared)
    work, inputs = steps.evaluation(chosen, SetName(FULL)), Inputs(prepared, embeddings, start)
    score = evaluate.train_student.fn(work, inputs, None, 0)
    assert pd.read_json(score.folder / "score.json", typ="series")["mean_recall"] > 10.0


TINY_PRESET = (
    *TINY,
    "presets.single_modality.cells={both: {}, image: {distill.matching.optimise: image}}",
    "evaluate.num_eval=2",
)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Workspace:
    """A workspace in which a preset of two cells has run once."""
    workspace = make_workspace(tmp_path_factory.mktemp("preset") / "copy", TINY_PRESET)
    done = workspace.flow("preset", "single_modality", seconds=280)
    # 5 up to the experts; a random set; 2 students of it and 2 of the full data; for each cell a
    # set, its gallery and 2 students
    assert "preset: 18 made, 0 cached" in done.stdout
    return workspace


@pytest.mark.services
def test_a_preset_makes_what_its_cells_share_once(made):
    folders = {path.split("/", 1)[1] for path in made.digests()}
    assert {path for path in folders if "+" in path} == {
        "distilled/toy+single_modality-image/bi_trajectory/bi_trajectory-4",
        "scores/toy+single_modality-image/bi_trajectory-4/gallery",
        "scores/toy+single_modality-image/bi_trajectory-4/seed_0",
        "scores/toy+single_modality-image/bi_trajectory-4/seed_1",
    }
    assert {
        "coresets/toy/random-4",
        "scores/toy/random-4/seed_0",
        "scores/toy/full/seed_1",
    } <= folders
    assert "coresets/toy/herding-4" not in folders


@pytest.mark.services
def test_a_preset_is_compared_in_mlflow_by_a_nested_run_a_cell_and_set(made):
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{made.folder}/.mlflow/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("toy").experiment_id])
    (parent,) = [run for run in runs if run.data.tags.get("level") == "pipeline"]
    assert parent.data.tags["preset"] == parent.data.params["preset"] == "single_modality"
    assert parent.info.run_name == "toy preset single_modality"
    nested = {
        run.info.run_name: run
        for run in runs
        if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id
    }
    assert set(nested) == {
        f"{cell} {name}"
        for cell in ("both", "image")
        for name in ("random-4", "bi_trajectory-4", "full")
    }
    made_sets = ("both bi_trajectory-4", "image bi_trajectory-4")
    scores = {name: nested[name].data.metrics["test/mean_recall"] for name in made_sets}
    average = pytest.approx(sum(scores.values()) / 2)
    best = max(scores.values())
    assert parent.data.metrics == {"test/mean_recall": average, "test/best_mean_recall": best}
    assert scores[parent.data.tags["best_set"]] == best
    image = nested["image bi_trajectory-4"].data
    assert (
        image.tags["variant"] == "image"
        and image.params["cell.distill.matching.optimise"] == "image"
    )


@pytest.mark.services
def test_the_table_has_each_set_once_with_its_ratio_to_random(made):
    place = made.folder / "reports/toy/presets"
    table = pd.read_csv(place / "single_modality.csv", keep_default_na=False)
    assert [(row.cell, row.method, row.num_pairs) for row in table.itertuples()] == [
        ("", "random", 4),
        ("both", "bi_trajectory", 4),
        ("image", "bi_trajectory", 4),
        ("", "full", 48),
    ]
    assert set(table["protocol"]) == {"strict"} and set(table["n"]) == {2}
    random, both = table["mean_recall"].astype(float)[:2]
    assert float(table["over_random"][1]) == pytest.approx(both / random)
    assert "bi_trajectory (image) | 4 |" in (place / "single_modality.md").read_text()
    assert "bi_trajectory (image)" in (place / "single_modality.html").read_text()


@pytest.mark.services
def test_a_second_run_finds_all_and_the_report_of_the_profile_leaves_the_table(made):
    before = made.digests()
    table = made.folder / "reports/toy/presets/single_modality.md"
    text = table.read_text()
    settings = ("--set", "methods.coresets=[random]")
    assert "report" in made.flow("report", *settings).stdout
    assert "preset: 0 made, 18 cached" in made.flow("preset", "single_modality").stdout
    assert table.read_text() == text and (made.folder / "reports/toy/index.html").is_file()
    assert {path: made.digests()[path] for path in before} == before


@pytest.mark.services
def test_a_preset_that_is_killed_goes_on_with_the_same_command(made, tmp_path):
    """kill -9 once the second cell is distilled and not scored yet: what was there is used, and all
    ends with the same bytes.
    """
    copy = Workspace(shutil.copytree(made.folder, tmp_path / "copy", symlinks=True))
    for place in ("distilled", "scores"):
        shutil.rmtree(copy.folder / "data" / place / "toy+single_modality-image")
    distilled = (
        copy.folder
        / "data/distilled/toy+single_modality-image/bi_trajectory/bi_trajectory-4/manifest.json"
    )
    assert copy.kill_when(distilled.is_file, "python", "-m", "flows.preset", "single_modality")
    scored = (
        copy.folder / "data/scores/toy+single_modality-image/bi_trajectory-4/seed_1/manifest.json"
    )
    assert distilled.is_file() and not scored.exists()
    done = copy.flow("preset", "single_modality")
    assert (
        "preset: 3 made, 15 cached" in done.stdout
        or "preset: 2 made, 16 cached" in done.stdout
        or "1 made, 17 cached" in done.stdout
    )
    assert copy.digests() == made.digests()


@pytest.mark.services
def test_an_unknown_preset_is_refused_with_the_names_and_list_shows_them(made):
    done = made.flow("preset", "tables", check=False)
    assert (
        done.returncode == 2 and "unknown preset 'tables'; available: main, methods" in done.stderr
    )
    listed = made.flow("preset", "--list").stdout
    assert "single_modality     One modality alone is distilled: both, image" in listed
    assert (
        "cross_architecture  Sets under encoders that did not distil them: pixels_and_texts, "
        "text_only, reverse" in listed
    )


@pytest.mark.parametrize("setting", ["variant=", "variant"])
def test_a_variant_without_a_name_is_refused(setting):
    with pytest.raises(ValueError, match="takes variant=preset/cell"):
        params.load([setting])


def test_a_preset_is_not_given_a_variant():
    with pytest.raises(ValueError, match="leave it out"):
        params.load_cells("single_modality", ["variant=lora/lora"])
