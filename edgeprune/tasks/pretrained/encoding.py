"""Encoders of rows: texts become tokens of one length, images become pixels, as the model was trained."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgeprune.errors import InputError
from edgeprune.files import scratch
from edgeprune.meaning.losses import IGNORED
from edgeprune.tasks.pretrained.loading import Pretrained, answering, first_line, hushed

Inputs = dict[str, NDArray[Any]]
ENOUGH = 99  # percentile of the lengths of texts that are not cut by default
MOST_LENGTHS = 10_000  # texts whose length is looked at
TOKENS_MULTIPLE = 8
_ENDLESS = 1_000_000  # tokenizers without a limit say a number with 30 digits
_SAVE_TOKENIZER = "Save it beside the model: tokenizer.save_pretrained(folder)."
PROCESSOR = "processor"  # folder in the bundle


class Encoder(Protocol):
    """Encoder of some rows' cells, a column for each role but the label."""

    def __call__(self, cells: Mapping[str, Sequence[Any]]) -> Inputs:
        """Inputs of the model by name, [rows, ...]."""

    def files(self) -> dict[str, bytes]:
        """Files, by their names in a bundle, that encode in front of the model."""


@dataclass(frozen=True)
class TextEncoder:
    """Encoder of texts, or pairs of texts, in `tokens` tokens each, padded or cut.

    lengths: several, ascending, of which `tokens` is the longest: the rows of a call are padded to the
    shortest of them that holds them all. () is one length.
    """

    tokenizer: Any
    tokens: int
    inputs: tuple[str, ...]
    words: bool = False
    lengths: tuple[int, ...] = ()

    def __call__(self, cells: Mapping[str, Sequence[Any]]) -> Inputs:
        if self.lengths:
            return self.of_length(int(self.buckets(cells).max()))(cells)
        encoded = self.encoded(cells)
        with answering("The tokenizer"):
            return {name: np.asarray(encoded[name], np.int64) for name in self.inputs}

    def of_length(self, tokens: int) -> TextEncoder:
        """Encoder of texts in one length."""
        return replace(self, tokens=tokens, lengths=())

    def buckets(self, cells: Mapping[str, Sequence[Any]]) -> NDArray[np.int64]:
        """Length of each row: the shortest of several that holds it, or the longest, [rows]."""
        several = np.array(self.lengths or (self.tokens,), np.int64)
        found = np.searchsorted(several, self.lengths_of(cells))
        return several[np.minimum(found, len(several) - 1)]

    def encoded(self, cells: Mapping[str, Sequence[Any]]) -> Any:
        """Answer of the tokenizer; of words, with the word of each token."""
        with answering("The tokenizer"):
            return self.tokenizer(
                *self._given(cells),
                padding="max_length",
                truncation=True,
                max_length=self.tokens,
                is_split_into_words=self.words,
                return_tensors="np",
            )

    def _given(self, cells: Mapping[str, Sequence[Any]]) -> list[list[Any]]:
        roles = ("words",) if self.words else ("text", "pair")
        return [list(cells[role]) for role in roles if role in cells]

    def lengths_of(self, cells: Mapping[str, Sequence[Any]]) -> NDArray[np.int64]:
        """Tokens of each row without a limit, [rows]."""
        with answering("The tokenizer"):
            found = self.tokenizer(*self._given(cells), is_split_into_words=self.words, truncation=False)
        return np.array([len(ids) for ids in found["input_ids"]], np.int64)

    def targets(self, cells: Mapping[str, Sequence[Any]], tags: Sequence[Sequence[int]]) -> NDArray[np.int64]:
        """Class of the first token of each word, [rows, tokens]; IGNORED for all other tokens."""
        encoded = self.encoded(cells)
        found = np.full((len(tags), self.tokens), IGNORED, np.int64)
        for at, row in enumerate(tags):
            before = None
            for place, word in enumerate(encoded.word_ids(at)):
                if word is not None and word != before:
                    found[at, place] = row[word]
                before = word
        return found

    def files(self) -> dict[str, bytes]:
        """Files of the tokenizer; tokenizer.json cuts, and pads to one length, without transformers."""
        found = saved_files(self.tokenizer)
        backend = self.alone()
        if backend is not None:
            found[f"{PROCESSOR}/tokenizer.json"] = backend.to_str(pretty=False).encode("utf-8")
        return found

    def alone(self) -> Any:
        """The tokenizer of the library `tokenizers` that pads and cuts alike; None where there is none."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is None:
            return None
        from tokenizers import Tokenizer

        copy = Tokenizer.from_str(backend.to_str())
        copy.enable_truncation(
            self.tokens,
            strategy="longest_first",
            direction=self.tokenizer.truncation_side,
        )
        if self.lengths:  # who asks pads
            copy.no_padding()
        else:
            copy.enable_padding(length=self.tokens, **self.padding)
        return copy

    @property
    def padding(self) -> dict[str, Any]:
        """Arguments of the library `tokenizers` for padding as the tokenizer does."""
        return {
            "direction": self.tokenizer.padding_side,
            "pad_id": self.tokenizer.pad_token_id,
            "pad_type_id": self.tokenizer.pad_token_type_id,
            "pad_token": self.tokenizer.pad_token,
        }


@dataclass(frozen=True)
class ImageEncoder:
    """Encoder of images, files or bytes. folder: from which paths in cells are seen."""

    processor: Any
    folder: Path
    input: str

    def __call__(self, cells: Mapping[str, Sequence[Any]]) -> Inputs:
        pictures = [self._opened(cell) for cell in cells["image"]]
        with answering("The image processor"):
            found = self.processor(pictures, return_tensors="np")[self.input]
            return {self.input: np.asarray(found, np.float32)}

    def _opened(self, cell: Any) -> Any:
        from PIL import Image

        content, name = content_of(cell, "images", "image files")
        place = io.BytesIO(content) if content is not None else self.folder / name
        try:
            with Image.open(place) as picture:
                return picture.convert("RGB")
        except (OSError, Image.DecompressionBombError) as error:
            raise InputError(f"{name} is no image that can be read: {error}.", "") from error

    def files(self) -> dict[str, bytes]:
        """Files of the image processor."""
        return saved_files(self.processor)


def content_of(cell: Any, what: str, files: str) -> tuple[bytes | None, str]:
    """Content that a cell holds, or None, and the path or name of its file.

    cell: a path, or what `datasets` saves of a file. what, files: what such cells are of, for sentences.
    Raises `InputError` for anything else.
    """
    content, name = (cell.get("bytes"), cell.get("path")) if isinstance(cell, dict) else (None, cell)
    if isinstance(content, bytes):
        return content, name if isinstance(name, str) else f"A cell of the column of {what}"
    if not isinstance(name, str) or "\0" in name:
        raise InputError(
            f"A cell of the column of {what} is {type(cell).__name__}, and no path.",
            f"Give paths of {files}, seen from the data's own folder, or what `datasets` saves of them.",
        )
    return None, name


def load_tokenizer(folder: Path) -> Any:
    """Tokenizer of a pretrained folder. Raises `InputError`, also where transformers would make one up."""
    from transformers import AutoTokenizer

    try:
        with hushed():
            tokenizer: Any = AutoTokenizer.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
    except Exception as error:
        raise InputError(
            f"transformers cannot load the tokenizer of {folder}: {first_line(error)}",
            _SAVE_TOKENIZER,
        ) from error
    # A tokenizer of a family that has a vocabulary is made without one, and then knows no word.
    names = set(tokenizer.vocab_files_names.values())
    if names and not any((folder / name).is_file() for name in names):
        raise InputError(
            f"{folder} has no tokenizer: none of {', '.join(sorted(names))} is there.", _SAVE_TOKENIZER
        )
    return tokenizer


def text_encoder(
    found: Pretrained, lengths: tuple[int, ...], train: Mapping[str, Sequence[Any]]
) -> TextEncoder:
    """Encoder by the folder's tokenizer.

    lengths: tokens of texts, ascending; () is one, the 99th percentile of the training texts, to the next
    multiple of 8, as far as the model goes. Raises `InputError`.
    """
    tokenizer = load_tokenizer(found.folder)
    words = found.head.reads == "words"
    if tokenizer.pad_token is None:
        raise InputError(
            f"The tokenizer of {found.folder} has no padding token, and texts get one length.",
            "Set tokenizer.pad_token and the model's config.pad_token_id as it was trained, and save both.",
        )
    if words and not tokenizer.is_fast:
        raise InputError(
            f"The tokenizer of {found.folder} does not tell which word a token is of.",
            "Save a fast tokenizer (one with a tokenizer.json).",
        )
    most = _most_tokens(found, tokenizer)
    names = _input_names(found, tokenizer)
    if lengths:
        if lengths[-1] > most:
            raise InputError(f"--tokens is {lengths[-1]}, and the model takes {most}.", "Give fewer.")
        tokens = lengths[-1]
    else:
        some = {role: list(cells[:MOST_LENGTHS]) for role, cells in train.items()}
        found_lengths = TextEncoder(tokenizer, most, names, words).lengths_of(some)
        longest = math.ceil(float(np.percentile(found_lengths, ENOUGH)))
        tokens = min(most, -(-longest // TOKENS_MULTIPLE) * TOKENS_MULTIPLE)
    return TextEncoder(tokenizer, tokens, names, words, lengths if len(lengths) > 1 else ())


def _most_tokens(found: Pretrained, tokenizer: Any) -> int:
    """Tokens that tokenizer and model both take."""
    limits = [tokenizer.model_max_length]
    if not isinstance(limits[0], int | float) or not limits[0] > 0:
        raise InputError(
            f"The tokenizer of {found.folder} has the model_max_length {limits[0]!r:.60}.",
            "Write the most tokens that the model takes, a whole number, into tokenizer_config.json.",
        )
    positions = getattr(found.config, "max_position_embeddings", None)
    if isinstance(positions, int) and positions > 0:
        limits.append(positions)
    most = min(limits)
    if most > _ENDLESS:
        raise InputError(
            f"Neither the tokenizer nor the model of {found.folder} says how long a text may be.",
            "Say --tokens, the number that each text is padded or cut to.",
        )
    return int(most)


def _input_names(found: Pretrained, tokenizer: Any) -> tuple[str, ...]:
    import inspect

    takes = inspect.signature(found.module.model.forward).parameters
    names = tuple(name for name in tokenizer.model_input_names if isinstance(name, str) and name in takes)
    if not names:
        raise InputError(
            f"The tokenizer of {found.folder} makes {tokenizer.model_input_names!r:.100}, of which the model "
            "takes none.",
            "Write the names of the model's inputs into tokenizer_config.json, as model_input_names.",
        )
    return names


def image_encoder(found: Pretrained, folder: Path) -> ImageEncoder:
    """Encoder by the folder's image processor. folder: of the data. Raises `InputError`."""
    import PIL.Image  # noqa: F401  transformers would say at length that it is missing
    from transformers import AutoImageProcessor

    try:
        with hushed():  # the same arithmetic of pixels here and on a device, whatever else is installed
            processor = AutoImageProcessor.from_pretrained(
                found.folder, local_files_only=True, trust_remote_code=False, backend="pil"
            )
    except Exception as error:
        raise InputError(
            f"transformers cannot load the image processor of {found.folder}: {str(error).strip()[:200]}",
            "Save it beside the model: processor.save_pretrained(folder).",
        ) from error
    return ImageEncoder(processor, folder, str(processor.model_input_names[0]))


def saved_files(encoder: Any) -> dict[str, bytes]:
    """Files of a tokenizer or processor by their names in a bundle, without what tells of this machine."""
    found = {}
    with scratch() as parent, hushed():
        folder = parent / PROCESSOR
        encoder.save_pretrained(folder)
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                found[path.relative_to(parent).as_posix()] = _plain(path)
    return found


def _plain(path: Path) -> bytes:
    content = path.read_bytes()
    if path.name != "tokenizer_config.json":
        return content
    settings = json.loads(content)
    settings.pop("name_or_path", None)  # the folder here
    return (json.dumps(settings, indent=2, ensure_ascii=False) + "\n").encode("utf-8")
