"""The datasets that can be fetched by name: where their files are, what their owners ask, and who
to ask.

An address or a digest stands here only with the place that says it. A file without a digest is
recorded when it is fetched first, and checked from then on (`records.py`).
"""

from __future__ import annotations

import hashlib
import os
import urllib.parse
from dataclasses import dataclass
from pathlib import PurePosixPath

from tasks.core.data.annotations import check_name as check_path
from tasks.core.foundations.names import check_name, hint
from tasks.store import urls

# Bytes of a name: disks take 255, and a download adds an ending
_LONGEST = 200


@dataclass(frozen=True)
class File:
    """One file of a dataset.

    Attributes:
        digest: of its bytes, `md5:...` or `sha256:...`, or nothing where no source says one.
        kept: globs of the names of members that are unpacked; a file that is no archive is kept.
        tar: the uncompressed tar that members go to, which readers read in place; nothing unpacks
            them as files.
    """

    url: str
    digest: str = ""
    kept: tuple[str, ...] = ("*",)
    tar: str = ""

    @property
    def name(self) -> str:
        """Its name on the disk, the last part of the address."""
        return PurePosixPath(urllib.parse.unquote(urllib.parse.urlsplit(self.url).path)).name

    @property
    def key(self) -> str:
        """Its address as it is written down: with a digest in place of the query."""
        # A query may hold a key, and git keeps what is written down
        query = urllib.parse.urlsplit(self.url).query
        return f"{shown(self.url)}?sha256={_digest(query)}" if query else shown(self.url)

    @property
    def place(self) -> str:
        """Where it is kept until the dataset is whole: no other address has this path."""
        return f"{_digest(self.url)[:24]}/{self.name}"


@dataclass(frozen=True)
class Source:
    """A dataset.

    Attributes:
        name: that of its folder in `raw/`.
        terms: what its owners ask, and who to ask.
        files: empty where nobody gives them without a form.
        layout: globs of what has to be in its folder; empty for somebody's own data.
    """

    name: str
    terms: str
    files: tuple[File, ...] = ()
    layout: tuple[str, ...] = ()


# A. Karpathy gives the splits on https://cs.stanford.edu/people/karpathy/deepimagesent/ without a
# digest.
_KARPATHY = "https://cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip"
_FLICKR = (
    "Pictures belong to their photographers on Flickr, under Flickr's terms of use. The dataset is "
    "for research and education that earn nothing. "
)
KNOWN = {
    source.name: source
    for source in (
        Source(
            "flickr8k",
            "Flickr8k: M. Hodosh, P. Young, J. Hockenmaier, JAIR 47 (2013). "
            + _FLICKR
            + "The owners are at the University of Illinois: ask them by the form "
            "https://illinois.edu/fb/sec/1713398. Pictures come from a copy that J. Brownlee "
            "keeps, captions and splits from A. Karpathy.",
            (
                File(_KARPATHY, kept=("dataset_flickr8k.json",)),
                # Address and digest: mlverse/torchvision, R/dataset-flickr.R
                File(
                    "https://github.com/jbrownlee/Datasets/releases/download/Flickr8k/"
                    "Flickr8k_Dataset.zip",
                    "md5:f18a1e2920de5bd84dae7cf08ec78978",
                    ("*.jpg",),
                    "images-all.tar",
                ),
            ),
            ("dataset_flickr8k.json", "images-*.tar"),
        ),
        Source(
            "flickr30k",
            "Flickr30K: P. Young, A. Lai, M. Hodosh, J. Hockenmaier, TACL 2 (2014). "
            + _FLICKR
            + "The owners give the pictures to who fills in https://forms.illinois.edu/sec/229675. "
            f"Captions and splits: dataset_flickr30k.json in {_KARPATHY}.",
            (),
            ("dataset_flickr30k.json", "flickr30k-images"),
        ),
        Source(
            "coco",
            "COCO: T.-Y. Lin et al. (2014), X. Chen et al. (2015). Annotations are CC BY 4.0 of "
            "the COCO Consortium; pictures are under Flickr's terms of use, and their users are "
            "responsible: https://cocodataset.org/#termsofuse. Ask info@cocodataset.org.",
            (
                File(_KARPATHY, kept=("dataset_coco.json",)),
                # Addresses and digests: pytorch/vision,
                # torchvision/prototype/datasets/_builtin/coco.py
                File(
                    "http://images.cocodataset.org/zips/train2014.zip",
                    "sha256:ede4087e640bddba550e090eae701092534b554b42b05ac33f0300b984b31775",
                    ("*.jpg",),
                    "train2014/pictures.tar",
                ),
                File(
                    "http://images.cocodataset.org/zips/val2014.zip",
                    "sha256:fe9be816052049c34717e077d9e34aa60814a55679f804cd043e3cbee3b9fde0",
                    ("*.jpg",),
                    "val2014/pictures.tar",
                ),
            ),
            ("dataset_coco.json", "train2014", "val2014"),
        ),
    )
}


def source_of(what: str, name: str | None, *, has_folder: bool) -> Source:
    """Return the source that a user names.

    Args:
        what: a known name, an address, or with a folder of the user's any name.
        name: the folder in `raw/` of an address.

    Raises:
        ValueError: it is none of these, or the address has a password or names no file.
    """
    if name is not None and "://" in name:
        raise ValueError(
            "--as: received an address, allowed is a name for the folder in raw/; give the address "
            "before it: ADDRESS --as NAME"
        )
    # A library may take a part of a password for a host or a query, and print it
    if "@" in what:
        raise ValueError(
            "fetch: the address holds a user or a password, or another @; those would be written "
            "down: put them into ~/.netrc, which is read, and write any other @ as %40"
        )
    if "://" in what or "?" in what:
        return _of_address(what, name)
    if name is not None:
        raise ValueError(
            f"--as: received {name!r} beside {what!r}, which is a name; allowed is --as beside an "
            "address; leave it out"
        )
    if what in KNOWN:
        return KNOWN[what]
    _check_folder(what, "fetch")
    if not has_folder:
        raise ValueError(
            f"fetch: received {what!r}{hint(what, KNOWN)}; allowed are {', '.join(KNOWN)}, an "
            "address (https://...) with --as NAME, or --from-dir with a folder of your own"
        )
    return Source(what, "Data of your own: its terms are yours to know.")


def shown(url: str) -> str:
    """Return an address without its query, which may hold a key."""
    return urls.shown(url.partition("#")[0])


def _check_folder(name: str, where: str) -> None:
    """Refuse what names no folder of `raw/`, or a file that is kept there."""
    check_name(name, "dataset", where)
    if name.lower() == "digests.json" or name.lower().endswith(".dvc"):
        raise ValueError(
            f"{where}: received {name!r}, which may name no dataset: raw/ has a file of digests "
            "and files of DVC of such names; allowed is another name; change it"
        )


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()


def _parts(url: str) -> urllib.parse.SplitResult | None:
    """Return the parts of an address, or None for what is none."""
    try:
        parts = urllib.parse.urlsplit(url)
        # Reading the port of a malformed address raises `ValueError` too
        has_port = parts.port is None or parts.port > 0
    except ValueError:
        return None
    return parts if has_port and url.split() == [url] else None


def _of_address(url: str, name: str | None) -> Source:
    parts = _parts(url)
    if parts is None:
        raise ValueError(
            f"fetch: received {shown(url)[:200]!r}, which is no address; allowed are those like "
            "https://HOST/FILE, without white space; repair it"
        )
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(
            f"fetch: received {shown(url)[:200]!r}, allowed are addresses that begin with https:// "
            "or http://; get it another way, and give its folder by --from-dir"
        )
    if name is None:
        raise ValueError(
            f"--as is missing: it names the folder of {shown(url)[:200]} in raw/; add it"
        )
    _check_folder(name, "--as")
    if name in KNOWN:
        raise ValueError(
            f"--as: received {name!r}, a dataset that is known by name; allowed is another name; "
            "change it"
        )
    file = File(url)
    if not file.name:
        raise ValueError(f"fetch: {shown(url)[:200]} names no file; give the address of a file")
    check_path(file.name, f"fetch: {shown(url)[:200]}")
    num_bytes = len(os.fsencode(file.name))
    if num_bytes > _LONGEST:
        raise ValueError(
            f"fetch: {shown(url)[:200]} names a file with a name of {num_bytes} bytes, allowed are "
            f"{_LONGEST}; get it another way, and give its folder by --from-dir"
        )
    return Source(
        name, f"{shown(url)}: its terms are those of {parts.hostname}. Ask there.", (file,)
    )
