"""fetch: a raw dataset into `raw/`, registered with DVC. `vl-distillery fetch NAME`.

No flow of Prefect: stages read `raw/` when they run. `tasks/fetching/` does the work.
"""

from __future__ import annotations

import logging
from pathlib import Path

from flows import cli
from flows.services import session
from tasks.settings import files


def main(
    what: str, name: str | None, from_dir: str | None, is_copied: bool | None, is_accepted: bool
) -> None:
    """Fetch a dataset, and exit: 0 done, 2 a wrong input or no answer, 130 interrupted."""
    cli.guarded(
        lambda: _fetch(what, name, from_dir, is_copied, is_accepted),
        interrupted="interrupted; the same command goes on where it broke off",
    )


def _fetch(
    what: str, name: str | None, from_dir: str | None, is_copied: bool | None, is_accepted: bool
) -> None:
    session.switch_offline()
    logging.basicConfig(format="%(message)s")
    cli.LOGGER.setLevel(logging.INFO)
    files.read(files.PARAMS)  # raw/ is that of the folder with params.yaml
    from tasks.fetching import fetch
    from tasks.fetching.sources import shown, source_of

    if (from_dir is None) != (is_copied is None):
        raise ValueError(
            "--from-dir and one of --copy and --link belong together: --copy takes the files, and "
            "DVC stores them; --link leaves them where they are; state both, or none"
        )
    if from_dir is not None and "://" in from_dir:
        raise ValueError(
            "--from-dir: received an address, allowed is a folder; give the address in place of "
            "the name, with --as NAME"
        )
    source = source_of(what, name, has_folder=from_dir is not None)
    # The terms come first, also for who has accepted them already
    print(source.terms, flush=True)
    if from_dir is not None:
        done = fetch.take(source, Path(from_dir), is_linked=not is_copied)
    elif source.files and not is_accepted:
        for file in source.files:
            print(f"  {shown(file.url)}")
        raise ValueError(
            f"{source.name}: nothing is fetched before its terms are accepted; add --accept-terms "
            "when they are, or give what you have by --from-dir"
        )
    else:
        done = fetch.fetch(source)
    for reason, count in done.left_out.items():
        print(f"left out: {count} x {reason}")
    if not done.is_new:
        print(f"{done.folder} is there already and stays as it is; remove it to make it again")
    if done.has_links:
        print(f"{done.folder} holds links: `dvc repro` sees changes, `dvc push` does not carry it")
    else:
        fetch.register(done.folder)
    num_bytes = sum(path.stat().st_size for path in done.files)
    print(
        f"fetch: {done.folder}, {len(done.files):,} files, {num_bytes:,} bytes; "
        "docs/your-own-data.md says how a profile reads it"
    )


if __name__ == "__main__":
    cli.main("fetch")
