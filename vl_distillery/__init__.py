"""The pipeline's artifacts from Python: look at a set, train a student on it, compare scores.

Nothing here makes an artifact or starts a service; locks lie in `data/.locks`. The working folder
is the one with params.yaml. See docs/notebook.ipynb.
"""

from __future__ import annotations

import io
import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from tasks import stages
from tasks.core.data.storage import load_split
from tasks.core.evaluation import metrics
from tasks.core.evaluation.statistics import describe
from tasks.core.foundations.file_names import SCORE
from tasks.core.foundations.names import hint
from tasks.core.foundations.records import Split
from tasks.core.training.pair_files import load_pairs
from tasks.core.training.pair_set import PairSet
from tasks.exchange.found import imported
from tasks.exchange.real_pairs import CAPTIONS
from tasks.keys import Inputs
from tasks.planning.inventory import Entry, cells_of, digests, look
from tasks.reporting.gallery import to_pictures, write_contact_sheet, write_sheet
from tasks.reporting.stored import load_gallery
from tasks.search import nearest
from tasks.settings import params, steps
from tasks.settings.params import Params
from tasks.settings.sets import FULL, SetName
from tasks.store import artifacts
from tasks.store.artifacts import Ref
from tasks.store.manifests import DamagedArtifact, canonical_digest
from tasks.student_models import Student, train_student

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Profile", "Set", "Student", "leaderboard", "open_profile"]

SHOWN = 12  # pairs of a contact sheet


@dataclass(frozen=True)
class Set:
    """A coreset, a distilled or an imported set. In a notebook it shows itself as a contact sheet.

    Attributes:
        pairs: what students train on, see `tasks/core/training/pair_set.py`.
        captions: of real pairs their own; for texts that are vectors, the nearest training
            sentences.
        sheet: the contact sheet of the first pairs, a PNG.
    """

    name: str
    ref: Ref
    pairs: PairSet = field(repr=False)
    captions: tuple[str, ...] = field(repr=False)
    sheet: bytes = field(repr=False)

    def _repr_png_(self) -> bytes:
        return self.sheet


class Profile:
    """What a profile of params.yaml has made so far; nothing is computed to open it."""

    def __init__(self, chosen: Params, settings: Sequence[str] = ()) -> None:
        self._params, self._settings = chosen, settings
        # Verifies every artifact and makes none: the tasks of the pipeline are asked themselves
        entries = look(cells_of(chosen))
        self._entries = {entry.cell.name: entry for entry in entries}
        self._imported = imported(chosen, digests(entries))

    def __repr__(self) -> str:
        return f"Profile({self._params.profile!r}, sets={self.sets})"

    @property
    def sets(self) -> list[str]:
        """Names of the sets that are there, for example `bi_trajectory-50`; imported ones last."""
        made = [str(name) for name in self._params.sets if self._entries[str(name)].ref]
        return [*made, *self._imported]

    def set(self, name: str) -> Set:
        """Return a set by its name.

        Raises:
            ValueError: the profile has no such set.
            FileNotFoundError: it is not made.
        """
        ref, buffer = self._made(name), io.BytesIO()
        pairs, train = load_pairs(ref.folder), self._train()
        if name in self._imported:
            captions = pairs.provenance.get(CAPTIONS) or _nearest(pairs, train)
            _draw(f"{name}: imported", pairs, captions, buffer)
        elif SetName.parse(name).method in self._params.distillers:
            # The texts of a distilled set are vectors; its gallery has the nearest sentences
            decoded = self._made(f"{name} gallery").folder
            gallery = load_gallery(decoded, ref.folder, pairs.num_pairs)
            captions = [row.nearest_sentence for row in gallery.rows]
            write_contact_sheet(replace(gallery, rows=gallery.rows[:SHOWN]), buffer)
        else:
            captions = [train.captions[row] for row in pairs.provenance["caption_idx"]]
            _draw(f"{name}: real pairs", pairs, captions, buffer)
        return Set(name, ref, pairs, tuple(captions), buffer.getvalue())

    def train(self, pairs: Set | None = None, seed: int = 0) -> Student:
        """Train a fresh student as `evaluate` does, and write nothing.

        Args:
            pairs: None trains on the full data.
            seed: the k of the pipeline's `seed_<k>`: the same seed gives the same student.

        Raises:
            ValueError: `pairs` is no set of this profile or was made again since, or `seed` is no
                number from 0.
        """
        if not (pairs is None or isinstance(pairs, Set)) or not isinstance(seed, int) or seed < 0:
            raise ValueError(
                f"train: received {pairs!r} and the seed {seed!r}; allowed is a set that "
                "`profile.set(name)` gives, or None, and a seed from 0"
            )
        # A `Set` may come from a profile that was opened before artifacts were made again
        if pairs and pairs.ref.digest != self._made(pairs.name).digest:
            raise ValueError(
                f"train: received {pairs.name} of another profile or of other settings; it was not "
                f"made for this one; take `profile.set({pairs.name!r})` of the profile that trains"
            )
        name = SetName.parse(pairs.name if pairs else FULL)
        found = (self._made(part) for part in ("prepared", "embeddings", "start"))
        work = steps.evaluation(self._params, name)
        return train_student(work, Inputs(*found), pairs.ref if pairs else None, seed)

    def _train(self) -> Split:
        return load_split(self._made("prepared").folder, self._made("embeddings").folder, "train")

    def _made(self, name: str) -> Ref:
        if name in self._imported:
            return self._imported[name]
        names = [str(one) for one in (*self._params.sets, *self._params.imported)]
        if name not in self._entries:
            raise ValueError(
                f"received the set {name!r}{hint(name, names)}; allowed: {', '.join(names)}; "
                "`methods` and `budgets` of params.yaml choose them"
            )
        entry: Entry = self._entries[name]
        # A missing artifact has no reason of its own where its inputs are missing too
        if entry.ref is None:
            because = entry.because or self._upstream()
            words = ["vl-distillery", "pipeline", "--profile", self._params.profile]
            for setting in self._settings:
                words += ["--set", setting]
            raise FileNotFoundError(
                f"{name} of profile {self._params.profile} would have to be made, because "
                f"{because}; run `{shlex.join(words)}`, then open the profile again"
            )
        return entry.ref

    def _upstream(self) -> str:
        """Return why the first artifact of the profile that is not there would be made."""
        for entry in self._entries.values():
            if entry.ref is None and entry.because:
                return f"{entry.cell.name} would be: {entry.because}"
        return "what it is made from is not there"


def open_profile(profile: str | None = None, settings: Sequence[str] = ()) -> Profile:
    """Return what a profile has made.

    Args:
        profile: None takes the one that params.yaml names.
        settings: `section.key=value`, as after `--set`.

    Raises:
        ValueError: `settings` is no list; and see `tasks.settings.params.load`.
        FileNotFoundError: no params.yaml in the working folder.
    """
    if isinstance(settings, str):
        raise ValueError(f"settings: received {settings!r}; allowed is a list: [{settings!r}]")
    named = [] if profile is None else [f"profile={profile}"]
    return Profile(params.load([*named, *settings]), settings)


def leaderboard(data: Path | str = stages.DATA) -> pd.DataFrame:
    """Return the scores below a folder of artifacts, best first: one row for all students that
    differ in their seed alone.

    Columns: `profile`, `set`, `student`, `protocol`, `made_from`, `students` (how many), the mean
    of each metric in percent, and `deviation` of mean_recall (divisor n - 1, empty for one
    student). `made_from` tells rows of one name apart: it stands for recipe, set and data.

    Raises:
        FileNotFoundError: there are no scores below `data`.
        DamagedArtifact: a score is not what its manifest says.
    """
    import pandas as pd

    scores = Path(data) / stages.STAGES["evaluate"].folder
    rows = []
    for path in sorted(scores.rglob(SCORE)):
        profile = path.relative_to(scores).parts[0]
        # Verified one by one: a score that was edited must not lead the table
        score, made_from = json.loads(path.read_text()), _made_from(path.parent)
        rows.append({"profile": profile, "made_from": made_from, **score})
    if not rows:
        raise FileNotFoundError(
            f"no {SCORE} below {scores}; `data` is the folder that a pipeline has written to; run "
            "`vl-distillery pipeline`"
        )
    groups = ["profile", "set", "student", "protocol", "made_from"]
    table = []
    for names, part in pd.DataFrame(rows).groupby(groups):
        found = describe(part["mean_recall"])
        numbers = {name: describe(part[name]).mean for name in metrics.NAMES}
        row = dict(zip(groups, names, strict=True))
        table.append({**row, "students": found.n, **numbers, "deviation": found.deviation})
    # A stable sort, so that equal scores stay in the order of their names
    best = pd.DataFrame(table).sort_values("mean_recall", ascending=False, kind="stable")
    return best.reset_index(drop=True)


def _nearest(pairs: PairSet, train: Split) -> list[str]:
    """Return the nearest training sentence of each text."""
    rows = nearest(pairs.text_embeds, train.text_embeds)[1][:, 0]
    return [train.captions[row] for row in rows]


def _draw(title: str, pairs: PairSet, captions: Sequence[str], target: BinaryIO) -> None:
    """Write the contact sheet of a set, each picture with its first text."""
    pictures = to_pictures(pairs.images[:SHOWN], pairs.mean, pairs.std)
    firsts = [captions[text] for text in pairs.first_texts[:SHOWN].tolist()]
    tiles = [(tile,) for tile in zip(pictures, firsts, strict=True)]
    write_sheet(title, tiles, target)


def _made_from(folder: Path) -> str:
    """Return 8 digits that are the same for students that differ in their seed alone."""
    manifest = artifacts.verify(folder)
    if manifest is None:
        raise DamagedArtifact(f"{folder}: it has no manifest")
    what = {name: value for name, value in manifest.params.items() if name != "seed_idx"}
    return canonical_digest([what, manifest.inputs])[:8]
