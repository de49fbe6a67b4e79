"""Captions of images as numbers: texts as bytes, and class names put into templates."""

import dataclasses
import hashlib
import logging
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jdt import config
from jdt.checks import UserError, require_at_least
from jdt.data.base import Dataset
from jdt.keys import key_for
from jdt.types import Int32

logger = logging.getLogger(__name__)

PADDING, START, END, FIRST_BYTE = range(4)
"""Tokens that are no bytes, and the token of byte 0; byte b is `FIRST_BYTE + b`."""

VOCABULARY = FIRST_BYTE + 256
"""How many tokens there are."""

ENDS = 2
"""Tokens of a caption besides its bytes: one before them and one behind."""

MOST_BYTES = 64
"""Bytes of a caption that are kept where nothing else is asked for."""

TEMPLATES = ("a photo of a {}.",)
"""What class names are put into where nothing else is asked for."""


def tokenize(captions: Sequence[Any], length: int) -> Int32[np.ndarray, "captions length"]:
    """Turn texts into tokens: the start, the bytes of their UTF-8 form, the end, then padding.

    A text of more than `length - 2` bytes loses what is behind them, and a character that would be torn apart; the end
    stays. `num_cut` says how many lose anything.

    Args:
      captions: One or more texts.
      length: Tokens of each, the start and the end included.

    Returns:
      int32 `[captions, length]`, below `VOCABULARY`.

    Raises:
      UserError: If a text is empty or no text at all (its place is named), or the length has no room for a byte.

    >>> tokenize(["cat", "ox"], 6).tolist()
    [[1, 102, 100, 119, 2, 0], [1, 114, 123, 2, 0, 0]]
    """
    require_at_least("length of captions in tokens", length, ENDS + 1)
    tokens = np.full((len(captions), length), PADDING, np.int32)
    for row, caption in enumerate(captions):
        kept = _cut(_bytes_of(caption, row), length - ENDS)
        tokens[row, : len(kept) + ENDS] = [START, *(FIRST_BYTE + byte for byte in kept), END]
    return tokens


def num_cut(captions: Sequence[Any], length: int) -> int:
    """How many texts `tokenize` cuts at this length.

    >>> num_cut(["cat", "ox"], 4)
    1
    """
    return sum(len(_bytes_of(caption, row)) > length - ENDS for row, caption in enumerate(captions))


def filled(templates: Sequence[str], name: str) -> tuple[str, ...]:
    """A class name in every template.

    Raises:
      UserError: If there is no template, or one has no place for the name.

    >>> filled(["a photo of a {}.", "{}"], "cat")
    ('a photo of a cat.', 'cat')
    """
    require_templates(templates)
    return tuple(template.replace("{}", name) for template in templates)


def require_templates(templates: Sequence[str]) -> None:
    """Raise unless there are templates, each with one place `{}` for a class name."""
    if not templates:
        raise UserError("there is no template for captions: pass one or more, such as 'a photo of a {}.'.")
    for template in templates:
        if template.count("{}") != 1:
            raise UserError(
                f"template {template!r} has {template.count('{}')} places {{}} for a class name, but needs one: write "
                "for example 'a photo of a {}.'."
            )


def with_captions(
    data: Dataset,
    captions: Sequence[Any] | None = None,
    *,
    templates: Sequence[str] = TEMPLATES,
    max_bytes: int = MOST_BYTES,
    seed: int = 0,
) -> Dataset:
    """A dataset whose examples have captions, in the place of those that they had before.

    Captions of class names follow the labels as they are now: make them when labels have been changed for good. Of
    several templates one is drawn for each example, once and for all, and versions of an example share it.

    Args:
      data: Decoded or streamed.
      captions: One text an example, for instance of `jdt.data.captions`; None makes them of class names.
      templates: What class names are put into, each with one place `{}`.
      max_bytes: Bytes of a caption that are kept; that some are cut is logged as a warning.
      seed: Root seed of the study, which the template of an example is drawn from.

    Returns:
      The dataset with `tokens` as long as the longest caption that is kept, and a fingerprint of its own.

    Raises:
      UserError: If captions are not one an example, one of them is empty or no text, or a template has no place.

    >>> from jdt.data import from_arrays
    >>> data = from_arrays("tiny", np.zeros((2, 4, 4, 1), np.uint8), [0, 1], ["cat", "ox"])
    >>> with_captions(data, templates=["{}"]).tokens.tolist()
    [[1, 102, 100, 119, 2], [1, 114, 123, 2, 0]]
    """
    if captions is None:
        captions = _of_classes(data, templates, seed)
    elif len(captions) != len(data):
        raise UserError(f"{data.name} has {len(data)} examples and {len(captions)} captions: give one caption each.")
    try:
        longest = max(len(_bytes_of(caption, row)) for row, caption in enumerate(captions))
        tokens = tokenize(captions, min(longest, max_bytes) + ENDS)
    except UserError as error:
        raise UserError(f"{data.name}: {error}") from error
    if lost := num_cut(captions, tokens.shape[1]):
        logger.warning(
            f"{lost:,} of {len(captions):,} captions of {data.name} have more than {max_bytes} bytes, the longest "
            f"{longest}, and are cut there: raise max-bytes to keep them whole."
        )
    return with_tokens(data, tokens)


def with_tokens(data: Dataset, tokens: Int32[np.ndarray, "examples length"]) -> Dataset:
    """A dataset whose examples have these tokens as captions, with a fingerprint of its own.

    Raises:
      UserError: If they are not one row an example.
    """
    if tokens.shape[:1] != (len(data),):
        raise UserError(f"{data.name} has {len(data)} examples and captions of {len(tokens)}: give one caption each.")
    digest = hashlib.sha256(np.ascontiguousarray(tokens, "<i4").tobytes()).hexdigest()
    fingerprint = config.fingerprint([data.fingerprint, "captions", list(tokens.shape), digest])
    return dataclasses.replace(data, tokens=tokens, fingerprint=fingerprint)


def _of_classes(data: Dataset, templates: Sequence[str], seed: int) -> list[str]:
    texts = [filled(templates, name) for name in data.class_names]
    place = np.arange(len(data)) if data.version_of is None else np.asarray(data.version_of)
    drawn = np.asarray(jax.random.randint(key_for(seed, "caption"), (len(data),), 0, len(templates)))
    return [texts[label][drawn[i]] for label, i in zip(np.asarray(data.labels).tolist(), place.tolist(), strict=True)]


def _bytes_of(caption: Any, row: int) -> bytes:
    if not isinstance(caption, str):
        raise UserError(f"caption {row} is {type(caption).__name__}, not a text: decode it, or choose another feature.")
    if not caption.strip():
        raise UserError(f"caption {row} is empty ({caption!r}): leave its example out, or choose another feature.")
    return caption.encode("utf-8", "replace")


def _cut(text: bytes, most: int) -> bytes:
    """The first bytes of a text, without a character that is torn apart."""
    return text if len(text) <= most else text[:most].decode("utf-8", "ignore").encode()
