"""A BERT that tells which part of Python's standard library a docstring is from, as a folder of transformers.

    python examples/docstrings.py
    edgeprune fit build/docstrings/bert --data build/docstrings/rows --tokens 48 --speedup 2

The paragraphs come with Python, the words of the tokenizer from the paragraphs, and the weights from a
training of a minute or two: nothing is fetched. A docstring is trained on or held back as a whole.
"""

from __future__ import annotations

import argparse
import ast
import csv
import random
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

PARTS = {
    "concurrency": "asyncio concurrent multiprocessing queue sched selectors subprocess threading",
    "development": "ast bdb cProfile dis doctest inspect pdb pydoc timeit trace traceback typing unittest",
    "files": "_pyio codecs glob gzip io lzma os pathlib pickletools shutil tarfile tempfile zipfile",
    "internet": "email ftplib http imaplib mailbox poplib smtplib socketserver ssl urllib wsgiref xmlrpc",
    "numbers": "_pydecimal calendar colorsys datetime fractions heapq ipaddress numbers random statistics",
}
FEWEST_WORDS = 5  # of a paragraph
HELD_BACK = 0.2  # of the docstrings
VOCABULARY, TOKENS = 3000, 48
BATCH, EPOCHS, RATE = 64, 6, 1e-3
SPECIAL = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}

Rows: TypeAlias = list[tuple[str, str]]  # (text, label)


def docstrings(module: str) -> Iterator[str]:
    """Every docstring of a module or package of the standard library."""
    library = Path(sysconfig.get_path("stdlib"))
    for path in sorted([library / f"{module}.py", *(library / module).rglob("*.py")]):
        if path.is_file() and "test" not in path.relative_to(library).parts:
            for node in ast.walk(ast.parse(path.read_bytes())):
                if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                    yield ast.get_docstring(node) or ""


def labelled(seed: int = 0) -> tuple[Rows, Rows]:
    """(training rows, rows held back): one for each paragraph of prose, none twice."""
    draw, seen = random.Random(seed), set()
    parts: tuple[Rows, Rows] = ([], [])
    for label, modules in PARTS.items():
        for docstring in (each for module in modules.split() for each in docstrings(module)):
            rows = parts[draw.random() < HELD_BACK]
            for paragraph in docstring.split("\n\n"):
                text = " ".join(paragraph.split())
                if len(text.split()) >= FEWEST_WORDS and ">>>" not in text and text not in seen:
                    seen.add(text)
                    rows.append((text, label))
    return parts


def tokenizer(texts: Sequence[str]) -> PreTrainedTokenizerFast:
    """WordPiece with the most useful pieces of these texts."""
    raw = Tokenizer(models.WordPiece(unk_token=SPECIAL["unk"]))
    raw.normalizer = normalizers.BertNormalizer(lowercase=True)
    raw.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = list(SPECIAL.values())
    raw.train_from_iterator(texts, trainers.WordPieceTrainer(vocab_size=VOCABULARY, special_tokens=special))
    ends = [(token, raw.token_to_id(token)) for token in (SPECIAL["cls"], SPECIAL["sep"])]
    raw.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    named = {f"{name}_token": token for name, token in SPECIAL.items()}
    inputs = ["input_ids", "token_type_ids", "attention_mask"]
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, model_max_length=64, model_input_names=inputs, **named
    )


def encoded(tokens: PreTrainedTokenizerFast, rows: Rows) -> dict[str, torch.Tensor]:
    found = tokens(
        [text for text, _ in rows],
        padding="max_length",
        max_length=TOKENS,
        truncation=True,
        return_tensors="pt",
    )
    return {**found, "labels": torch.tensor([list(PARTS).index(label) for _, label in rows])}


def trained(inputs: dict[str, torch.Tensor], words: int, epochs: int) -> Any:
    """A BERT of two layers, from random weights."""
    torch.manual_seed(0)
    net = BertForSequenceClassification(
        BertConfig(
            vocab_size=words,
            hidden_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=512,
            max_position_embeddings=64,
            id2label=dict(enumerate(PARTS)),
        )
    ).train()
    rows = len(inputs["labels"])
    optimiser = torch.optim.AdamW(net.parameters())
    steps = epochs * -(-rows // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=steps, pct_start=0.1)
    for _ in range(epochs):
        for at in torch.randperm(rows).split(BATCH):
            optimiser.zero_grad()
            net(**{name: tensor[at] for name, tensor in inputs.items()}).loss.backward()
            optimiser.step()
            schedule.step()
    return net.eval()


def accuracy(net: Any, inputs: dict[str, torch.Tensor]) -> float:
    with torch.no_grad():
        return float((net(**inputs).logits.argmax(1) == inputs["labels"]).float().mean())


def write_rows(path: Path, rows: Rows) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([("text", "label"), *rows])


def main() -> None:
    parser = argparse.ArgumentParser(description="Train a tiny BERT on the docstrings of Python.")
    parser.add_argument("--out", type=Path, default=Path("build/docstrings"))
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    options = parser.parse_args()
    folder = options.out
    training, held_back = labelled()
    (folder / "rows").mkdir(parents=True, exist_ok=True)
    write_rows(folder / "rows" / "train.csv", training)
    write_rows(folder / "rows" / "validation.csv", held_back)
    tokens = tokenizer([text for text, _ in training])
    net = trained(encoded(tokens, training), len(tokens), options.epochs)
    for part in (tokens, net):
        part.save_pretrained(folder / "bert")
    right = accuracy(net, encoded(tokens, held_back))
    print(f"{folder}: trained on {len(training)} paragraphs, right on {right:.1%} of {len(held_back)} others")


if __name__ == "__main__":
    main()
