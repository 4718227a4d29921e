"""The page in a real browser at phone and desktop width, measured inside a frame of exactly that
width.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image

pytestmark = [
    pytest.mark.services,
    pytest.mark.skipif(shutil.which("chromium") is None, reason="needs a `chromium` on the PATH"),
]

# Written by the host page once the frame has loaded; the report itself runs no script.
MEASURE = """
frame.onload = () => {
  const page = frame.contentDocument, root = page.documentElement;
  frame.style.height = root.scrollHeight + "px";
  const scrolled = [...page.querySelectorAll(".scroll")];
  const boxes = scrolled.map(box => [box.clientWidth, box.scrollWidth]);
  const written = "p, td, th, dt, dd, figcaption, summary, svg text";
  const texts = [...page.querySelectorAll(written)].map(node => {
    const svg = node.ownerSVGElement;
    const zoom = svg ? svg.getBoundingClientRect().width / svg.viewBox.baseVal.width : 1;
    return parseFloat(frame.contentWindow.getComputedStyle(node).fontSize) * zoom;
  });
  const first = page.querySelector("tbody .first"), box = first.closest(".scroll");
  box.scrollLeft = 200;
  const moved = Math.round(first.getBoundingClientRect().left - box.getBoundingClientRect().left);
  box.scrollLeft = 0;
  const broken = [...page.images].filter(image => !image.naturalWidth).length;
  const found = {inner: frame.contentWindow.innerWidth, width: root.scrollWidth,
                 height: root.scrollHeight, boxes, moved, broken, smallest: Math.min(...texts)};
  document.title = JSON.stringify(found);
};
"""


def browse(folder: Path, *options: str) -> str:
    command = [
        "chromium",
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--hide-scrollbars",
        "--allow-file-access-from-files",
        f"--user-data-dir={folder / 'profile'}",
        "--virtual-time-budget=4000",
        *options,
        (folder / "host.html").as_uri(),
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


def measure(report: Path, folder: Path, width: int) -> dict:
    page = (report / "index.html").as_uri()
    (folder / "host.html").write_text(
        '<!doctype html><title>waiting</title><body style="margin:0"><iframe id="frame" '
        f'style="border:0;width:{width}px;height:900px">'
        f'</iframe><script>const frame = document.getElementById("frame");{MEASURE}frame.src = '
        f'"{page}";</script>'
    )
    title = re.search(r"<title>(.*?)</title>", browse(folder, "--dump-dom"))
    assert title and title[1] != "waiting", "the frame did not load"
    return json.loads(title[1])


@pytest.mark.parametrize("width", [390, 1280])
def test_no_part_of_the_page_is_wider_than_the_screen(report, tmp_path, width):
    found = measure(report, tmp_path, width)
    assert found["inner"] == width
    assert found["width"] <= width
    assert found["broken"] == 0


def test_wide_tables_scroll_inside_their_own_box_with_the_method_kept_in_view_on_a_phone(
    report, tmp_path
):
    found = measure(report, tmp_path, 390)
    assert any(outer < inner for outer, inner in found["boxes"])
    assert all(outer <= 390 for outer, _ in found["boxes"])
    assert found["moved"] in (0, 1)


@pytest.mark.parametrize("width", [390, 1280])
def test_no_text_is_smaller_than_ten_pixels(report, tmp_path, width):
    assert measure(report, tmp_path, width)["smallest"] >= 10


@pytest.mark.parametrize("width", [390, 1280])
def test_a_screenshot_shows_more_than_an_empty_page(report, tmp_path, width):
    height = measure(report, tmp_path, width)["height"]
    picture = tmp_path / "page.png"
    browse(tmp_path, f"--screenshot={picture}", f"--window-size={max(width, 500)},{height}")
    pixels = Image.open(picture).convert("L").crop((0, 0, width, 1200))
    assert len(set(pixels.getdata())) > 50
