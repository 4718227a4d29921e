"""The house keeps its shape: file and function sizes, one name per stage, arrows that point
down.
"""

from __future__ import annotations

import ast
import re
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tasks.stages import STAGES
from tests.workspace import ROOT

SOURCES = sorted(
    path for folder in ("flows", "tasks", "tests") for path in (ROOT / folder).rglob("*.py")
)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_has_at_most_400_lines_and_its_functions_80(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 400
    assert max(map(len, text.splitlines()), default=0) <= 100
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or node.lineno) - node.lineno + 1 <= 80, node.name


def test_half_of_the_source_files_have_fewer_than_150_lines():
    assert (
        statistics.median(
            len(path.read_text().splitlines()) for path in SOURCES if path.name != "__init__.py"
        )
        < 150
    )


def test_every_source_file_says_what_it_is_for_in_plain_ascii():
    for path in SOURCES:
        text = path.read_text()
        assert text.isascii(), path
        assert not text.strip() or ast.get_docstring(ast.parse(text)), path


def test_no_file_is_named_for_nothing():
    assert not [path for path in SOURCES if path.stem in {"utils", "helpers", "common", "misc"}]


def test_a_stage_has_one_name_in_the_table_the_flows_the_tasks_and_dvc():
    dvc = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    assert list(dvc) == list(STAGES)
    for name in STAGES:
        assert (ROOT / "flows" / f"{name}.py").is_file()
        assert (ROOT / "tasks" / f"{name}.py").is_file()
        command = dvc[name].get("cmd")
        assert command.startswith(f"python -m flows.cli {name}")


def test_dvc_watches_the_sections_and_the_inputs_of_the_stage_table():
    dvc = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    for name, stage in STAGES.items():
        watched = dvc[name]["params"]
        for section in stage.sections:
            assert any(entry.startswith(f"profiles.${{profile}}.{section}") for entry in watched), (
                name,
                section,
            )
        for source in stage.reads:
            assert f"data/{STAGES[source].folder}/${{profile}}" in dvc[name]["deps"], (name, source)
        if stage.folder:
            assert any(f"data/{stage.folder}/${{profile}}" in str(out) for out in dvc[name]["outs"])


def test_every_profile_of_params_has_the_sections_of_the_stages():
    profiles = yaml.safe_load((ROOT / "params.yaml").read_text())["profiles"]
    for body in profiles.values():
        for name in STAGES:
            assert name in body


def test_imports_keep_the_contracts():
    done = subprocess.run(
        [Path(sys.executable).parent / "lint-imports"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_tests_lie_in_the_rooms_of_what_they_test():
    rooms = {path.name for path in (ROOT / "tasks/core").iterdir() if path.is_dir()}
    tested = {path.name for path in (ROOT / "tests/core").iterdir() if path.is_dir()}
    assert tested - {"__pycache__"} == rooms - {"__pycache__"}
    assert not list((ROOT / "tests/core").glob("test_*.py"))


def test_no_docstring_has_a_sentence_of_more_than_25_words():
    long = [
        f"{path.relative_to(ROOT)}: {sentence}"
        for path in SOURCES
        if path.relative_to(ROOT).parts[0] != "tests"
        for sentence in _sentences(path)
        if len(sentence.split()) > 25
    ]
    assert not long, "\n".join(long)


def _sentences(path):
    """Yield the sentences of the docstrings of a file; a blank line or an entry ends one too."""
    documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    for node in ast.walk(ast.parse(path.read_text())):
        text = ast.get_docstring(node) if isinstance(node, documented) else None
        for paragraph in re.split(r"\n\s*\n|\n(?=\s*(?:[\w*, ]+:|\* ))", text or ""):
            yield from re.split(r"(?<=[.!?;:])\s+", " ".join(paragraph.split()))


def test_no_tracked_file_is_larger_than_a_mebibyte():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    files = [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    assert [path.name for path in files if path.is_file() and path.stat().st_size > 2**20] == []
