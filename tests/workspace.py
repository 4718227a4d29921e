"""A temporary copy of what the pipeline needs, with sizes so small that every stage takes a second
or two.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import yaml

from tasks.settings import files, params
from tasks.settings.overrides import override
from tests.forked import run_program

ROOT = Path(__file__).parents[1]
COPIED = (
    "dvc.yaml",
    "prefect.yaml",
    ".dvcignore",
    ".gitignore",
    ".dvc/config",
    ".dvc/.gitignore",
    "raw/digests.json",
)
SETTINGS = ("params.yaml", "presets.yaml")
FLOW = "import sys; from flows.cli import main; main(sys.argv[1], sys.argv[2:])"
TINY = (
    "budgets=[4]",
    "prepare_data.image_size=32",
    "prepare_data.options.image_size=32",
    "prepare_data.options.num_train=48",
    "prepare_data.options.num_val=12",
    "prepare_data.options.num_test=12",
    "train_experts.num_experts=2",
    "train_experts.num_epochs=3",
    "train_experts.batch_size=16",
    "select_coresets.options.forgetting.num_epochs=2",
    "distill.matching.iterations=2",
    "distill.matching.syn_steps=2",
    "distill.matching.mini_batch_size=4",
    "evaluate.num_eval=1",
    "evaluate.small.num_epochs=2",
    "evaluate.small.num_validations=1",
    "evaluate.full.num_epochs=1",
    "evaluate.full.num_validations=1",
    "report.gallery_pairs=2",
    "methods.coresets=[random, herding]",
)


@dataclass(frozen=True)
class Workspace:
    """A folder in which flows and DVC run as a user would run them."""

    folder: Path

    def run(
        self, *command: str, seconds: float = 120, check: bool = True, **env: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a program of this environment in the folder and return it with its output."""
        done = subprocess.run(
            command,
            cwd=self.folder,
            env={**environment(), **env},
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
        assert not check or done.returncode == 0, (
            f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
        )
        return done

    def kill_when(self, is_ready: Callable[[], bool], *command: str, seconds: float = 90) -> bool:
        """Start a program, with what it starts itself, and kill -9 all of it once `is_ready()`;
        returns whether it was still running.
        """
        process = subprocess.Popen(
            command,
            cwd=self.folder,
            env=environment(),
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        limit = time.monotonic() + seconds
        while time.monotonic() < limit and process.poll() is None and not is_ready():
            time.sleep(0.01)
        was_running = process.poll() is None and is_ready()
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return was_running

    def flow(
        self, name: str, *options: str, seconds: float = 120, check: bool = True, **env: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a flow as `python -m flows.cli` does, without the seconds of imports."""
        return self.program(FLOW, name, *options, seconds=seconds, check=check, **env)

    def program(
        self, code: str, *arguments: str, seconds: float = 120, check: bool = True, **env: str
    ) -> subprocess.CompletedProcess[str]:
        """Run code as `python -c` does, without the seconds of imports."""
        done = run_program(self.folder, code, arguments, {**environment(), **env}, seconds)
        assert not check or done.returncode == 0, (
            f"{arguments} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
        )
        return done

    def flow_alone(
        self, name: str, *options: str, **how: object
    ) -> subprocess.CompletedProcess[str]:
        """Run `python -m flows.<name>` as a process of its own."""
        return self.run("python", "-m", f"flows.{name}", *options, **how)  # type: ignore[arg-type]

    def set(self, *settings: str) -> None:
        """Write overrides into the copy's params.yaml and presets.yaml."""
        tree = params.read_tree(self.folder / "params.yaml")
        for setting in settings:
            override(tree, setting)
        own = {name: body.pop("presets") for name, body in tree["profiles"].items()}
        kept = files.read(self.folder / "presets.yaml")["studies"]
        held = {"presets": tree.pop("presets"), "profiles": own, "studies": kept}
        for name, content in (("params.yaml", tree), ("presets.yaml", held)):
            (self.folder / name).write_text(yaml.safe_dump(content, sort_keys=False))

    def digests(self) -> dict[str, str]:
        """Return the text of every manifest's files by artifact folder."""
        import json

        found = {}
        # A walk, unlike a glob, stands that folders of work vanish meanwhile
        for place, folders, names in os.walk(self.folder / "data"):
            if ".work" in folders:
                folders.remove(".work")
            if "manifest.json" in names:
                content = json.loads((Path(place) / "manifest.json").read_text())
                name = str(Path(place).relative_to(self.folder))
                found[name] = json.dumps(content["files"], sort_keys=True)
        return found


def environment() -> dict[str, str]:
    """This environment's programs, one thread, and nothing that the caller's environment says to
    the services.
    """
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PREFECT_", "MLFLOW_", "DVC_"))
    }
    return {**kept, "PATH": path, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}


def make_workspace(folder: Path, settings: tuple[str, ...] = TINY) -> Workspace:
    """Copy the code and the settings of the repository to `folder`, as a git repository of its
    own.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for package in ("tasks", "flows", "vl_distillery"):
        shutil.copytree(
            ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    for name in SETTINGS:
        shutil.copy(ROOT / name, folder)
    for name in COPIED:
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    workspace = Workspace(folder)
    workspace.set(*settings)
    subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)
    return workspace
