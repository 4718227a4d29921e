"""Run the commands of README.md and docs/*.md that stand in fenced blocks marked `sh`, each once.

A line with `<` is for a user's own data and is left out.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

# Ui serves until Ctrl-C; the other two have just run
LEFT_OUT = ("make ui", "make test", "make demo", "#")


def main() -> None:
    """Stop at the first command that fails."""
    found = commands([Path("README.md"), *sorted(Path("docs").glob("*.md"))])
    path = f"{Path('.venv/bin').resolve()}{os.pathsep}{os.environ['PATH']}"
    for line in found:
        sys.stdout.write(f"$ {line}\n")
        sys.stdout.flush()
        subprocess.run(
            ["bash", "-euo", "pipefail", "-c", line],
            check=True,
            env={**os.environ, "PATH": path},
        )
    if not found:
        sys.exit(
            "README.md and docs/ have no command in a block marked `sh`; at least one must be "
            "there to be run"
        )


def commands(pages: list[Path]) -> list[str]:
    """Return the different commands of the pages, in order."""
    found: dict[str, None] = {}
    for page in pages:
        for block in re.findall(r"```sh\n(.*?)```", page.read_text(), flags=re.DOTALL):
            for line in map(str.strip, block.splitlines()):
                if line and not line.startswith(LEFT_OUT) and "<" not in line:
                    found[line] = None
    return list(found)


if __name__ == "__main__":
    main()
