"""The students of a study, and its pages: `reports/<profile>/studies/<study>.csv`, `.md` and
`.html`.

`flows/study.py` trains them through the one evaluator. What is trained on which set is computed
here; what the scores say is computed in `tasks/reporting/`.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from tasks import stages
from tasks.keys import Inputs
from tasks.settings import studies
from tasks.settings.params import Params
from tasks.settings.sets import FULL, SetName
from tasks.settings.steps import Evaluation
from tasks.settings.studies import Head, Study
from tasks.step import step
from tasks.store import artifacts, manifests
from tasks.store.artifacts import Ref

RANDOM = "random"
JPEG_QUALITY, NUM_PICTURES = 90, 200
# Forward, and twice that backward: to the weights and to what they were given.
OPERATIONS = 3 * 2
TOLERANCE = 0.15  # of a level, by which whole epochs may miss it


@dataclass(frozen=True)
class Cell:
    """One kind of student: a head, a set and a recipe.

    Attributes:
        level: gigaflops of `fixed_compute`, 0 elsewhere.
    """

    work: Evaluation
    head: Head
    level: float = 0.0


@dataclass(frozen=True)
class Plan:
    """What a study trains.

    Attributes:
        cells: one set after the other, so that each is opened once.
        num_bytes: bytes of each set as stored; real pairs are counted as JPEG.
        same_bytes: {distilled set: the random set that takes as many bytes}.
        left_out: cells that have no whole number of epochs near the level.
    """

    cells: tuple[Cell, ...]
    num_bytes: dict[str, float]
    same_bytes: dict[str, str]
    left_out: tuple[str, ...] = ()

    @property
    def coresets(self) -> list[SetName]:
        """The random sets, in the order of the cells."""
        names = dict.fromkeys(cell.work.set_name for cell in self.cells)
        return [name for name in names if name.method == RANDOM]


def plan(params: Params, study: Study, inputs: Inputs, distilled: Mapping[str, Ref]) -> Plan:
    """Return what a study trains on the sets of a profile."""
    if study.name == studies.SEARCH:
        return _search(params, study, inputs, distilled)
    return _compute(params, study, inputs, distilled)


def _search(params: Params, study: Study, inputs: Inputs, distilled: Mapping[str, Ref]) -> Plan:
    section, recipes = study.section, params.evaluate
    num_train = _num_train(inputs)
    pair_bytes = _real_pair_bytes(inputs.prepared.folder)
    num_bytes, same, sets = {FULL: pair_bytes * num_train}, {}, {FULL: recipes.full}
    for name, ref in distilled.items():
        size, stored = SetName.parse(name).num_pairs, _stored_bytes(ref)
        assert size
        # Random pairs with the bytes of the distilled set; all pairs are the full data, but with
        # one caption each
        beside = min(int(stored / pair_bytes), num_train)
        # They are many, so that they take the recipe of full data, with as many steps in all
        steps_of_full = replace(
            recipes.full, num_epochs=round(recipes.full.num_epochs * num_train / beside)
        )
        same[name] = str(SetName(RANDOM, beside))
        sets |= {name: recipes.small, str(SetName(RANDOM, size)): recipes.small}
        sets |= {same[name]: steps_of_full}
        num_bytes |= {name: stored, str(SetName(RANDOM, size)): pair_bytes * size}
        num_bytes[same[name]] = pair_bytes * beside
    grid = product(section.embed_dim, section.hidden_layers, section.lr, section.tau)
    heads = [Head(*values) for values in grid]
    cells = []
    for (name, recipe), head in product(sets.items(), heads):
        own = replace(recipe, lr_img=head.lr, lr_txt=head.lr)
        work = studies.evaluation(params, study, SetName.parse(name), head, own)
        cells.append(Cell(work, head))
    return Plan(tuple(cells), num_bytes, same)


def _compute(params: Params, study: Study, inputs: Inputs, distilled: Mapping[str, Ref]) -> Plan:
    from tasks.core.training.pair_files import num_images

    section, num_train = study.section, _num_train(inputs)
    small, full = params.evaluate.small, params.evaluate.full
    sets = {FULL: (num_train, full)}
    for size in section.random_pairs:
        sets[str(SetName(RANDOM, size))] = (size, small)
    for name, ref in distilled.items():
        # What an epoch of a student has: parts of a picture are images of their own
        sets[name] = (num_images(ref.folder), small)
    dims, cells, left_out = _dims(inputs), [], []
    for (name, (size, recipe)), width in product(sets.items(), section.embed_dim):
        head = Head(width, 1, recipe.lr_img, params.model.tau)
        per_epoch = size * operations(head, dims) / 1e9
        for level in sorted(section.gigaflops):
            # 0 epochs, where one alone takes more than the level, misses it by all of it
            num_epochs = round(level / per_epoch)
            if abs(num_epochs * per_epoch / level - 1) > TOLERANCE:
                left_out.append(f"{name} at width {width} with {level:g} GFLOP")
                continue
            own = replace(recipe, num_epochs=num_epochs)
            place = f"gflop{level:g}"
            work = studies.evaluation(params, study, SetName.parse(name), head, own, place)
            cells.append(Cell(work, head, level))
    return Plan(tuple(cells), {}, {}, tuple(left_out))


def operations(head: Head, dims: tuple[int, int]) -> int:
    """Return the operations of training a head on one pair once: those of its layers.

    Features of frozen encoders are there already, and the similarity of a batch is not counted.

    Args:
        dims: widths of image features and of caption embeddings.
    """
    width = head.embed_dim
    return OPERATIONS * width * (sum(dims) + 2 * head.hidden_layers * width)


def _dims(inputs: Inputs) -> tuple[int, int]:
    from tasks.core.data.storage import EMBEDDINGS
    from tasks.core.foundations.tensor_files import map_tensor

    text_dim = map_tensor(inputs.embeddings.folder / EMBEDDINGS, "embeddings").shape[1]
    return manifests.read(inputs.start.folder, "out_dim").facts["out_dim"], int(text_dim)


def _num_train(inputs: Inputs) -> int:
    return manifests.read(inputs.prepared.folder, "num_images").facts["num_images"]["train"]


def _stored_bytes(pairs: Ref) -> float:
    from tasks.core.training.pair_files import PAIRS

    return float((pairs.folder / PAIRS).stat().st_size)


def _real_pair_bytes(prepared: Path) -> float:
    """Return the mean bytes of a training picture as JPEG at its prepared size, with one caption.

    It is taken over pictures spread evenly, since raw files have other sizes, or are none.
    """
    import pandas as pd
    from PIL import Image

    from tasks.core.foundations.file_names import CAPTIONS, IMAGES, NAMES
    from tasks.core.foundations.tensor_files import map_tensor

    images = map_tensor(prepared / IMAGES, "images")
    is_train = pd.read_parquet(prepared / NAMES)["split"] == "train"
    rows = is_train.to_numpy().nonzero()[0]
    chosen = rows[:: max(1, len(rows) // NUM_PICTURES)]
    total = 0
    for row in chosen:
        packed = io.BytesIO()
        Image.fromarray(images[row]).save(packed, "JPEG", quality=JPEG_QUALITY)
        total += len(packed.getvalue())
    captions = pd.read_parquet(prepared / CAPTIONS)["text"]
    return total / len(chosen) + float(captions.str.encode("utf-8").str.len().mean())


@dataclass(frozen=True)
class Written:
    """The pages of a study.

    Attributes:
        numbers: of the rows of its first table, {row: {metric: value}}.
    """

    files: list[Path]
    numbers: dict[str, dict[str, float]]


@step("{study.name}")
def write_study(
    params: Params, study: Study, planned: Plan, scores: Sequence[Sequence[Ref]]
) -> Written:
    """Write the pages; it takes a moment, so they are always written anew.

    Args:
        scores: artifacts of evaluate of each cell, one a student.
    """
    import pandas as pd

    from tasks.reporting import fixed_compute, head_ranking
    from tasks.reporting.stored import load_scores
    from tasks.reporting.study_page import write_pages

    parts = []
    for cell, refs in zip(planned.cells, scores, strict=True):
        frame, _ = load_scores(ref.folder for ref in refs)
        # `small` and `full` are the same here, see `studies.evaluation`
        recipe = cell.work.section.full
        parts.append(
            frame.assign(
                head=cell.head.name,
                **vars(cell.head),
                num_epochs=recipe.num_epochs,
                gigaflops=cell.level,
            )
        )
    artifacts.confirm(ref for refs in scores for ref in refs)
    frame = pd.concat(parts, ignore_index=True)
    facts = _facts(params, [ref for refs in scores for ref in refs])
    dataset = params.report.dataset
    if study.name == studies.SEARCH:
        ranked = head_ranking.Notes(planned.num_bytes, planned.same_bytes, JPEG_QUALITY)
        page = head_ranking.build(study.name, study.title, dataset, frame, ranked, facts)
    else:
        notes = fixed_compute.Notes(frozenset(params.distillers), planned.left_out, TOLERANCE)
        page = fixed_compute.build(study.name, study.title, dataset, frame, notes, facts)
    files = write_pages(page, stages.REPORTS / params.profile / "studies")
    return Written(files, page.numbers)


def _facts(params: Params, refs: Sequence[Ref]) -> dict[str, str]:
    """Where the numbers are from, as text."""
    commits, devices, seconds = set(), set(), 0.0
    for ref in refs:
        facts = manifests.read(ref.folder, "git", "device", "seconds").facts
        changed = " with uncommitted changes" if facts["git"]["is_dirty"] else ""
        commits.add((facts["git"]["commit"] or "unknown") + changed)
        devices.add(facts["device"])
        seconds += facts["seconds"]
    return {
        "profile": params.profile,
        "encoders": f"{params.image_encoder.label} and {params.text_encoder.label}, frozen",
        "protocol": params.evaluate.protocol,
        "students": str(len(refs)),
        "commit of the scores": ", ".join(sorted(commits)),
        "machine": ", ".join(sorted(devices)),
        "training of students": f"{seconds:.0f} s",
    }
