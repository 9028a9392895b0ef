"""Tiny pretrained folders, made and trained here for a moment, and files of rows for them.

All data is synthetic: sentences of made-up words and pictures of noise, from fixed seeds.
"""

from __future__ import annotations

import csv
import json
import random
import wave
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

GOOD = ("bright", "happy", "warm", "clear", "sweet")
BAD = ("dark", "sad", "cold", "vague", "bitter")
PLAIN = ("the", "day", "was", "and", "a", "very", "story", "with", "people", "in")
NAMES = ("NEGATIVE", "POSITIVE")


def sentences(rows: int, seed: int = 0) -> tuple[list[str], list[int]]:
    """Synthetic sentences, and 1 for those whose words are good ones."""
    numbers = random.Random(seed)
    texts, labels = [], []
    for _ in range(rows):
        label = numbers.randrange(2)
        words = numbers.choices(PLAIN, k=numbers.randrange(4, 9))
        words[numbers.randrange(len(words))] = numbers.choice((BAD, GOOD)[label])
        texts.append(" ".join(words))
        labels.append(label)
    return texts, labels


def tokenizer(folder: Path) -> Any:
    """A WordPiece tokenizer trained on synthetic sentences, saved in the folder."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    raw.normalizer = normalizers.BertNormalizer(lowercase=True)
    raw.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    raw.train_from_iterator(
        sentences(200, 1)[0], trainers.WordPieceTrainer(vocab_size=120, special_tokens=special)
    )
    raw.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    named = dict(
        zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), special, strict=True)
    )
    made = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        model_max_length=64,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        **named,
    )
    made.save_pretrained(folder)
    return made


def text_folder(folder: Path, head: str = "BertForSequenceClassification", **settings: Any) -> Path:
    """A tiny BERT with random weights, saved with its tokenizer."""
    import transformers

    torch.manual_seed(0)
    vocabulary = len(tokenizer(folder))
    config = transformers.BertConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
        **{"id2label": dict(enumerate(NAMES)), **settings},
    )
    getattr(transformers, head)(config).save_pretrained(folder)
    return folder


def train(folder: Path, texts: Sequence[Any], targets: Any, steps: int = 60, **called: Any) -> None:
    """Train the model of a text folder on synthetic rows for a moment, and save it again."""
    import transformers

    config = transformers.AutoConfig.from_pretrained(folder)
    model = getattr(transformers, config.architectures[0]).from_pretrained(folder).train()
    encode = transformers.AutoTokenizer.from_pretrained(folder)
    inputs = encode(
        texts, padding="max_length", max_length=16, truncation=True, return_tensors="pt", **called
    )
    fit(model, dict(inputs), torch.as_tensor(targets), steps)
    model.save_pretrained(folder)


def fit(model: nn.Module, inputs: dict[str, torch.Tensor], targets: torch.Tensor, steps: int) -> None:
    """Train by the model's own loss."""
    torch.manual_seed(0)
    optimiser = torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(steps):
        rows = torch.randint(0, len(targets), (32,))
        loss = model(**{name: tensor[rows] for name, tensor in inputs.items()}, labels=targets[rows]).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    model.eval()


def write_csv(path: Path, **columns: Sequence[object]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return path


def write_jsonl(path: Path, **columns: Sequence[object]) -> Path:
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def classifier(folder: Path) -> Path:
    """A text classifier that tells good sentences from bad ones."""
    texts, labels = sentences(400, 2)
    train(text_folder(folder), texts, labels)
    return folder


def pictures(folder: Path, rows: int, seed: int = 0, names: Sequence[str] = ("dark", "light")) -> Path:
    """A folder of synthetic images of noise by class, as imagefolder reads it."""
    from PIL import Image

    numbers = np.random.default_rng(seed)
    for at in range(rows):
        kind = at % 2
        pixels = numbers.integers(0, 128, (20, 20, 3)) + 127 * kind
        place = folder / names[kind]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(place / f"{at:04}.png")
    return folder


def image_folder(folder: Path) -> Path:
    """A tiny vision transformer with its image processor, trained to tell light noise from dark."""
    import transformers

    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        image_size=16,
        patch_size=4,
        id2label={0: "light", 1: "dark"},  # not in the order of the folders' names
    )
    model = transformers.ViTForImageClassification(config).train()
    numbers = torch.Generator().manual_seed(3)
    labels = torch.arange(128) % 2
    pixels = torch.rand(128, 3, 16, 16, generator=numbers) - labels[:, None, None, None].float()
    fit(model, {"pixel_values": pixels}, labels, 40)
    model.save_pretrained(folder)
    transformers.ViTImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(folder)
    return folder


RATE = 8000  # Hz of synthetic recordings
SOUNDS = ("high", "low")


def tone(kind: int, seconds: float = 0.4, seed: int = 0) -> np.ndarray:
    """A synthetic recording of 16 bits: a high or a low tone in noise."""
    numbers = np.random.default_rng(seed)
    times = np.arange(round(seconds * RATE)) / RATE
    swings = np.sin(2 * np.pi * (2200 - 1900 * kind) * times + numbers.uniform(0, 6))
    return ((0.5 * swings + 0.05 * numbers.standard_normal(times.size)) * 20000).astype("<i2")


def write_wav(path: Path, frames: np.ndarray, rate: int = RATE, channels: int = 1, width: int = 2) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(frames.tobytes())
    return path


def recordings(folder: Path, rows: int, names: Sequence[str] = SOUNDS, **made: float) -> Path:
    """A folder of synthetic WAV files by class."""
    for at in range(rows):
        write_wav(folder / names[at % 2] / f"{at:04}.wav", tone(at % 2, seed=at, **made))
    return folder


def spectrogram_folder(folder: Path) -> Path:
    """A tiny audio spectrogram transformer with its feature extractor, trained to tell two tones."""
    import transformers

    torch.manual_seed(0)
    extractor = transformers.ASTFeatureExtractor(sampling_rate=RATE, num_mel_bins=32, max_length=48)
    config = transformers.ASTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        patch_size=16,
        frequency_stride=16,
        time_stride=16,
        max_length=48,
        num_mel_bins=32,
        id2label=dict(enumerate(SOUNDS)),
    )
    model = transformers.ASTForAudioClassification(config).train()
    labels = torch.arange(64) % 2
    sounds = [tone(at % 2, seed=1000 + at) / np.float32(32768) for at in range(64)]
    inputs = extractor(sounds, sampling_rate=RATE, return_tensors="pt")
    fit(model, dict(inputs), labels, 40)
    model.save_pretrained(folder)
    extractor.save_pretrained(folder)
    return folder


def waveform_folder(folder: Path, **extractor: Any) -> Path:
    """A tiny Wav2Vec2 with random weights and its feature extractor."""
    import transformers

    torch.manual_seed(0)
    config = transformers.Wav2Vec2Config(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        conv_dim=(16, 16, 16),
        conv_stride=(5, 4, 4),
        conv_kernel=(10, 8, 4),
        num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=4,
        classifier_proj_size=16,
        id2label=dict(enumerate(SOUNDS)),
    )
    transformers.Wav2Vec2ForSequenceClassification(config).save_pretrained(folder)
    given = {"sampling_rate": RATE, "return_attention_mask": False, **extractor}
    transformers.Wav2Vec2FeatureExtractor(**given).save_pretrained(folder)
    return folder
