"""export: a stored set as a folder that loads without this program, with a card that tells what it
is. `vl-distillery export SET --to DIR`.

No flow of Prefect: nothing of `data/` changes. `tasks/exchange/` writes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flows import cli
from flows.services import session
from tasks.settings import params


def main(settings: Sequence[str], **words: Any) -> None:
    """Export a set, and exit: 0 done, 2 a wrong input, 130 interrupted."""
    cli.guarded(lambda: _export(settings, **words), interrupted=cli.BEGINS_AGAIN)


def _export(settings: Sequence[str], name: str, to: str, replace: bool, **choice: Any) -> None:
    session.switch_offline()
    chosen = params.load(settings)
    from tasks.exchange.export import Choice, export
    from tasks.exchange.source import open_source

    how = Choice(**choice)
    done = export(open_source(chosen, name), Path(to), how, is_replaced=replace)
    print(f"export: {name}, {done.num_pairs} pairs, {done.num_bytes:,} bytes to {to}")
    print(done.cost.in_words)


if __name__ == "__main__":
    cli.main("export")
