"""plan: exact counts and bytes, seconds for whatever is not there, and nothing for what is; wrong
inputs are one message.
"""

from __future__ import annotations

import json
import math
import shutil
import sys
from dataclasses import fields, replace

import pytest

from flows import cli
from flows import plan as command
from tasks.core.distillation import distillers
from tasks.core.distillation.matching_config import MatchingConfig
from tasks.core.evaluation.students import num_scorings
from tasks.core.foundations import plugins
from tasks.distill import distill
from tasks.embed_captions import embed_captions
from tasks.keys import Inputs
from tasks.planning import miniature
from tasks.planning import plan as planning
from tasks.planning.inventory import Entry, Usage, cells_of, look
from tasks.prepare_data import prepare_data
from tasks.select_coresets import select_coreset
from tasks.settings import params, steps
from tasks.settings.params import Params
from tasks.settings.sets import SetName
from tasks.settings.validation import Plugin
from tasks.stages import STAGES
from tasks.store import caching
from tasks.train_experts import build_start, train_expert
from tests.workspace import ROOT, SETTINGS, TINY


@pytest.fixture
def tiny(tmp_path, monkeypatch) -> Params:
    """The tiny profile of the pipeline's tests, in an empty folder; measurements are as short as
    they can be.
    """
    monkeypatch.setattr(planning, "MEASURED_SECONDS", 0.0)
    monkeypatch.setattr(planning, "SHORT_SECONDS", 0.0)
    monkeypatch.chdir(tmp_path)
    more = (
        "methods.coresets=[random, forgetting]",
        "methods.distillers=[bi_trajectory]",
        "profile=toy",
    )
    return params.load([*more[2:], *TINY, *more[:2]], path=ROOT / "params.yaml")


def _bytes(folder) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


WARM = (
    "{iterations: 7, syn_steps: 2, expert_epochs: 1, max_start_epoch: 1, goals_per_iteration: 1, "
    "lr_img: 0.01, lr_txt: 0.01, "
    "lr_step_size: 0.01, step_size_img: 0.05, step_size_txt: 0.05, step_size_scale: 1.0}"
)


def _planner(chosen, folder, *names):
    """A planner of a profile, and those of its missing cells that have the names."""
    (folder / "scratch").mkdir()
    entries = look(cells_of(chosen))
    found = {entry.cell.name: entry.cell for entry in entries if entry.ref is None}
    return planning._Planner(chosen, entries, folder / "scratch"), [found[name] for name in names]


def test_the_iterations_of_a_warm_start_are_planned_too(tiny, tmp_path, monkeypatch):
    method = (
        "methods.distillers=[meta_model]",
        "distill.options.meta_model.iterations=5",
        f"distill.options.meta_model.warm_start={WARM}",
    )
    chosen = params.load(
        [*("profile=toy", *TINY), "methods.coresets=[random]", *method], path=ROOT / "params.yaml"
    )
    planner, (cell,) = _planner(chosen, tmp_path, "meta_model-4")
    place = "method.config"
    assert cell.repeats == {f"{place}.iterations": 5, f"{place}.warm_start.iterations": 7}

    def take(self, cell, counts):
        own, warm = counts[f"{place}.iterations"], counts[f"{place}.warm_start.iterations"]
        return Usage(2.0 + 0.5 * own + 0.25 * warm)

    monkeypatch.setattr(planner.small, "make", take.__get__(planner.small))
    monkeypatch.setattr(planner, "_with_memory", lambda cell, usage, once: usage)
    assert planner.usage(cell).seconds == pytest.approx(2.0 + 0.5 * 5 + 0.25 * 7)


def test_a_run_without_a_method_that_reads_experts_plans_the_one_of_coresets(tiny, tmp_path):
    settings = ["profile=toy", *TINY, "methods.coresets=[random]"]

    def planned(methods):
        given = [*settings, f"methods.distillers={methods}"]
        cells = cells_of(params.load(given, path=ROOT / "params.yaml"))
        return {cell.name: cell for cell in cells}

    alone, both = planned("[cov_match]"), planned("[cov_match, bi_trajectory]")
    assert [name for name in alone if name.startswith("expert_")] == ["expert_000"]
    assert [name for name in both if name.startswith("expert_")] == ["expert_000", "expert_001"]
    assert len(both["bi_trajectory-4"].inputs[1]) == 2
    assert len(both["cov_match-4"].inputs[1]) == 0
    planner, (cell,) = _planner(tiny, tmp_path, "bi_trajectory-4")
    free = replace(cell, work=both["cov_match-4"].work)
    usage = Usage(1.0, 10, 0, 5)
    assert planner._with_memory(free, usage, usage) == usage
    assert planner._with_memory(cell, usage, usage).host_bytes > 10


UNTOLD = """
from dataclasses import dataclass
from tasks.core.distillation.distillers import bi_trajectory
from tasks.core.distillation.matching_config import MatchingConfig
from tasks.core.foundations.section import Section


@dataclass(frozen=True, kw_only=True)
class Config(Section):
    rounds: int

    @property
    def total_iterations(self):
        return self.rounds


def distill(problem, config, num_pairs, **how):
    shared = bi_trajectory.Config(**SHARED, include_positive=True, iterations=config.rounds)
    return bi_trajectory.distill(problem, shared, num_pairs, **how)
"""


def test_weights_of_encoders_are_random_and_those_of_pairs_stay(tiny):
    further = (
        "evaluate.cross_architecture={other: {image_encoder: timm, options: {name: resnet18, "
        "weights: hub, kwargs: {}, mean: null, std: null}, trainable: full, lora: null, "
        "embed_dim: null, input_size: null}}"
    )
    given = ["profile=toy", *TINY, "methods.distillers=[bi_trajectory, lors]", further]
    chosen = params.load(given, path=ROOT / "params.yaml")
    small = miniature.shrink(chosen, chosen.text_encoder)
    assert small.students["other"].image_encoder.config.weights == "random"
    assert small.image_encoder.config.weights == "random"
    weights = {name: plugin.config.weights for name, plugin in small.distillers.items()}
    assert weights == {"bi_trajectory": "none", "lors": "none"}


def test_a_set_that_grows_is_planned_with_those_that_it_begins_with(tmp_path, monkeypatch):
    settings = ["profile=toy", *TINY, "methods.coresets=[random]"]
    settings += ["budgets=[6]", "distill.matching.begin_with=[4]"]
    settings += ["model.trainable=heads", "model.embed_dim=8"]
    monkeypatch.chdir(tmp_path)
    chosen = params.load(settings, path=ROOT / "params.yaml")
    planner, (small, large) = _planner(chosen, tmp_path, "bi_trajectory-4", "bi_trajectory-6")
    assert large.inputs[-1] is small and small.inputs[-1] is None
    scored = [cell.name for cell in cells_of(chosen) if cell.stage == "evaluate"]
    assert "bi_trajectory-6 seed 0" in scored and "bi_trajectory-4 seed 0" not in scored
    once = dict.fromkeys(large.repeats, 1)
    assert planner.small.make(large, once).seconds > 0.0


def test_a_method_that_plan_knows_nothing_of_is_planned(tiny, tmp_path, monkeypatch):
    shared = {
        field.name: getattr(tiny.distillers["bi_trajectory"].config, field.name)
        for field in fields(MatchingConfig)
        if field.name != "iterations"
    }
    (tmp_path / "untold.py").write_text(f"SHARED = {shared!r}\n{UNTOLD}")
    monkeypatch.setattr(distillers, "__path__", [*distillers.__path__, str(tmp_path)])
    name = "tasks.core.distillation.distillers.untold"
    # Restores the absence afterwards
    monkeypatch.setitem(sys.modules, name, None)
    del sys.modules[name]
    module = plugins.load("distillers", "untold")
    plugin = Plugin("distillers", "untold", module.Config(rounds=3))
    chosen = replace(tiny, distillers={"untold": plugin})
    planner, cells = _planner(chosen, tmp_path, "untold-4", "untold-4 gallery")
    assert cells[0].repeats == {}
    for cell in cells:
        usage = planner.usage(cell)
        assert usage.seconds > 0.0 and usage.host_bytes > 1e8 and usage.disk_bytes > 0


def test_every_artifact_of_a_profile_is_planned_and_its_bytes_are_those_that_it_has_then(
    tiny, tmp_path
):
    (tmp_path / "scratch").mkdir()
    plan = planning.make_plan(tiny, tmp_path / "scratch")
    assert {entry.cell.stage for entry in plan.entries} == set(STAGES)
    assert [_counts(plan, stage) for stage in STAGES] == [
        (1, 1),
        (1, 1),
        (3, 3),
        (3, 3),
        (1, 1),
        (5, 5),
        (1, 1),
    ]
    assert all(
        math.isfinite(entry.usage.seconds) and entry.usage.seconds > 0 for entry in plan.entries
    )
    assert all(entry.usage.host_bytes > 1e8 for entry in plan.entries)
    assert not (tmp_path / "data" / "experts").exists()
    usages = {entry.cell.name: entry.usage for entry in plan.entries}
    prepared = prepare_data.fn(steps.preparation(tiny))
    embeddings = embed_captions.fn(steps.embedding(tiny), prepared)
    start = build_start.fn(steps.start(tiny), prepared)
    given = Inputs(prepared, embeddings, start)
    expert = train_expert.fn(steps.training(tiny), given, 0)
    selection = steps.selection(tiny, SetName("random", 4))
    distillation = steps.distillation(tiny, SetName("bi_trajectory", 4))
    made = {
        "prepared": prepared,
        "embeddings": embeddings,
        "start": start,
        "expert_000": expert,
        "random-4": select_coreset.fn(selection, given, expert),
        "bi_trajectory-4": distill.fn(distillation, given, [expert]),
    }
    for name, ref in made.items():
        assert usages[name].disk_bytes == pytest.approx(_bytes(ref.folder), rel=0.01), name


def _counts(plan, stage):
    entries = plan.of(stage)
    return sum(entry.ref is None for entry in entries), len(entries)


def test_what_is_there_is_cached_and_costs_nothing(tiny, tmp_path):
    prepared = prepare_data.fn(steps.preparation(tiny))
    embed_captions.fn(steps.embedding(tiny), prepared)
    stock = look(cells_of(tiny))
    assert {entry.cell.stage for entry in stock if entry.ref} == {"prepare_data", "embed_captions"}
    with caching.looking(), pytest.raises(caching.NotMade):
        build_start.fn(steps.start(tiny), prepared)
    assert planning.total([entry for entry in stock if entry.ref]) == Usage(0.0)
    assert _counts(planning.Plan("toy", stock, [], 1.0), "prepare_data") == (0, 1)
    next(prepared.folder.glob("*.safetensors")).write_bytes(b"damaged")
    assert not any(entry.ref for entry in look(cells_of(tiny)))


def test_what_one_of_a_kind_took_is_what_the_others_take(tiny, tmp_path):
    prepared = prepare_data.fn(steps.preparation(tiny))
    embeddings = embed_captions.fn(steps.embedding(tiny), prepared)
    start = build_start.fn(steps.start(tiny), prepared)
    made = train_expert.fn(steps.training(tiny), Inputs(prepared, embeddings, start), 0)
    planner, (other,) = _planner(tiny, tmp_path, "expert_001")
    usage = planner.usage(other)
    assert usage.seconds == miniature.usage_of(made.folder).seconds
    assert usage.disk_bytes == miniature.usage_of(made.folder).disk_bytes
    assert usage.host_bytes > 1e8


def test_students_of_coresets_with_as_many_pairs_are_of_one_kind(tiny):
    coresets = "methods.coresets=[random, herding, random_equal_bytes]"
    given = ["profile=toy", *TINY, coresets, "methods.distillers=[bi_trajectory]"]
    cells = cells_of(params.load(given, path=ROOT / "params.yaml"))
    kinds = {cell.name.split("-")[0]: cell.kind for cell in cells if cell.stage == "evaluate"}
    assert kinds["random"] == kinds["herding"]
    assert kinds["random_equal_bytes"] not in (kinds["random"], kinds["bi_trajectory"])


def test_the_total_adds_seconds_and_disk_and_takes_the_peak_of_memory(tiny):
    cell = cells_of(tiny)[0]
    entries = [
        Entry(cell, None, usage=Usage(1.0, 300, 0, 5)),
        Entry(cell, None, usage=Usage(2.5, 200, 7, 6)),
    ]
    assert planning.total(entries) == Usage(3.5, 300, 7, 11)


def test_a_measurement_goes_on_along_the_line_of_its_two_points_and_never_falls():
    once, last = Usage(1.0, 5, 0, 100), Usage(2.5, 4, 1, 400)
    assert planning.grown(once, once, last, (1600 - 100) / 300, 2.0) == Usage(8.5, 5, 1, 700)
    assert planning.grown(last, last, once, 10.0, 0.0).seconds == pytest.approx(2.5)


def test_the_scorings_of_a_student_are_counted_as_they_are_done(tiny):
    recipe = replace(tiny.evaluate.small, num_epochs=24, num_validations=3)
    assert num_scorings(recipe, "strict") == (3, 1)
    assert num_scorings(replace(recipe, num_epochs=2), "strict") == (2, 1)
    assert num_scorings(recipe, "upstream_best") == (11, 12)


def test_work_on_images_is_scaled_by_images_times_repetitions(tiny, tmp_path, monkeypatch):
    planner, (cell,) = _planner(tiny, tmp_path, "expert_001")

    def take(self, cell, counts):
        passes = counts["section.num_epochs"] * self.num_images["train"]
        return Usage(3.0 + 0.01 * passes, passes)

    for world in (planner.small, planner.large):
        monkeypatch.setattr(world, "make", take.__get__(world))
    usage = planner.usage(cell)
    assert usage.seconds == pytest.approx(3.0 + 0.01 * 3 * 48)
    assert usage.host_bytes == 2 * planner.large.num_images["train"]


def test_missing_raw_data_is_one_message(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in SETTINGS:
        shutil.copy(ROOT / name, tmp_path)
    with pytest.raises(SystemExit) as ended:
        cli.main("plan", ["--profile", "flickr8k"])
    assert ended.value.code == 2
    assert "there is no dataset folder 'raw/flickr8k'" in capsys.readouterr().err


def test_the_plan_is_a_table_or_json(tiny, tmp_path, monkeypatch, capsys):
    for name in SETTINGS:
        shutil.copy(ROOT / name, tmp_path)
    stock = look(cells_of(tiny))
    usage = Usage(2.0, 3_000_000, 0, 4_000)
    found = planning.Plan("toy", [replace(entry, usage=usage) for entry in stock], ["a note"], 1.0)
    command.show(found, is_json=False)
    table = capsys.readouterr().out
    assert [line.split()[0] for line in table.splitlines()] == [
        "stage",
        *list(STAGES)[:5],
        "bi_trajectory-4",
        *list(STAGES)[5:],
        "total",
        "*",
        "*",
    ]
    assert "3 of 3" in table and "3.0 MB" in table
    command.show(found, is_json=True)
    assert len(json.loads(capsys.readouterr().out)["cells"]) == len(stock)
    changed = [replace(entry, because="changed lr 1 -> 2") for entry in stock[:1]]
    command.show(replace(found, entries=changed), is_json=False)
    assert "prepared would be made, because changed lr 1 -> 2" in capsys.readouterr().out
