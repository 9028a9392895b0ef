"""Files of a bundle that stand in front of the model: tokenizer or processor, labels, and an example."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeprune.records.bundle import EXAMPLE
from edgeprune.runtimes import find
from edgeprune.tasks.pretrained.encoding import PROCESSOR, Encoder, Inputs, TextEncoder
from edgeprune.tasks.pretrained.heads import Answers
from edgeprune.tasks.pretrained.sounds import FULL_SCALE, SAMPLE_BYTES, SoundEncoder

LABELS_FILE = f"{PROCESSOR}/labels.json"
_TOKENIZERS = """\
from tokenizers import Tokenizer

tokenizer = Tokenizer.from_file("processor/tokenizer.json")  # pads and cuts to {tokens} tokens
encoding = tokenizer.encode({given})
"""
_TRANSFORMERS = """\
from transformers import AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("processor")
encoding = tokenizer({given}, padding="max_length", truncation=True, max_length={tokens}, return_tensors="np")
"""
# The same of several lengths: the shortest that holds the text.
_TOKENIZERS_OF_SEVERAL = """\
from tokenizers import Tokenizer

tokenizer = Tokenizer.from_file("processor/tokenizer.json")  # cuts to {tokens} tokens
encoding = tokenizer.encode({given})
length = min(each for each in {lengths} if each >= len(encoding.ids))  # at these the model was proven
encoding.pad(length, {padding})
"""
_TRANSFORMERS_OF_SEVERAL = """\
from transformers import AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("processor")
encoding = tokenizer({given}, truncation=True, max_length={tokens})
length = min(each for each in {lengths} if each >= len(encoding["input_ids"][0]))  # at these it was proven
encoding = tokenizer.pad(encoding, padding="max_length", max_length=length, return_tensors="np")
"""
_IMAGES = """\
from PIL import Image
from transformers import AutoImageProcessor

processor = AutoImageProcessor.from_pretrained("processor", backend="pil")
feeds = dict(processor([Image.open(sys.argv[1]).convert("RGB")], return_tensors="np"))
"""
_SOUNDS = """\
import wave

from transformers import AutoFeatureExtractor

extractor = AutoFeatureExtractor.from_pretrained("processor")
with wave.open(sys.argv[1]) as file:
    if (file.getsampwidth(), file.getframerate()) != ({width}, {rate}):
        sys.exit("Give a WAV file of {bits} bits and {rate} Hz.")
    frames = np.frombuffer(file.readframes(file.getnframes()), "<i2").reshape(-1, file.getnchannels())
sound = frames.mean(1, dtype=np.float32) / {scale}
found = extractor([sound], sampling_rate={rate}, return_tensors="np"{length})
"""
_GIVEN = {
    "text": "TEXT",
    "pair": "SECOND_TEXT",
    "words": "WORD ...",
    "image": "IMAGE_FILE",
    "audio": "WAV_FILE",
}
_FIELDS = {
    "input_ids": "ids",
    "attention_mask": "attention_mask",
    "token_type_ids": "type_ids",
}
_ANSWERS: Mapping[Answers, str] = {
    "classes": """\
shares = np.exp(scores - scores.max(-1, keepdims=True))
shares /= shares.sum(-1, keepdims=True)
print(json.dumps({"answer": [labels[at] for at in scores.reshape(-1, len(labels)).argmax(-1)], \
"shares": shares.tolist()}))
""",
    "labels": """\
shares = 1 / (1 + np.exp(-scores))
print(json.dumps({"answer": [name for name, share in zip(labels, shares) if share > 0.5], \
"shares": shares.tolist()}))
""",
    "values": 'print(json.dumps({"answer": scores.tolist()}))\n',
}


@dataclass(frozen=True)
class Front:
    """Encoder in front of the model in a bundle. some: cells of a few rows, on which it is tried."""

    encode: Encoder
    answers: Answers
    names: tuple[str, ...]
    some: Mapping[str, list[str]]

    def __call__(self, runtime: str, artefact: str, threads: int) -> Mapping[str, bytes]:
        """Files by their names in the bundle."""
        files = self.encode.files()
        files[LABELS_FILE] = (json.dumps(list(self.names), ensure_ascii=False) + "\n").encode("utf-8")
        serve = find(runtime).call
        if serve:
            serve = serve.format(artefact=artefact, threads=threads)
            files[EXAMPLE] = self._example(serve).encode("utf-8")
        return files

    def _example(self, serve: str) -> str:
        return (
            f'"""{self._title()}"""\n\nimport json\nimport sys\n\nimport numpy as np\n'
            f'{self._feeds()}labels = json.load(open("{LABELS_FILE}", encoding="utf-8"))\n'
            f"{serve}scores = run(feeds)[0][0]\n{_ANSWERS[self.answers]}"
        )

    def _title(self) -> str:
        shown = " ".join(_GIVEN[role] for role in self.some)
        return f"In the folder of the bundle: python -B {EXAMPLE} {shown}"

    def _feeds(self) -> str:
        encode = self.encode
        if isinstance(encode, SoundEncoder):
            return _sounds(encode)
        if not isinstance(encode, TextEncoder):
            return _IMAGES
        alone = self._agrees(encode)
        if encode.words:
            given = (
                "sys.argv[1:], is_pretokenized=True" if alone else "[sys.argv[1:]], is_split_into_words=True"
            )
        else:
            count = len(self.some)
            places = [f"sys.argv[{at}]" for at in range(1, count + 1)]
            given = ", ".join(places if alone else [f"[{place}]" for place in places])
        if encode.lengths:
            text = _TOKENIZERS_OF_SEVERAL if alone else _TRANSFORMERS_OF_SEVERAL
        else:
            text = _TOKENIZERS if alone else _TRANSFORMERS
        padding = ", ".join(f"{name}={value!r}" for name, value in encode.padding.items())
        text = text.format(tokens=encode.tokens, given=given, lengths=encode.lengths, padding=padding)
        value = {
            name: f"[encoding.{_FIELDS[name]}]" if alone else f"encoding[{name!r}]" for name in encode.inputs
        }
        lines = [f'    "{name}": np.array({value[name]}, np.int64),\n' for name in encode.inputs]
        return f"{text}feeds = {{\n{''.join(lines)}}}\n"

    def _agrees(self, encode: TextEncoder) -> bool:
        """Whether the library `tokenizers` alone gives for some rows what transformers gives."""
        alone = encode.alone()
        if alone is None or not set(encode.inputs) <= set(_FIELDS):
            return False
        columns = list(self.some.values())
        rows = columns[0] if len(columns) == 1 else list(zip(*columns, strict=True))
        found = alone.encode_batch(rows, is_pretokenized=encode.words)
        if encode.lengths:
            own = encode.buckets(self.some)
            for each, tokens in zip(found, own.tolist(), strict=True):
                each.pad(tokens, **encode.padding)
            parts = [np.flatnonzero(own == tokens) for tokens in np.unique(own)]
        else:
            parts = [np.arange(len(found))]
        return all(self._same(encode, [found[at] for at in part], part.tolist()) for part in parts)

    def _same(self, encode: TextEncoder, found: Sequence[Any], rows: Sequence[int]) -> bool:
        """Whether some rows of one length have the same inputs as by transformers."""
        inputs: Inputs = {
            name: np.array([getattr(each, _FIELDS[name]) for each in found], np.int64)
            for name in encode.inputs
        }
        wanted = encode({role: [column[at] for at in rows] for role, column in self.some.items()})
        return all(np.array_equal(inputs[name], wanted[name]) for name in encode.inputs)


def _sounds(encode: SoundEncoder) -> str:
    """Lines that make the model's inputs of a WAV file."""
    length = "".join(f", {name}={value!r}" for name, value in encode.length.items())
    text = _SOUNDS.format(
        width=SAMPLE_BYTES, bits=8 * SAMPLE_BYTES, rate=encode.rate, scale=FULL_SCALE, length=length
    )
    whole = [name for name in encode.inputs if name.endswith("mask")]
    lines = [
        f'    "{name}": np.asarray(found["{name}"], np.{"int64" if name in whole else "float32"}),\n'
        for name in encode.inputs
    ]
    return f"{text}feeds = {{\n{''.join(lines)}}}\n"
