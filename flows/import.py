"""import: a set of somebody else as an artifact. `vl-distillery import PATH --as NAME`.

No flow of Prefect: one folder of `data/imported/` is written. `tasks/exchange/imports.py` reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flows import cli
from flows.services import session
from tasks.core.foundations.names import check_name
from tasks.settings import params


def main(settings: Sequence[str], **words: Any) -> None:
    """Import a set, and exit: 0 done, 2 a wrong input, 130 interrupted."""
    cli.guarded(lambda: _import(settings, **words), interrupted=cli.BEGINS_AGAIN)


def _import(settings: Sequence[str], path: str, name: str, replace: bool, **stated: Any) -> None:
    session.switch_offline()
    check_name(name, "set", "--as")
    for option in ("mean", "std"):
        stated[option] = _numbers(f"--{option}", stated[option])
    chosen = params.load(settings)
    from tasks.exchange.imports import Stated, import_set, left_out_of

    found, ref = import_set(chosen, Path(path), name, Stated(**stated), is_replaced=replace)
    print(f"import: {found.num_pairs} pairs to {ref.path}")
    for reason, tally in left_out_of(ref.folder).items():
        print(f"left out: {tally['count']} x {reason}, first {tally['first'][0]}")
    if found not in chosen.imported:
        print(f"add {found} to methods.imported of params.yaml to score it")


def _numbers(option: str, text: str | None) -> tuple[float, ...] | None:
    try:
        return None if text is None else tuple(map(float, text.split(",")))
    except ValueError as error:
        raise ValueError(
            f"{option}: received {text!r}; allowed are three numbers, as 0.5,0.5,0.5; change it"
        ) from error


if __name__ == "__main__":
    cli.main("import")
