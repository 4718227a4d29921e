"""plan: exact counts and bytes, seconds for whatever is not there, and nothing for what is; wrong
inputs are one message.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from dataclasses import replace

import pytest
import torch

from flows import plan as command
from tasks.core.foundations.records import Split
from tasks.distill import distill
from tasks.embed_captions import embed_captions
from tasks.keys import Inputs
from tasks.planning import calibration, costs, miniature
from tasks.planning import plan as planning
from tasks.planning.inventory import take_stock
from tasks.prepare_data import prepare_data
from tasks.select_coresets import select_coreset
from tasks.settings import params, steps
from tasks.settings.params import Params
from tasks.settings.sets import SetName
from tasks.store import caching
from tasks.train_experts import build_start, train_expert
from tests.workspace import ROOT, SETTINGS, TINY

STAGES = (
    "prepare_data",
    "embed_captions",
    "train_experts",
    "select_coresets",
    "distill",
    "evaluate",
    "report",
)


@pytest.fixture
def tiny(tmp_path, monkeypatch) -> Params:
    """The tiny profile of the pipeline's tests, in an empty folder; measurements are as short as
    they can be.
    """
    monkeypatch.setattr(calibration, "MIN_SECONDS", 0.0)
    monkeypatch.setattr(costs, "MEASURED_SECONDS", 0.0)
    monkeypatch.chdir(tmp_path)
    more = (
        "methods.coresets=[random, forgetting]",
        "methods.distillers=[bi_trajectory]",
        "profile=toy",
    )
    return params.load([*more[2:], *TINY, *more[:2]], path=ROOT / "params.yaml")


def _bytes(folder) -> int:
    return sum(
        path.stat().st_size
        for path in folder.rglob("*")
        if path.is_file() and path.name != "manifest.json"
    )


WARM = (
    "{iterations: 7, syn_steps: 2, expert_epochs: 1, max_start_epoch: 1, goals_per_iteration: 1, "
    "lr_img: 0.01, lr_txt: 0.01, "
    "lr_step_size: 0.01, step_size_img: 0.05, step_size_txt: 0.05, step_size_scale: 1.0}"
)


def test_the_iterations_of_a_warm_start_are_planned_too(tiny, tmp_path, monkeypatch):
    method = (
        "methods.distillers=[meta_model]",
        "distill.options.meta_model.iterations=5",
        f"distill.options.meta_model.warm_start={WARM}",
    )
    chosen = params.load(
        [*("profile=toy", *TINY), "methods.coresets=[random]", *method], path=ROOT / "params.yaml"
    )
    seconds, whole = {}, costs.repeated

    def noted(run, count):
        found, usage = whole(run, count)
        seconds[count] = usage.seconds
        return found, usage

    monkeypatch.setattr(costs, "repeated", noted)
    (tmp_path / "scratch").mkdir()
    plan = planning.make_plan(chosen, tmp_path / "scratch")
    (entry,) = [entry for entry in plan.entries if entry.cell.stage == "distill"]
    assert entry.usage.seconds == pytest.approx(plan.load * (seconds[5] + seconds[7]))
    assert seconds[5] > 0.0 and seconds[7] > 0.0


def test_every_artifact_of_a_profile_is_planned_and_its_bytes_are_those_that_it_has_then(
    tiny, tmp_path
):
    (tmp_path / "scratch").mkdir()
    plan = planning.make_plan(tiny, tmp_path / "scratch")
    assert {entry.cell.stage for entry in plan.entries} == set(STAGES)
    assert [planning.counts(plan, stage) for stage in STAGES] == [
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
        assert usages[name].disk_bytes == pytest.approx(_bytes(ref.folder), rel=0.06), name


def test_what_is_there_is_cached_and_costs_nothing(tiny, tmp_path):
    prepared = prepare_data.fn(steps.preparation(tiny))
    embed_captions.fn(steps.embedding(tiny), prepared)
    stock = take_stock(tiny)
    assert {cell.stage for cell in stock.cells if cell.is_cached} == {
        "prepare_data",
        "embed_captions",
    }
    with caching.looking(), pytest.raises(caching.NotMade):
        build_start.fn(steps.start(tiny), prepared)
    planner = planning._Planner(tiny, stock, tmp_path)
    entries = [planner._entry(cell, 1.0) for cell in stock.cells if cell.is_cached]
    assert planning.total(entries) == costs.Usage(0.0)
    assert planning.counts(planning.Plan("toy", entries, [], 1.0), "prepare_data") == (0, 1)
    next(prepared.folder.glob("*.safetensors")).write_bytes(b"damaged")
    assert not any(cell.is_cached for cell in take_stock(tiny).cells)


def test_the_total_adds_seconds_and_disk_and_takes_the_peak_of_memory(tiny):
    cell = take_stock(tiny).cells[0]
    entries = [
        planning.Entry(cell, costs.Usage(1.0, 300, 0, 5)),
        planning.Entry(cell, costs.Usage(2.5, 200, 7, 6)),
    ]
    assert planning.total(entries) == costs.Usage(3.5, 300, 7, 11)


def test_a_measurement_goes_on_along_the_line_of_its_two_points_and_never_falls():
    assert calibration.onward((100, 1.0), (400, 2.5), 1600) == pytest.approx(8.5)
    assert calibration.onward((100, 2.0), (400, 1.9), 1600) == pytest.approx(1.9)
    assert calibration.onward((100, 1.0), (400, 2.0), 200) == pytest.approx(1.0)


def test_first_images_keeps_their_captions_and_no_others():
    owners = torch.tensor([0, 0, 1, 2, 2, 2])
    images = torch.arange(3 * 2 * 2 * 3, dtype=torch.uint8).reshape(3, 2, 2, 3).numpy()
    split = Split(
        images, owners, torch.arange(6.0)[:, None], tuple("abcdef"), torch.arange(3.0)[:, None]
    )
    found = calibration.first_images(split, 2)
    assert found.captions == ("a", "b", "c")
    assert found.caption_image_idx.tolist() == [0, 0, 1] and found.num_images == 2
    assert found.features is not None and found.features[:, 0].tolist() == [0.0, 1.0]


def test_memory_is_that_of_a_process_of_its_own():
    kept = torch.ones(25_000_000)
    with miniature.watch() as idle:
        pass
    with miniature.watch() as peak:
        more = torch.ones(25_000_000)
    with miniature.watch() as passing:
        passed = torch.ones(25_000_000)
        time.sleep(20 * miniature.SAMPLE_SECONDS)
        del passed
    assert kept.sum() == more.sum() > 0
    assert idle.host_bytes - miniature.idle_bytes() == pytest.approx(0.0, abs=1e7)
    assert peak.host_bytes - miniature.idle_bytes() == pytest.approx(1e8, rel=0.1)
    assert passing.host_bytes - miniature.idle_bytes() == pytest.approx(1e8, rel=0.1)


def test_repeated_work_is_scaled_from_its_differences():
    asked = []

    def run(count):
        asked.append(count)
        # Of the first call, and of one look at either number
        disturbance = 5.0 if len(asked) in (1, 3, 4) else 0.0
        return "ref", costs.Usage(3.0 + 0.5 * count + disturbance, count)

    ref, usage = costs.repeated(run, 100)
    assert (ref, usage.seconds, asked) == ("ref", pytest.approx(53.0), [1, 1, 1, 2, 2])
    assert usage.host_bytes == 2


def test_long_work_is_looked_at_once():
    asked = []

    def run(count):
        asked.append(count)
        return "ref", costs.Usage(10.0 * count, count)

    assert costs.repeated(run, 7)[1].seconds == pytest.approx(70.0) and asked == [1, 1, 2]


def test_missing_raw_data_is_one_message(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in SETTINGS:
        shutil.copy(ROOT / name, tmp_path)
    with pytest.raises(SystemExit) as ended:
        command.main(["--profile", "flickr8k"])
    assert ended.value.code == 2
    assert "there is no dataset folder 'raw/flickr8k'" in capsys.readouterr().err


def test_the_plan_is_a_table_or_json(tiny, tmp_path, monkeypatch, capsys):
    for name in SETTINGS:
        shutil.copy(ROOT / name, tmp_path)
    stock = take_stock(tiny)
    found = planning.Plan(
        "toy",
        [planning.Entry(cell, costs.Usage(2.0, 3_000_000, 0, 4_000)) for cell in stock.cells],
        ["a note"],
        1.0,
    )
    command.show(found, is_json=False)
    table = capsys.readouterr().out
    assert [line.split()[0] for line in table.splitlines()] == [
        "stage",
        *STAGES[:5],
        "bi_trajectory-4",
        *STAGES[5:],
        "total",
        "*",
        "*",
    ]
    assert "3 of 3" in table and "3.0 MB" in table
    command.show(found, is_json=True)
    assert len(json.loads(capsys.readouterr().out)["cells"]) == len(stock.cells)
    changed = [replace(cell, because="changed lr 1 -> 2") for cell in stock.cells[:1]]
    command.show(
        replace(found, entries=[planning.Entry(cell, costs.Usage(2.0)) for cell in changed]),
        is_json=False,
    )
    assert "prepared would be made, because changed lr 1 -> 2" in capsys.readouterr().out
