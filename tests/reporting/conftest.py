"""A made-up but plausible run: two sizes, five methods and full data, two students, three
protocols. Nothing here was measured.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageDraw

from tasks.reporting.build import build_report
from tasks.reporting.facts import Facts
from tasks.reporting.gallery import Gallery, GalleryRow
from tasks.reporting.published import load_published
from tasks.reporting.tables import RECALLS

# Mean recall by method and size; the six recalls are these numbers times fixed factors, whose mean
# is 1.
LEVELS = {
    ("random", 20): 8.4,
    ("herding", 20): 7.1,
    ("k_center", 20): 9.6,
    ("forgetting", 20): 6.2,
    ("bi_trajectory", 20): 18.1,
    ("random", 50): 15.2,
    ("herding", 50): 13.9,
    ("k_center", 50): 16.4,
    ("forgetting", 50): 12.8,
    ("bi_trajectory", 50): 24.3,
    ("full", 6000): 38.7,
}
FACTORS = (0.35, 1.05, 1.7, 0.3, 1.0, 1.6)
COLOURS = ("firebrick", "seagreen", "royalblue", "goldenrod", "purple", "darkorange", "teal")
SHAPES = ("circle", "square", "triangle", "ring", "bar")


def set_name(method: str, num_pairs: int) -> str:
    return method if method == "full" else f"{method}-{num_pairs}"


@pytest.fixture
def scores() -> pd.DataFrame:
    rng = np.random.default_rng(5)
    rows = []
    for (method, num_pairs), level in LEVELS.items():
        for student, factor in (("timm test_vit", 1.0), ("timm test_resnet", 0.72)):
            for protocol, bonus in (("strict", 1.0), ("last", 0.97), ("upstream_best", 1.05)):
                for seed in range(5 if student == "timm test_vit" else 3):
                    value = level * factor * bonus * (1 + 0.04 * float(rng.standard_normal()))
                    recalls = {
                        name: round(value * part, 2)
                        for name, part in zip(RECALLS, FACTORS, strict=True)
                    }
                    rows.append(
                        {
                            "set": set_name(method, num_pairs),
                            "method": method,
                            "num_pairs": num_pairs,
                            "student": student,
                            "seed": seed,
                            "protocol": protocol,
                            "chosen_epoch": int(rng.integers(20, 100)),
                            **recalls,
                            "mean_recall": sum(recalls.values()) / 6,
                            "val_mean_recall": value * 1.02,
                            "seconds": 21.5,
                            "training_pairs": num_pairs,
                            "num_bytes": None if method == "full" else 1000 * num_pairs,
                            "bits": 8,
                        }
                    )
    return pd.DataFrame(rows)


@pytest.fixture
def curves() -> pd.DataFrame:
    rng = np.random.default_rng(6)
    rows = []
    for (method, num_pairs), level in LEVELS.items():
        for seed in range(5):
            for epoch in range(0, 101 if method != "full" else 21, 5 if method != "full" else 1):
                value = (
                    level * (1 - np.exp(-(epoch + 1) / (12 if method != "full" else 3)))
                    + 0.2 * rng.standard_normal()
                )
                loss = 4.2 * np.exp(-epoch / 30)
                rows.append(
                    {
                        "set": set_name(method, num_pairs),
                        "seed": seed,
                        "epoch": epoch,
                        "loss": loss,
                        "val_mean_recall": max(value, 0.0),
                    }
                )
    return pd.DataFrame(rows)


@pytest.fixture
def histories() -> pd.DataFrame:
    rng = np.random.default_rng(7)
    frames = []
    for num_pairs in (20, 50):
        iteration = np.arange(400)
        image = 0.9 * np.exp(-iteration / 150) + 0.35 + 0.05 * rng.standard_normal(400)
        text = 0.7 * np.exp(-iteration / 90) + 0.25 + 0.05 * rng.standard_normal(400)
        frames.append(
            pd.DataFrame(
                {
                    "set": f"bi_trajectory-{num_pairs}",
                    "iteration": iteration,
                    "loss": image + text,
                    "loss_img": image,
                    "loss_txt": text,
                    "step_size_img": 0.1 * (1 + iteration / 800),
                    "step_size_txt": 0.1 * (1 + iteration / 300),
                }
            )
        )
    return pd.concat(frames, ignore_index=True)


def picture(index: int, side: int) -> np.ndarray:
    """A coloured shape on grey, (side, side, 3) uint8."""
    image = Image.new("RGB", (side, side), (226, 228, 230))
    draw = ImageDraw.Draw(image)
    inner = (side // 4, side // 5, 3 * side // 4, 4 * side // 5)
    colour = COLOURS[index % len(COLOURS)]
    if index % 3 == 0:
        draw.ellipse(inner, colour)
    elif index % 3 == 1:
        draw.rectangle(inner, colour)
    else:
        draw.polygon([(side // 2, inner[1]), (inner[2], inner[3]), (inner[0], inner[3])], colour)
    return np.asarray(image)


def make_gallery(name: str, num_rows: int, side: int) -> Gallery:
    rng = np.random.default_rng(num_rows)
    rows = []
    for index in range(num_rows):
        initial = picture(index, side)
        noise = 22 * rng.standard_normal(initial.shape)
        distilled = np.clip(initial + noise, 0, 255).astype(np.uint8)
        caption = (
            f"a {COLOURS[index % 7]} {SHAPES[index % 5]} on a plain grey background, number {index}"
        )
        nearest = (
            caption
            if index % 4
            else f"a small {COLOURS[(index + 1) % 7]} {SHAPES[(index + 2) % 5]} near the middle"
        )
        rows.append(GalleryRow(initial, distilled, caption, nearest, 0.97 - 0.02 * index))
    return Gallery(name, tuple(rows))


@pytest.fixture
def galleries() -> list[Gallery]:
    return [make_gallery("bi_trajectory-20", 16, 48), make_gallery("bi_trajectory-50", 16, 224)]


@pytest.fixture
def facts() -> Facts:
    return Facts(
        profile="toy",
        dataset="toy",
        protocol="strict",
        student="timm test_vit",
        num_students=5,
        models=("timm test_vit.r160_in1k", "hashed, 256 dimensions"),
        commit="4f9d2c1b7a6e5d4c3b2a190817263544f5e6d7c8",
        is_dirty=True,
        parameters_hash="9b1c7e55d0a2",
        machine="x86_64 Linux, 2 CPU cores, no GPU",
        versions={"torch": "2.15.0", "timm": "1.0.31", "faiss-cpu": None},
        seconds={
            "prepare_data": 3.21,
            "train_experts": 754.0,
            "distill": 7431.5,
            "evaluate": 612.0,
        },
        left_out="nothing",
    )


@pytest.fixture
def report(tmp_path: Path, scores, curves, histories, galleries, facts) -> Path:
    """The folder of the whole report."""
    build_report(
        scores, curves, histories, galleries, facts, tmp_path / "report", published=load_published()
    )
    return tmp_path / "report"
