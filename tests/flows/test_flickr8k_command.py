"""`make flickr8k DATA=<folder>` on a sample that is made here: a Karpathy json, tars of JPEGs, and
a weight file beside it.
"""

import io
import json
import shutil
import tarfile
from pathlib import Path

import pytest

from tests.workspace import ROOT, make_workspace

SIZES = {"train": 40, "val": 10, "test": 10}
WEIGHTS = "mobilenetv2_100.tf2_mobilenet_v2_1.0_224_ptq.safetensors"
TINY = (
    "profiles.flickr8k.budgets=[8]",
    "profiles.flickr8k.train_experts.num_experts=2",
    "profiles.flickr8k.select_coresets.options.forgetting.num_epochs=2",
    "profiles.flickr8k.distill.matching.iterations=2",
    "profiles.flickr8k.distill.options.meta_model.iterations=2",
    "profiles.flickr8k.distill.options.meta_model.warm_start.iterations=2",
    "profiles.flickr8k.evaluate.num_eval=2",
    "profiles.flickr8k.evaluate.small.num_epochs=4",
    "profiles.flickr8k.evaluate.full.num_epochs=2",
)


def _sample(folder: Path) -> None:
    """Toy scenes stored as Flickr8k is: one json, one tar of JPEGs per split."""
    from tasks.core.data.datasets import toy
    from tasks.core.data.left_out import LeftOut

    config = toy.Config(
        seed=3,
        num_train=SIZES["train"],
        num_val=SIZES["val"],
        num_test=SIZES["test"],
        image_size=160,
        captions_per_image=5,
    )
    folder.mkdir(parents=True)
    images = []
    for split in SIZES:
        with tarfile.open(folder / f"images-{split}.tar", "w") as tar:
            for index, example in enumerate(
                one for one in toy.examples(config, LeftOut(0.0)) if one.split == split
            ):
                name, buffer = f"{split}_{index:04d}.jpg", io.BytesIO()
                example.load().convert("RGB").save(buffer, "JPEG", quality=90)
                member = tarfile.TarInfo(name)
                member.size = buffer.tell()
                buffer.seek(0)
                tar.addfile(member, buffer)
                images.append(
                    {
                        "filename": name,
                        "split": split,
                        "sentences": [{"raw": text} for text in example.captions],
                    }
                )
    (folder / "dataset_flickr8k.json").write_text(
        json.dumps({"dataset": "flickr8k", "images": images})
    )


def _weights(path: Path) -> None:
    import timm
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True)
    save_file(timm.create_model("mobilenetv2_100", pad_type="same").state_dict(), path)


@pytest.mark.services
def test_the_command_of_the_readme_makes_the_table(tmp_path):
    _sample(tmp_path / "user" / "flickr8k")
    _weights(tmp_path / "user" / "weights" / WEIGHTS)
    workspace = make_workspace(tmp_path / "copy", TINY)
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy2(ROOT / name, workspace.folder / name)
    (workspace.folder / ".venv").symlink_to(ROOT / ".venv")
    both = "SET=--set methods.distillers=[bi_trajectory,meta_model]"
    workspace.run("make", "flickr8k", f"DATA={tmp_path / 'user' / 'flickr8k'}", both, seconds=400)
    metrics = json.loads((workspace.folder / "reports" / "flickr8k" / "metrics.json").read_text())
    text = json.dumps(metrics)
    for name in (
        "random-8",
        "herding-8",
        "k_center-8",
        "forgetting-8",
        "bi_trajectory-8",
        "meta_model-8",
        "full",
    ):
        assert name in text
    refused = workspace.run("make", "flickr8k", check=False)
    assert (
        refused.returncode == 2 and "make flickr8k DATA=<folder" in refused.stdout + refused.stderr
    )
