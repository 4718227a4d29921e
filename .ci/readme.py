"""Run the commands of README.md that stand in fenced blocks marked `sh`; a line with `<` is for a
user's own data and is left out.
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
    count = 0
    path = f"{Path('.venv/bin').resolve()}{os.pathsep}{os.environ['PATH']}"
    for block in re.findall(r"```sh\n(.*?)```", Path("README.md").read_text(), flags=re.DOTALL):
        for line in filter(None, map(str.strip, block.splitlines())):
            if line.startswith(LEFT_OUT) or "<" in line:
                continue
            sys.stdout.write(f"$ {line}\n")
            sys.stdout.flush()
            count += 1
            subprocess.run(
                ["bash", "-euo", "pipefail", "-c", line],
                check=True,
                env={**os.environ, "PATH": path},
            )
    if count == 0:
        sys.exit(
            "README.md has no command in a block marked `sh`; at least one must be there to be run"
        )


if __name__ == "__main__":
    main()
