"""distill-sweep: distils and scores every cell of a space, spread over workers, and ends with a
leaderboard.

This process is light: it imports no PyTorch. `flows/sweeps/` has the rest; docs/sweeps.md the
forms of a space. Without a server the workers are processes of this machine.
"""

from __future__ import annotations

import contextlib
import hashlib
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

from pydantic import Field

from flows import cli
from flows.grid import sets
from flows.runner import flow
from flows.sweeps import record
from flows.sweeps.asking import asked
from flows.sweeps.course import Course, Told
from flows.sweeps.local import local_pool
from flows.sweeps.ray_cluster import RAY, ray_pool
from flows.sweeps.record import Record
from flows.sweeps.remote import crash_former, remote_pool
from flows.sweeps.sources import Listed, Searched, Source, shares_experts
from flows.sweeps.units import Pool
from tasks import stages
from tasks.core.foundations.names import hint
from tasks.reporting.leaderboard import FAILED, Leaderboard, best_of, markdown
from tasks.settings import tree
from tasks.settings.files import PARAMS, keys_of
from tasks.settings.overrides import TOP, text_of
from tasks.settings.space import (
    Cell,
    Settings,
    Space,
    cells_of,
    cells_with,
    check_axes,
    extremes,
    space_of,
)

SWEEP = "sweep"
HOW = ("workers", "pool", "num_gpus")  # words that change no cell
PoolName = Literal["gpu", "cpu", "ray"]


@dataclass(frozen=True)
class SweepRefs:
    """What a sweep made: each artifact with whether it was there, and the best cell's name."""

    artifacts: dict[str, bool]
    best: str | None

    def count(self) -> tuple[int, int]:
        """Return how many artifacts were made and how many were there."""
        cached = sum(self.artifacts.values())
        return len(self.artifacts) - cached, cached


@flow("distill-sweep")
def distill_sweep(
    settings: Sequence[str] = (),
    force: bool = False,
    accept_code: bool = False,
    methods: Sequence[str] | None = None,
    budgets: Sequence[int] | None = None,
    space: Space | None = None,
    name: str | None = None,
    workers: Annotated[int, Field(ge=1, le=256)] = 1,
    pool: PoolName | None = None,
    num_gpus: Annotated[float, Field(ge=0, le=1)] | None = None,
) -> SweepRefs:
    """Distil and score every cell of a space, each beside random selection of its size.

    Args:
        settings: overrides of params.yaml, `section.key=value`; those of a cell come after them.
        force: distil and score what is there again.
        accept_code: keep artifacts whose code alone has changed.
        methods: cells of these distillers only.
        budgets: cells of these sizes only.
        space: which cells; None takes `sweep` of params.yaml.
        name: of the sweep; the same name goes on with it. None makes one of what it is told.
        workers: cells that are made at once: processes on this machine, or flow runs on the pool.
        pool: the work pool that cells run on as flow runs of their own, or `ray`, the cluster
            that RAY_ADDRESS names; None takes processes of this machine.
        num_gpus: the share of a card that a unit takes on Ray; None takes one where there are
            cards.

    Raises:
        ValueError: a wrong space or cell, before anything is computed; or cells that failed, after
            all others are done.
    """
    raw, profile, own = _tree(settings)
    typed = space_of(raw[SWEEP] if space is None else space, f"{PARAMS}: {SWEEP}")
    methods, sizes = list(methods or ()), list(budgets or ())
    words = {
        "settings": list(settings),
        "accept_code": accept_code,
        "methods": methods,
        "budgets": sizes,
        "space": typed.model_dump(),
        "workers": workers,
        "pool": pool,
        "num_gpus": num_gpus,
    }
    told_apart = {key: value for key, value in words.items() if key not in HOW}
    digest = hashlib.sha256(text_of(told_apart).encode()).hexdigest()[:6]
    name = name or f"{typed.kind}-{digest}"
    with record.running(profile, name, {**words, "name": name}) as kept:
        planned, ends, source = _source(typed, raw, methods, sizes, kept.asked)
        checked = [[one.variant] for one in ends]
        told = Told(own, time.time() if force else None, accept_code, checked, planned)
        with _pool(kept, pool, workers, num_gpus) as found:
            # From here on an interrupt cancels what the former parent had started, too
            crash_former(kept)
            course = Course(kept, told, source, found)
            board = course.run(_publish)
    _tell(board)
    return SweepRefs(course.refs, getattr(best_of(board.rows), "name", None))


def _tree(settings: Sequence[str]) -> tuple[dict[str, Any], str, list[str]]:
    """Return the raw parameters, the profile, and the settings that the cells are told.

    Raises:
        ValueError: a setting that params.yaml does not take, or a variant.
    """
    raw, variant = tree.overridden(settings)
    keys_of(raw, TOP, str(PARAMS))
    if variant is not None:
        raise ValueError(
            f"a sweep sets the variant of each of its cells; received {tree.VARIANT}={variant} as "
            "well; leave it out, or make it the values of a cell"
        )
    if raw["profile"] not in raw["profiles"]:
        raise ValueError(
            f"{PARAMS}: unknown profile {raw['profile']!r}"
            f"{hint(raw['profile'], map(str, raw['profiles']))}; available: "
            f"{', '.join(sorted(raw['profiles']))}; change `profile`"
        )
    own = [one for one in settings if one.partition("=")[0].partition(".")[0] != SWEEP]
    return raw, raw["profile"], own


def _pool(
    kept: Record, pool: str | None, workers: int, num_gpus: float | None
) -> contextlib.AbstractContextManager[Pool]:
    if pool == RAY:
        return ray_pool(kept, workers, num_gpus)
    if num_gpus is not None:
        raise ValueError(
            f"--num-gpus: received {num_gpus:g} with --pool {pool}; allowed with --pool {RAY} "
            "alone, since other workers have a card each; leave it out"
        )
    if pool is None:
        return local_pool(workers, kept.folder)
    known = get_args(PoolName)
    if pool not in known:
        raise ValueError(
            f"--pool: received {pool!r}{hint(pool, known)}; allowed: {', '.join(known)}; change it "
            "or leave it out"
        )
    return remote_pool(kept, pool, workers)


def _source(
    space: Space,
    raw: dict[str, Any],
    methods: list[str],
    sizes: list[int],
    asked: list[dict[str, Any]],
) -> tuple[list[Cell], list[Cell], Source]:
    """Return the cells to plan, those to check alone, and where cells come from."""
    if space.search is None:
        every = cells_of(space, raw)
        names, budgets = (
            dict.fromkeys(cell.swept[key] for cell in every) for key in ("methods", "budgets")
        )
        for method in methods:
            sets("distillers", names, budgets, method)
        for size in sizes:
            sets("distillers", names, budgets, None, size)
        listed = cells_of(space, raw, methods, sizes)
        return listed, [], Listed(listed)
    search = space.search
    check_axes(search.over)

    def make(settings: Settings) -> Cell:
        return _only(cells_with(settings, raw, methods, sizes))

    ends = [make(settings) for settings in extremes(search.over)]
    shared = [ends[0]] if shares_experts(search.over) else []
    return shared, ends, Searched(search, make, asked)


def _only(cells: list[Cell]) -> Cell:
    """Return the one cell of a setting: a search compares no methods or sizes but by an axis."""
    if len(cells) != 1:
        raise ValueError(
            f"sweep.search: received {len(cells)} sets for one setting "
            f"({', '.join(cell.name for cell in cells) or 'none'}); allowed is one, since a search "
            "looks for one best cell; name a method and a size by --method and --num-pairs, or put "
            "`methods` or `budgets` into `over`"
        )
    return cells[0]


def _publish(board: Leaderboard) -> None:
    """Show the leaderboard in Prefect where a run of it surrounds us."""
    context = sys.modules.get("prefect.context")
    if context is None or context.FlowRunContext.get() is None:
        return
    from prefect.artifacts import create_markdown_artifact

    key = f"sweep-{hashlib.sha256(f'{board.profile} {board.name}'.encode()).hexdigest()[:10]}"
    words = {"markdown": markdown(board), "key": key, "description": f"Sweep {board.name}"}
    asked(lambda: create_markdown_artifact(**words))


def _tell(board: Leaderboard) -> None:
    """Print where the leaderboard is, the best cell, and the cells that failed.

    Raises:
        ValueError: a cell failed.
    """
    print(stages.REPORTS / board.profile / "sweeps" / f"{board.name}.html")
    best = best_of(board.rows)
    if best is not None:
        test = f"{best.scores['mean_recall']:.1f} % on the test split"
        print(f"best: {best.name}, {best.scores['val']:.1f} % validation recall, {test}")
        print(f"again: {board.command}")
    failed = [row for row in board.ranked if row.state == FAILED]
    for row in failed:
        print(f"failed: {row.name}: {row.reason}")
    if failed:
        raise ValueError(
            f"{len(failed)} of {len(board.rows)} cells failed, for the reasons above; the others "
            "are done; mend what they name, and the same command tries them again"
        )


if __name__ == "__main__":
    cli.main("distill_sweep")
