"""A settings file that cannot be taken is one message with file and line, in bounded time."""

import itertools
import os
import subprocess
import sys
import time

import pytest

from tasks.settings import files
from tasks.settings.overrides import value_of
from tests.workspace import ROOT, environment


def _layers(first, layer):
    """Nine layers, each of nine aliases to the one before: 9 ** 9 values."""
    names = "abcdefghij"
    lines = [f"a: &a {first}"]
    for before, own in itertools.pairwise(names):
        lines.append(f"{own}: &{own} " + layer.format(", ".join([f"*{before}"] * 9)))
    return "\n".join(lines)


CASES = {
    "aliases that multiply": (_layers("[x, x]", "[{}]"), "line 6, .* more than 100000 values"),
    "merges that multiply": (_layers("{x: 1}", "{{<<: [{}]}}"), "line 6, .* more than 100000 val"),
    "a list in itself": ("a: 1\nb: &b [*b]\n", "line 2, .* holds itself through an alias"),
    "a mapping merged into itself": ("a: &a {<<: *a}\n", "line 1, .* holds itself"),
    "open lists": ("a: " + "[" * 100_000, "nested too deeply"),
    "nested mappings": (
        "".join(" " * depth + "a:\n" for depth in range(51)),
        "line 51, .*50 levels",
    ),
    "too many values": ("a: [" + "1," * 110_000 + "]", "line 1, .* more than 100000 values"),
    "too many bytes": ("a: 1\n" * 100_000, "more than 262144 bytes"),
    "a key given twice": (
        "a: 1\nb:\n  c: 1\n  c: 2\n",
        "line 4, column 3: the key 'c' is there twice",
    ),
    "two merges": ("a: &a {x: 1}\nb: {<<: *a, <<: *a}\n", "line 2, .* the key '<<' is there twice"),
    "a tab": ("a:\n\tb: 1\n", r"line 2, column 1: .*'\\t'"),
    "an anchor that is missing": (
        "a: 1\nb: *none\n",
        "line 2, column 4: found undefined alias 'none'",
    ),
    "Latin-1": (b"a: 1\nb: \xfc\n", "line 2: received the byte 0xfc, .*save the file as UTF-8"),
    "UTF-16": ("a: 1\n".encode("utf-16"), "line 1: received the byte 0xff"),
    "no bytes": ("", "must hold sections, received nothing"),
    "a comment alone": ("# a\n", "must hold sections, received nothing"),
    "a list": ("- a\n", "must hold sections, received list"),
    "a control character": ("a: 1\nb: \0\n", r"line 2: received '\\x00'"),
    "two documents": ("a: 1\n---\nb: 1\n", "line 2, .*another document"),
    "a tag": ("a: !!python/name:os.system x\n", "line 1, column 4: received the tag .*leave it"),
    "a type by a tag": (
        "a: 1\nb: !!int 0100\n",
        "line 2, column 4: received the tag 'tag:yaml.org",
    ),
    "an empty number": ("a: !!float ''\n", "line 1, column 4: received the tag"),
    "a number of 5000 digits": (f"a: {'9' * 5000}\n", "line 1, column 4: received '999"),
    "a number with signs inside": ("a: 1_000\n", "received '1_000', .* quotes make it a text"),
    "a number of base 16": ("a: [0x10]\n", "line 1, column 5: received '0x10', which readers of"),
    "a number of base 8": ("a: 0o10\n", "received '0o10', which readers of YAML take for several"),
    "a number of base 60": ("a: -1:30.5\n", "received '-1:30.5', .* 1000, 0.5 and 1e-3"),
    "not a number": ("a: .NaN\n", "received '.NaN', which readers of YAML"),
    "a date": ("a: 2020-01-02\n", "received '2020-01-02', which readers of YAML"),
    "a date that is none": ("a: 2020-13-45\n", "received '2020-13-45', which readers of YAML"),
    "a key with and without quotes": ("a: 1\n'a': 2\n", "line 2, .* the key 'a' is there twice"),
    "a number and its text as keys": ("{20: 1, '20': 2}\n", "the key '20' is there twice"),
    "a list as a key": ("a: 1\n? [b]\n: 1\n", "line 2, .*unhashable key"),
    "a list that is not closed": ("a: [1, 2\nb: 3\n", "line 2, .*expected ',' or"),
    "a number in two spellings": (
        "a: {100: 1, 0100: 2}\n",
        "line 1, .* the key '0100' is there twice",
    ),
    "two colons": ("a: b: c\n", "line 1, column 5: mapping values are not allowed here"),
}


@pytest.mark.parametrize("name", ["params.yaml", "presets.yaml"])
@pytest.mark.parametrize("case", CASES)
def test_what_no_settings_file_may_hold_is_one_message(case, name, tmp_path):
    content, message = CASES[case]
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    started = time.process_time()
    with pytest.raises(ValueError, match=message) as raised:
        files.read(path)
    assert name in str(raised.value) and "\n" not in str(raised.value)
    assert len(str(raised.value)) < 1000 and time.process_time() - started < 20


def test_a_folder_a_pipe_and_a_missing_file_are_told_apart(tmp_path):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name in ("folder", "pipe"):
        with pytest.raises(ValueError, match=rf"{name} is no file; allowed is a text file"):
            files.read(tmp_path / name)
    (tmp_path / "link").symlink_to("/dev/zero")
    with pytest.raises(ValueError, match="link is no file"):
        files.read(tmp_path / "link")
    with pytest.raises(FileNotFoundError, match="run from the top folder"):
        files.read(tmp_path / "none")


def test_what_yaml_allows_is_read(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text("\ufeffa: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: *a\n", encoding="utf-8")
    assert files.read(path) == {
        "a": {"x": 1, "y": 2},
        "b": {"x": 1, "y": 3},
        "c": {"x": 1, "y": 2},
    }


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0100", 100),
        ("010.5", 10.5),
        ("1e-3", 0.001),
        ("-0", 0),
        ("true", True),
        ("", None),
        ("off", "off"),
        ("No", "No"),
        ("tRUE", "tRUE"),
        ("TRUE", True),
        ("'1:30'", "1:30"),
        ("=", "="),
        ("'0100'", "0100"),
        ("[020, off]", [20, "off"]),
        ("{020: no}", {20: "no"}),
    ],
)
def test_a_value_is_read_as_it_is_typed_and_as_set_reads_it(tmp_path, text, value):
    path = tmp_path / "params.yaml"
    path.write_text(f"a: {text}\n")
    found = files.read(path)["a"]
    assert found == value and type(found) is type(value)
    assert value_of(text, "--set") == found
    path.write_text(f"a: !!str {text}\n" if text and text[0] not in "[{" else "a: ''\n")
    assert isinstance(files.read(path)["a"], str)


@pytest.mark.parametrize("name", ["params.yaml", "presets.yaml"])
def test_a_file_that_the_user_may_not_read_is_one_message(tmp_path, name):
    """As another user where this one is root, whom no permission stops."""
    (tmp_path / name).write_text("a: 1\n")
    (tmp_path / name).chmod(0)
    tmp_path.chmod(0o755)
    lines = (
        "import os",
        "from pathlib import Path",
        "from tasks.settings import files",
        f"os.chdir({str(tmp_path)!r})",
        "os.getuid() or os.seteuid(65534)",
        f"try: files.read(Path({name!r}))",
        "except ValueError as error: print(error)",
    )
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.startswith(f"{name} cannot be read (Permission denied); "), done.stderr


def test_a_bomb_is_one_message_of_the_command_line(workspace):
    for name in ("presets.yaml", "params.yaml"):
        with (workspace.folder / name).open("a") as handle:
            handle.write(CASES["merges that multiply"][0])
        done = workspace.flow("pipeline", check=False, seconds=60)
        assert done.returncode == 2 and done.stderr.count("error: ") == 1
        assert f"{name} is not valid YAML: line " in done.stderr and "Traceback" not in done.stderr
