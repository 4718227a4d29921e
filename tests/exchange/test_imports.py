"""Sets of somebody else become artifacts: exports come back, published files and ids are read, and
what does not fit or is not stated is refused.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from dataclasses import replace

import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import save

from tasks.core.foundations.seeding import make_generator
from tasks.core.training.pair_files import load_pairs
from tasks.exchange.export import Choice, export
from tasks.exchange.imports import import_set
from tasks.exchange.published import Stated
from tasks.exchange.source import open_source
from tasks.settings import steps
from tasks.settings.sets import SetName

NAN = float("nan")
STATED = Stated("hashed_256", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
SOFT = Stated("hashed_256", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "wbce", 3.0)


def stored(chosen, name):
    return load_pairs(steps.imported(chosen, SetName.parse(name)))


@pytest.mark.parametrize("layout", ["huggingface", "webdataset", "folder"])
@pytest.mark.parametrize("name", ["herding-4", "bi_trajectory-4", "lors-4"])
def test_an_export_comes_back_equal_to_the_8_bits(name, layout, made, folder):
    # lors-4 paid a pair for its similarity
    chosen = replace(made[1], general=replace(made[1].general, budgets=(3, 4)))
    source = open_source(chosen, name)
    picture = "webp" if layout == "folder" else "png"
    done = export(source, folder / "out", Choice(layout, picture, False, "unknown", "unknown"))
    found, ref = import_set(chosen, folder / "out", "theirs", Stated())
    before, after = source.pairs, load_pairs(ref.folder)
    assert found == SetName("theirs", before.num_pairs)
    assert float((before.images - after.images).abs().max()) <= done.cost.largest + 1e-6
    if name != "bi_trajectory-4":  # real pictures
        assert torch.equal(before.images, after.images)
    assert torch.equal(before.text_embeds, after.text_embeds)
    assert (before.mean, before.std) == (after.mean, after.std)
    assert (before.step_sizes, before.loss) == (after.step_sizes, after.loss)
    if before.similarity:
        assert after.similarity.alpha == before.similarity.alpha
        for part in ("diagonal", "left", "right"):
            assert torch.equal(getattr(before.similarity, part), getattr(after.similarity, part))


def test_an_export_of_an_import_is_the_same_pictures(made, folder):
    chosen = made[1]
    source = open_source(chosen, "bi_trajectory-4")
    choice = Choice("folder", "png", False, "unknown", "unknown")
    export(source, folder / "one", choice)
    ref = import_set(chosen, folder / "one", "theirs", Stated())[1]
    export(
        replace(source, pairs=load_pairs(ref.folder).with_provenance(source.pairs.provenance)),
        folder / "two",
        choice,
    )
    for path in (folder / "one/images").iterdir():
        assert path.read_bytes() == (folder / "two/images" / path.name).read_bytes()


def published(**more):
    draw = make_generator(5)
    return {
        "image": torch.randn(4, 3, 32, 32, generator=draw),
        "text": torch.randn(4, 256, generator=draw),
        **more,
    }


def test_a_published_file_is_read(made, folder):
    draw = make_generator(6)
    soft = [torch.rand(4, generator=draw), *torch.rand(2, 4, 2, generator=draw)]
    rates = {"syn_lr_img": torch.tensor(0.3), "syn_lr_txt": torch.tensor([0.2])}
    content = published(similarity_params=soft, **rates)
    torch.save(content, folder / "lors.pt")
    import_set(made[1], folder / "lors.pt", "lors_published", SOFT)
    found = stored(made[1], "lors_published-4")
    assert torch.equal(found.images, content["image"])
    assert torch.equal(found.text_embeds, content["text"])
    assert found.step_sizes == pytest.approx({"img": 0.3, "txt": 0.2}) and found.loss == "wbce"
    assert torch.equal(found.similarity.left, soft[1]) and found.similarity.alpha == 3.0


def test_images_come_into_the_normalisation_of_the_profile(made, folder):
    content = published()
    torch.save(content, folder / "set.pt")
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
    import_set(made[1], folder / "set.pt", "theirs", Stated("hashed_256", mean, std))
    found = stored(made[1], "theirs-4")
    pixels = content["image"] * torch.tensor(std).view(3, 1, 1) + torch.tensor(mean).view(3, 1, 1)
    assert torch.allclose(found.images * 0.5 + 0.5, pixels, atol=1e-5)
    assert found.mean == (0.5, 0.5, 0.5) and found.step_sizes is None


@pytest.mark.parametrize("suffix", ["csv", "json"])
def test_ids_give_the_coreset_that_they_name(suffix, made, folder):
    chosen = made[1]
    source = open_source(chosen, "herding-4")
    export(source, folder / "out", Choice("folder", "png", False, "unknown", "unknown"))
    path = folder / f"ids.{suffix}"
    if suffix == "csv":
        shutil.copy(folder / "out/ids.csv", path)
    else:
        path.write_text(pd.read_csv(folder / "out/ids.csv").to_json(orient="records"))
    import_set(chosen, path, "mine", Stated())
    found = stored(chosen, "mine-4")
    assert torch.equal(found.images, source.pairs.images)
    assert torch.equal(found.text_embeds, source.pairs.text_embeds)


class Evil:
    def __reduce__(self):
        return (print, ("run",))


def files(place):
    """Files that do not fit, written by name."""
    odd = published()
    contents = {
        "evil.pt": Evil(),
        "list.pt": [1, 2],
        "more.pt": published(extra=torch.ones(1)),
        "less.pt": {"image": odd["image"]},
        "one_rate.pt": published(syn_lr_img=torch.tensor(0.1)),
        "rate.pt": published(syn_lr_img="fast", syn_lr_txt=torch.tensor(0.1)),
        "nan.pt": {**odd, "text": odd["text"] * float("nan")},
        "whole.pt": {**odd, "image": odd["image"].int()},
        "size.pt": {**odd, "image": odd["image"][..., :16]},
        "width.pt": {**odd, "text": odd["text"][:, :99]},
        "rows.pt": {**odd, "text": odd["text"][:3]},
        "soft.pt": published(similarity_params=torch.ones(4, 4)),
        "rank_0.pt": published(similarity_params=[torch.ones(4), *torch.ones(2, 4, 0)]),
        "soft_ok.pt": published(similarity_params=[torch.ones(4), *torch.ones(2, 4, 2)]),
        "sparse.pt": {**odd, "text": odd["text"].to_sparse()},
        "meta.pt": {**odd, "text": odd["text"].to("meta")},
        "complex.pt": published(syn_lr_img=torch.tensor(0.1j), syn_lr_txt=torch.tensor(0.1)),
        "zeros.pt": {**odd, "text": odd["text"] * torch.tensor([[1.0], [0.0], [0.0], [1.0]])},
        "ok.pt": odd,
    }
    for name, content in contents.items():
        torch.save(content, place / name)
    (place / "cut.pt").write_bytes((place / "ok.pt").read_bytes()[:-99])
    (place / "text.pt").write_text("hello")
    header = "split,file_name,caption_number\n"
    (place / "split.csv").write_text(header + "test,test/000000.png,0\n")
    (place / "name.csv").write_text(header + "train,train/999999.png,0\n")
    (place / "caption.csv").write_text(header + "train,train/000001.png,5\n")
    (place / "word.csv").write_text(header + "train,train/000001.png,first\n")
    (place / "column.csv").write_text("file\ntrain/000001.png\n")
    (place / "one.csv").write_text(header + "train,train/000001.png,0\n")
    (place / "header.csv").write_text(header)
    (place / "twice.csv").write_text(f"{header[:-1]},file_name\ntrain,train/000001.png,0,b.png\n")
    (place / "cells.csv").write_text(f"{header}train,train/000001.png,0,1\n")
    (place / "score.csv").write_text(f"{header}train,train/000001.png,0_0\n")
    row = '"split": "train", "file_name": "train/000001.png", "caption_number"'
    (place / "twice.json").write_text(f'[{{{row}: 0, "caption_number": 1}}]')
    (place / "none.json").write_text("[]")
    (place / "deep.json").write_text("[" * 100_000)
    (place / "broken.json").write_text("{")
    (place / "set.zip").write_text("zip")


@pytest.mark.filterwarnings("ignore:Validating sparse tensor")
@pytest.mark.parametrize(
    ("name", "stated", "parts"),
    [
        ("evil.pt", STATED, ["evil.pt: received what cannot be read without running its code"]),
        ("cut.pt", STATED, ["cut.pt: received what cannot be read"]),
        ("text.pt", STATED, ["text.pt: received what cannot be read"]),
        ("list.pt", STATED, ["list.pt: received list; allowed: image, text"]),
        ("more.pt", STATED, ["more.pt: received extra, image, text; allowed: image, text"]),
        ("less.pt", STATED, ["less.pt: received image; allowed"]),
        ("one_rate.pt", STATED, ["one_rate.pt: received syn_lr_img alone"]),
        ("rate.pt", STATED, ["rate.pt: syn_lr_img: received 'fast'"]),
        ("nan.pt", STATED, ["nan.pt", "text_embeds has non-finite values"]),
        ("whole.pt", STATED, ["whole.pt: image: received torch.int32"]),
        ("size.pt", STATED, ["size.pt: received 4 images of (3, 32, 16)", "image_size"]),
        ("width.pt", STATED, ["width.pt: received 4 images", "texts of 99", "256"]),
        ("rows.pt", STATED, ["rows.pt", "of the same M"]),
        ("soft.pt", SOFT, ["soft.pt: similarity_params: received Tensor; allowed is a list"]),
        ("soft.pt", STATED, ["--loss, --sim-alpha: received None, None; needed"]),
        ("ok.pt", SOFT, ["--loss: received with a file without similarity_params"]),
        ("ok.pt", Stated(), ["--text-encoder: received None; allowed is 'hashed_256'"]),
        ("ok.pt", Stated("bert"), ["--text-encoder: received 'bert'; allowed is 'hashed_256'"]),
        ("ok.pt", Stated("hashed_256"), ["--mean, --std: received None, None; needed"]),
        ("ok.pt", Stated("hashed_256", (0.5,), (0.5,)), ["allowed are three numbers each"]),
        ("split.csv", Stated(), ["split.csv: row 0: received test, test/000000.png, 0"]),
        ("name.csv", Stated(), ["name.csv: row 0: received train, train/999999.png"]),
        ("caption.csv", Stated(), ["caption.csv: row 0", "from 0"]),
        ("word.csv", Stated(), ["word.csv: received ValueError", "a whole number"]),
        ("column.csv", Stated(), ["column.csv: received rows without 'split'"]),
        ("twice.csv", Stated(), ["twice.csv: received", "'file_name' twice, of which one alone"]),
        ("cells.csv", Stated(), ["cells.csv: received", "4 cells in line 2, beside 3 in the h"]),
        ("score.csv", Stated(), ["score.csv: received", "'0_0', which is no whole number"]),
        ("twice.json", Stated(), ["twice.json: received", "'caption_number' twice, of which"]),
        ("one.csv", Stated(), ["one.csv: received 1 images", "at least 2"]),
        ("one.csv", STATED, ["--text-encoder: received with a list of ids, which says it"]),
        ("header.csv", Stated(), ["header.csv: received ValueError('no rows')"]),
        ("none.json", Stated(), ["none.json: received ValueError('no rows')"]),
        ("deep.json", Stated(), ["deep.json: received RecursionError"]),
        ("rank_0.pt", SOFT, ["rank_0.pt: similarity_params: received", "r of at least 1"]),
        ("soft_ok.pt", replace(SOFT, sim_alpha=NAN), ["--sim-alpha: received nan; allowed"]),
        ("ok.pt", replace(STATED, mean=(0.5, 0.5, NAN)), ["allowed are three numbers each"]),
        ("ok.pt", replace(STATED, std=(0.5, 0.5, NAN)), ["allowed are three numbers each"]),
        ("sparse.pt", STATED, ["sparse.pt: text: received torch.float32, torch.sparse_coo"]),
        ("meta.pt", STATED, ["meta.pt: text: received", "a dense tensor"]),
        ("complex.pt", STATED, ["complex.pt: syn_lr_img: received tensor(0", "one number"]),
        ("zeros.pt", STATED, ["zeros.pt: received a text of zeros alone in row 1, 2 in all"]),
        ("broken.json", Stated(), ["broken.json: received"]),
        ("set.zip", Stated(), ["PATH: received", "set.zip; allowed is an export"]),
        ("absent.pt", Stated(), ["absent.pt is not there"]),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_written(
    name, stated, parts, made, folder, capsys
):
    files(folder)
    with pytest.raises((ValueError, FileNotFoundError)) as refused:
        import_set(made[1], folder / name, "theirs", stated)
    assert [part for part in parts if part not in str(refused.value)] == []
    assert not (folder / "data/imported").exists() and capsys.readouterr().out == ""


def test_a_damaged_or_foreign_export_is_refused(made, folder):
    chosen = made[1]
    choice = Choice("folder", "png", False, "unknown", "unknown")
    export(open_source(chosen, "herding-4"), folder / "out", choice)
    picture = folder / "out/images/00001.png"
    body = picture.read_bytes()
    picture.write_bytes(body[:-1] + b"\x00")
    with pytest.raises(ValueError, match=r"images/00001.png: received a file that is missing or"):
        import_set(chosen, folder / "out", "theirs", Stated())
    picture.write_bytes(body)
    facts = json.loads((folder / "out/set.json").read_text())
    for key, value, match in (
        ("format_version", 9, r"set.json: received version 9, .*of version 1"),
        ("layout", "zip", r"set.json: received version 1, without a known layout"),
        ("text_encoder", {"name": "bert"}, r"text_encoder: received .*bert"),
    ):
        (folder / "out/set.json").write_text(json.dumps({**facts, key: value}))
        with pytest.raises(ValueError, match=match):
            import_set(chosen, folder / "out", "theirs", Stated())


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("files", []),
        ("mean", 0.5),
        ("mean", ["a", "b", "c"]),
        ("std", [0, 0, 0]),
        ("std", [0.5, 0.5, NAN]),
        ("std", [10**400] * 3),
        ("loss", []),
        ("step_sizes", 3),
        ("step_sizes", {"img": "x", "txt": "y"}),
        ("step_sizes", {"img": 0.1}),
        ("sim_alpha", "3"),
        ("storage", 8),
        ("real_bytes", 0),
        ("real_bytes", "9"),
        ("storage", "bfloat16"),
        ("text_encoder_sha256", []),
    ],
)
def test_facts_of_another_kind_are_refused_by_name(key, value, made, folder):
    place = exported(made[1], "lors-4", folder)
    facts = json.loads((place / "set.json").read_text())
    (place / "set.json").write_text(json.dumps({**facts, key: value}))
    with pytest.raises(ValueError, match=rf"set.json: received .*{key}"):
        import_set(made[1], place, "theirs", Stated())


def exported(chosen, name, folder, layout="folder"):
    choice = Choice(layout, "png", False, "unknown", "unknown")
    export(open_source(chosen, name), folder / "out", choice)
    return folder / "out"


def picture(side):
    body = io.BytesIO()
    Image.new("1", (side, side)).save(body, "PNG")
    return body.getvalue()


def rewritten(place, name, body):
    """Change a file of an export, and its digest with it."""
    (place / name).write_bytes(body)
    facts = json.loads((place / "set.json").read_text())
    facts["files"][name] = hashlib.sha256(body).hexdigest()
    (place / "set.json").write_text(json.dumps(facts))


@pytest.mark.parametrize(
    ("name", "body", "match"),
    [
        ("pairs.json", b"{}", "out: received"),
        ("pairs.json", b'{"a": 1}', "out: received TypeError"),
        ("pairs.json", b'[{"a": 1}]', "out: received KeyError: 'file_name'"),
        ("pairs.json", b"[" * 100_000, "out: received RecursionError"),
        ("pairs.json", b'[{"file_name": "/tmp/out.png"}]', "'/tmp/out.png', which `files`"),
        ("pairs.safetensors", save({"a": torch.ones(1)}), "out: received KeyError: 'text_embeds'"),
        ("pairs.safetensors", b"no tensors", "out: received"),
        ("images/00001.png", b"no picture", "the picture images/00001.png"),
        ("images/00001.png", picture(20_000), "the picture images/00001.png"),
        ("images/00001.png", picture(33), r"images/00001.png: \(33, 33\) pixels"),
        ("images/00001.png", picture(32)[:45], "the picture images/00001.png"),
    ],
)
def test_files_of_an_export_that_are_off_are_refused(name, body, match, made, folder):
    place = exported(made[1], "herding-4", folder)
    rewritten(place, name, body)
    with pytest.raises(ValueError, match=match):
        import_set(made[1], place, "theirs", Stated())
    assert not (folder / "data/imported").exists()


@pytest.mark.parametrize("layout", ["huggingface", "webdataset", "folder"])
def test_a_file_that_the_facts_do_not_name_is_not_read(layout, made, folder):
    place = exported(made[1], "herding-4", folder, layout)
    facts = json.loads((place / "set.json").read_text())
    for left_out in (set(facts["files"]), set(facts["files"]) - {"pairs.safetensors"}):
        kept = {name: value for name, value in facts["files"].items() if name not in left_out}
        (place / "set.json").write_text(json.dumps({**facts, "files": kept}))
        with pytest.raises(ValueError, match=r"out: received"):
            import_set(made[1], place, "theirs", Stated())


@pytest.mark.parametrize("name", ["../secret.png", "/etc/hostname", "link.png"])
def test_files_outside_of_an_export_are_not_read(name, made, folder):
    place = exported(made[1], "herding-4", folder)
    (folder / "secret.png").write_bytes(picture(32))
    (place / "link.png").symlink_to(folder / "secret.png")
    facts = json.loads((place / "set.json").read_text())
    (place / "set.json").write_text(json.dumps({**facts, "files": {name: "0"}}))
    with pytest.raises(ValueError, match=rf"files: received '{name}'; .* below"):
        import_set(made[1], place, "theirs", Stated())


@pytest.mark.parametrize("text", ["{", "[]", "7", '{"format_version": 1}', "\x00"])
def test_facts_that_are_none_are_refused(text, made, folder):
    (folder / "out").mkdir()
    (folder / "out/set.json").write_text(text)
    with pytest.raises(ValueError, match=r"out/set.json: received"):
        import_set(made[1], folder / "out", "theirs", Stated())


def test_step_sizes_of_another_encoder_are_left_behind(made, folder):
    chosen = made[1]
    choice = Choice("folder", "png", False, "unknown", "unknown")
    export(open_source(chosen, "bi_trajectory-4"), folder / "out", choice)
    facts = json.loads((folder / "out/set.json").read_text())
    (folder / "out/set.json").write_text(json.dumps({**facts, "image_encoder_sha256": "0"}))
    import_set(chosen, folder / "out", "theirs", Stated())
    assert facts["step_sizes"] and stored(chosen, "theirs-4").step_sizes is None


def test_a_name_that_is_taken_is_replaced_on_demand_alone(made, folder):
    chosen = made[1]
    torch.save(published(), folder / "set.pt")
    import_set(chosen, folder / "set.pt", "theirs", STATED)
    with pytest.raises(ValueError, match=r"--as: received 'theirs', .*--replace"):
        import_set(chosen, folder / "set.pt", "theirs", STATED)
    other = {**published(), "image": torch.zeros(4, 3, 32, 32)}
    torch.save(other, folder / "set.pt")
    import_set(chosen, folder / "set.pt", "theirs", STATED, is_replaced=True)
    assert float(stored(chosen, "theirs-4").images.abs().max()) == 0.0
