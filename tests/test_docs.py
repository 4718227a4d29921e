"""The pages for readers: short enough, and true about files, sections and links."""

import re

import pytest

from tests.workspace import ROOT

README = ROOT / "README.md"
PAGES = [README, ROOT / "tasks" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
CODE = [*sorted((ROOT / "tasks").rglob("*.py")), *sorted((ROOT / "flows").rglob("*.py"))]

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def test_the_readme_has_at_most_120_lines_of_120_columns():
    lines = README.read_text().splitlines()
    assert len(lines) <= 120
    assert [line for line in lines if len(line) > 120] == []


def test_the_readme_has_its_first_command_before_line_30():
    assert README.read_text().splitlines().index("```sh") < 30


@each_page
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text())
    local = [link for link in links if not link.startswith("http")]
    assert [link for link in local if not (page.parent / link).exists()] == []


@each_page
def test_named_files_exist(page):
    named = re.findall(
        r"\b(?:tasks|flows|tests|infra|docs)/[\w/.-]*\w\.(?:py|md)\b", page.read_text()
    )
    assert [path for path in named if not (ROOT / path).is_file()] == []


@each_page
def test_pages_are_ascii(page):
    assert page.read_text().isascii()


def test_the_code_cites_sections_of_the_method_that_exist():
    method = (ROOT / "docs" / "method.md").read_text()
    sections = re.findall(r"^## (\d+)\. ", method, flags=re.MULTILINE)
    assert sections == [str(number) for number in range(1, 10)]
    cited = {
        number: path.name
        for path in CODE
        for pair in re.findall(r"METHOD\s+(\d+)(?:\s+and\s+(\d+))?", path.read_text())
        for number in filter(None, pair)
    }
    assert len(cited) >= 7
    assert {number: name for number, name in cited.items() if number not in sections} == {}


def test_the_tree_names_every_file_of_flows_and_tasks():
    tree = (ROOT / "docs" / "tree.md").read_text()
    names = [path.stem for path in CODE if path.stem != "__init__"]
    assert [name for name in names if not re.search(rf"\b{name}\b", tree)] == []
