"""params.yaml has the one form that its readers and DVC agree about, and says each value once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import yaml

from tests.workspace import ROOT

PARAMS = ROOT / "params.yaml"
MERGE = "tag:yaml.org,2002:merge"
TEXT = "tag:yaml.org,2002:str"


def faults(text: str) -> list[str]:
    """Return every place of a YAML text that loses an override of DVC, breaks the file which DVC
    writes back, or repeats what a merged block says.
    """
    found: list[str] = []
    seen: set[int] = set()

    def walk(node: yaml.Node, path: str, is_flow: bool) -> None:
        is_flow = is_flow or (isinstance(node, yaml.MappingNode) and bool(node.flow_style))
        if isinstance(node, yaml.MappingNode):
            if id(node) in seen:
                found.append(f"{path}: an alias to a mapping; merge it with `<<` instead")
                return
            seen.add(id(node))
            merged = dict(_merged(node))
            for name, value in merged.items():
                if isinstance(value, yaml.MappingNode) or _holds_mappings(value):
                    found.append(f"{path}.{name}: a mapping inside a merged block")
            for name, value in (*merged.items(), *_own(node)):
                if is_flow and any(":" in one for one in _texts(value)):
                    found.append(f"{path}.{name}: a text with a colon inside {{}}")
            for name, value in _own(node):
                if name in merged and yaml.serialize(value) == yaml.serialize(merged[name]):
                    found.append(f"{path}.{name}: says what the merged block says")
                walk(value, f"{path}.{name}", is_flow)
        elif isinstance(node, yaml.SequenceNode):
            for place, value in enumerate(node.value):
                walk(value, f"{path}.{place}", is_flow)

    walk(yaml.compose(text), "", False)
    return found


def _own(node: yaml.MappingNode) -> list[tuple[str, yaml.Node]]:
    return [(key.value, value) for key, value in node.value if key.tag != MERGE]


def _merged(node: yaml.MappingNode) -> Iterator[tuple[str, yaml.Node]]:
    """Yield what a mapping gets from its blocks; of two values of a name the later one holds."""
    for key, value in node.value:
        if key.tag == MERGE:
            blocks = value.value if isinstance(value, yaml.SequenceNode) else [value]
            for block in reversed(blocks):
                yield from _merged(block)
                yield from _own(block)


def _holds_mappings(node: yaml.Node) -> bool:
    return isinstance(node, yaml.SequenceNode) and any(
        isinstance(value, yaml.MappingNode) or _holds_mappings(value) for value in node.value
    )


def _texts(node: yaml.Node) -> Iterator[str]:
    """Yield the text in a scalar or a list; mappings have their own turn."""
    if isinstance(node, yaml.ScalarNode) and node.tag == TEXT:
        yield node.value
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            yield from _texts(value)


def test_the_file_is_short():
    assert len(PARAMS.read_text().splitlines()) <= 330


def test_the_file_has_no_form_that_dvc_loses_or_breaks():
    assert faults(PARAMS.read_text()) == []


BLOCK = "shared:\n  one: &one {a: 1, b: [2]}\n"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("p: *one", ".p: an alias to a mapping"),
        ("p: {q: *one}", ".p.q: an alias to a mapping"),
        ("p: [*one]", ".p.0: an alias to a mapping"),
        ("two: &two {c: {d: 1}}\np: {<<: *two}", ".p.c: a mapping inside a merged block"),
        ("two: &two {<<: *one, c: {}}\np:\n  <<: *two", ".p.c: a mapping inside a merged block"),
        ("two: &two {c: [{d: 1}]}\np: {<<: *two}", ".p.c: a mapping inside a merged block"),
        ("p: {<<: [*one, &two {c: {}}]}", ".p.c: a mapping inside a merged block"),
        ("p: {c: 'raw:x'}", ".p.c: a text with a colon"),
        ("p: {c: ['raw:x']}", ".p.c: a text with a colon"),
        ("p: {q: {c: 'raw:x'}}", ".p.q.c: a text with a colon"),
        ("two: &two\n  c: raw:x\np: {<<: *two}", ".p.c: a text with a colon"),
        ("p: {<<: *one, a: 1}", ".p.a: says what the merged block says"),
    ],
)
def test_a_form_that_dvc_loses_or_breaks_is_found(text, fault):
    assert [found for found in faults(BLOCK + text) if found.startswith(fault)]


@pytest.mark.parametrize(
    "text",
    [
        "p: {<<: *one, a: 2, q: {c: 3}}",
        "two: &two {<<: *one, a: 2}\np: {<<: *two, a: 1}",
        "p:\n  <<: *one\n  c: raw:x",
    ],
)
def test_an_own_mapping_with_its_merges_is_fine(text):
    assert faults(BLOCK + text) == []
