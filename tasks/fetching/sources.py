"""The datasets that can be fetched by name: where their files are, what their owners ask, and who
to ask.

An address or a digest stands here only with the place that says it. A file without a digest is
recorded when it is fetched first, and checked from then on (`records.py`).
"""

from __future__ import annotations

import urllib.parse
from dataclasses import dataclass
from pathlib import PurePosixPath

from tasks.core.data.annotations import check_name as check_path
from tasks.core.foundations.names import check_name, hint


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
    if "://" in what:
        return _of_address(what, name)
    if name is not None:
        raise ValueError(
            f"--as: received {name!r} beside {what!r}, which is a name; allowed is --as beside an "
            "address; leave it out"
        )
    if what in KNOWN:
        return KNOWN[what]
    check_name(what, "dataset", "fetch")
    if not has_folder:
        raise ValueError(
            f"fetch: received {what!r}{hint(what, KNOWN)}; allowed are {', '.join(KNOWN)}, an "
            "address (https://...) with --as NAME, or --from-dir with a folder of your own"
        )
    return Source(what, "Data of your own: its terms are yours to know.")


def shown(url: str) -> str:
    """Return an address without its query, which may hold a key."""
    return urllib.parse.urlunsplit(urllib.parse.urlsplit(url)._replace(query="", fragment=""))


def _of_address(url: str, name: str | None) -> Source:
    try:
        parts = urllib.parse.urlsplit(url)
        has_password = parts.password is not None or parts.username is not None
    except ValueError as error:
        raise ValueError(f"fetch: received {url[:200]!r}, which is no address ({error})") from error
    if has_password:
        raise ValueError(
            "fetch: the address holds a user or a password, which would be written down; put them "
            "into ~/.netrc, which is read"
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
    check_name(name, "dataset", "--as")
    if name in KNOWN:
        raise ValueError(
            f"--as: received {name!r}, a dataset that is known by name; allowed is another name; "
            "change it"
        )
    file = File(url)
    if not file.name:
        raise ValueError(f"fetch: {shown(url)[:200]} names no file; give the address of a file")
    check_path(file.name, f"fetch: {shown(url)[:200]}")
    return Source(
        name, f"{shown(url)}: its terms are those of {parts.hostname}. Ask there.", (file,)
    )
