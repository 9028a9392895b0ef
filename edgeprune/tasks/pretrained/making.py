"""Assembly of a task: a pretrained model, the encoder before it, rows with labels, and a metric."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from edgeprune.errors import InputError
from edgeprune.meaning.losses import IGNORED
from edgeprune.records.task import Predict
from edgeprune.tasks.arrays import FEWEST_SAMPLES, MOST_CALIBRATION_ROWS
from edgeprune.tasks.metrics import SUBSET
from edgeprune.tasks.prepared import PreparedTask
from edgeprune.tasks.pretrained.batches import (
    CalibrationBatches,
    EncodedRows,
    Rows,
    TrainingBatches,
    split_by_class,
)
from edgeprune.tasks.pretrained.carrying import Front
from edgeprune.tasks.pretrained.columns import (
    class_numbers,
    find_columns,
    label_vectors,
    said_columns,
    texts,
    values,
)
from edgeprune.tasks.pretrained.encoding import (
    ENOUGH,
    MOST_LENGTHS,
    Encoder,
    TextEncoder,
    image_encoder,
    text_encoder,
)
from edgeprune.tasks.pretrained.heads import Reads
from edgeprune.tasks.pretrained.loading import Pretrained, load_pretrained
from edgeprune.tasks.pretrained.reading import LabelledRows, read_parts
from edgeprune.tasks.pretrained.scores import NamedScore, check_scored, counted, score_named
from edgeprune.tasks.pretrained.sounds import SoundEncoder, sound_encoder

if TYPE_CHECKING:
    from edgeprune.tasks.forms import TaskOptions

SOME = 64  # rows on which the bundle's encoder is compared with the one here


@dataclass(frozen=True)
class Part:
    """Rows of one part: cells by role, and labels in the model's numbers, or of words lists of them."""

    rows: LabelledRows
    cells: Mapping[str, Sequence[Any]]
    labels: Any
    order: Rows


def made_task(folder: Path, options: TaskOptions) -> PreparedTask:
    """Task of a pretrained folder; `task_from_folder` says of what. Raises `InputError`."""
    if options.data is None:
        raise InputError(
            f"{folder} was given without --data.",
            "Add --data FILE or FOLDER with the texts or images and their labels: docs/hugging_face.md.",
        )
    found = load_pretrained(folder)
    reads = found.head.reads
    score = score_named(options.metric, found.answers)
    said = said_columns(options.columns, reads)
    _check_lengths(options, reads)
    parts = read_parts(options.data, reads)
    train, evaluation, told = _split(parts, lambda rows: _part(rows, said, found), found, options.seed)
    encode = _encoder(found, options, train)
    remarks = [*found.remarks, told, *_told_length(encode, options, train, evaluation)]
    learnt, judged = _encoded(train, encode), replace(_encoded(evaluation, encode), by_length=True)
    scored = _Evaluation(judged, score, found)
    check_scored(score, scored.targets(judged), found.names)
    calibration = CalibrationBatches(learnt.first(MOST_CALIBRATION_ROWS))
    example = {name: torch.from_numpy(array) for name, array in learnt.longest().items()}
    lengths = encode.lengths if isinstance(encode, TextEncoder) else ()
    _check_runs(found, example)
    some = train.order[: SOME if isinstance(encode, TextEncoder) else 0]
    return PreparedTask(
        model=found.module,
        example=example,
        calibration=calibration,
        train=TrainingBatches(learnt),
        evaluate=scored.evaluate,
        evaluate_subset=scored.subset,
        evaluate_samples=scored.samples,
        metric=score.shown,
        lower_is_better=score.lower_is_better,
        outputs="classes:2" if reads == "words" else found.answers,
        lengths=lengths or None,
        length_dims=1 if lengths else None,
        remarks=tuple(remarks),
        doubts=scored.doubts,
        carry=Front(encode, found.answers, found.names, _chosen(train.cells, some)),
    )


def _check_lengths(options: TaskOptions, reads: Reads) -> None:
    """Refuse a length of what the model does not read, and several where outputs are as long as the text."""
    whose = "images" if reads == "image" else "recordings" if reads == "audio" else "texts"
    tokens = ",".join(map(str, options.lengths))
    if tokens and reads not in ("text", "words"):
        raise InputError(f"--tokens {tokens} was given with a model of {whose}.", "Leave it out.")
    if options.seconds is not None and reads != "audio":
        raise InputError(f"--seconds {options.seconds:g} was given with a model of {whose}.", "Leave it out.")
    if len(options.lengths) > 1 and reads == "words":
        raise InputError(
            f"--tokens {tokens} was given with a model that answers each word: its outputs are as long as "
            "the text, and lengths may vary in inputs alone.",
            "Give one number of tokens.",
        )


def _encoder(found: Pretrained, options: TaskOptions, train: Part) -> Encoder:
    """Encoder of what the model reads."""
    if found.head.reads == "image":
        return image_encoder(found, train.rows.folder)
    cells = _chosen(train.cells, train.order)
    if found.head.reads == "audio":
        return sound_encoder(found, options.seconds, train.rows.folder, cells)
    return text_encoder(found, options.lengths, cells)


def _chosen(cells: Mapping[str, Sequence[Any]], rows: Rows) -> dict[str, list[Any]]:
    return {role: [column[at] for at in rows] for role, column in cells.items()}


def _part(rows: LabelledRows, said: Mapping[str, str], found: Pretrained) -> Part:
    """Cells and labels of a part, checked row by row."""
    reads, names = found.head.reads, found.names
    columns = find_columns(rows, said, reads)
    cells: dict[str, Sequence[Any]] = {}
    for role, column in columns.items():
        if role != "label":
            given = rows.cells(column)
            cells[role] = texts(given, column, rows.row) if reads == "text" else given
    labels = rows.cells(columns["label"])
    if reads == "words":
        return Part(rows, cells, _tags(cells["words"], labels, names, rows), np.arange(len(rows)))
    if found.answers == "classes":
        return Part(rows, cells, class_numbers(labels, names, rows.row), np.arange(len(rows)))
    if found.answers == "values":
        return Part(rows, cells, values(labels, rows.row), np.arange(len(rows)))
    return Part(rows, cells, label_vectors(labels, names, rows.row), np.arange(len(rows)))


def _tags(
    words: Sequence[Any], tags: Sequence[Any], names: tuple[str, ...], rows: LabelledRows
) -> list[list[int]]:
    """Class numbers of each row's words."""
    for at, (row, its) in enumerate(zip(words, tags, strict=True)):
        whole = isinstance(row, list) and isinstance(its, list) and len(row) == len(its) > 0
        if not whole or not all(isinstance(word, str) for word in row):
            raise InputError(
                f"{rows.row(at)} is no list of words with one tag for each.",
                'Give rows such as {"tokens": ["in", "Rome"], "tags": ["O", "B-LOC"]} in a .jsonl file.',
            )
    ends = np.cumsum([len(row) for row in tags])
    flat = [tag for row in tags for tag in row]
    numbers = class_numbers(flat, names, lambda at: rows.row(int(np.searchsorted(ends, at, side="right"))))
    return [part.tolist() for part in np.split(numbers, ends[:-1])]


def _split(
    parts: Mapping[str, LabelledRows], read: Callable[[LabelledRows], Part], found: Pretrained, seed: int
) -> tuple[Part, Part, str]:
    """Parts for training and evaluation, with a sentence about how many rows each has."""
    rows = parts["train"]
    name = next((name for name in ("validation", "test") if name in parts), None)
    if name is None:
        _check_enough(rows, len(rows))
        whole = read(rows)
        by_class = found.answers == "classes" and found.head.reads != "words"
        learnt, judged = split_by_class(whole.labels if by_class else None, len(rows), seed)
        how = f"by the seed {seed}" + (", every class in the same shares" if by_class else "")
        told = (
            f"Of {len(rows)} rows {len(learnt)} are for calibration and training and {len(judged)} for "
            f"evaluation, split {how}."
        )
        return replace(whole, order=learnt), replace(whole, order=judged), told
    judging = parts[name]
    for each in (rows, judging):
        _check_enough(each, 2 * len(each))
    shuffled = np.random.default_rng(seed).permutation
    told = (
        f"{len(rows)} rows of train are for calibration and training, {len(judging)} of {name} for evaluation"
    )
    left = [f"{len(each)} of {other}" for other, each in parts.items() if other not in ("train", name)]
    told += f"; {' and '.join(left)} are not read." if left else "."
    train, evaluation = read(rows), read(judging)
    return (
        replace(train, order=shuffled(len(rows))),
        replace(evaluation, order=shuffled(len(judging))),
        told,
    )


def _check_enough(rows: LabelledRows, counted_rows: int) -> None:
    if counted_rows < FEWEST_SAMPLES:
        raise InputError(
            f"{rows.where} has {len(rows)} rows, which are too few.",
            "Give a few hundred or more: they calibrate, train and evaluate.",
        )


def _encoded(part: Part, encode: Encoder) -> EncodedRows:
    if not isinstance(encode, TextEncoder) or not encode.words:
        tokens = None
        if isinstance(encode, TextEncoder) and encode.lengths:
            tokens = np.zeros(len(part.rows), np.int64)
            tokens[part.order] = encode.buckets(_chosen(part.cells, part.order))
        return EncodedRows(encode, part.cells, part.labels, part.order, tokens)

    def targets(rows: Rows) -> NDArray[Any]:
        return encode.targets(_chosen(part.cells, rows), [part.labels[at] for at in rows])

    return EncodedRows(encode, part.cells, targets, part.order)


def _told_length(encode: Encoder, options: TaskOptions, train: Part, evaluation: Part) -> Iterator[str]:
    """Sentence about the length of texts or recordings, or about several, and how many of them it cuts."""
    some = _chosen(evaluation.cells, evaluation.order[:MOST_LENGTHS])
    asked: object
    if isinstance(encode, TextEncoder):
        kind, flag, asked, length = "text", "tokens", options.tokens, encode.tokens
        told, longer = f"{length} tokens", encode.lengths_of(some) > length
    elif isinstance(encode, SoundEncoder) and encode.samples is not None:
        kind, flag, asked, length = "recording", "seconds", options.seconds, encode.samples
        told, longer = f"{length / encode.rate:g} s", encode.lengths_of(some) > length
    else:
        return
    cut = f"{float(longer.mean()):.1%} of the evaluation {kind}s are cut."
    if isinstance(encode, TextEncoder) and encode.lengths:
        own = encode.buckets(_chosen(train.cells, train.order[:MOST_LENGTHS]))
        shares = [f"{float((own == each).mean()):.1%} have {each}" for each in encode.lengths]
        yield (
            f"Texts have {' or '.join(map(str, encode.lengths))} tokens, padded to the next or cut: of the "
            f"training texts {', '.join(shares)}; {cut}"
        )
        return
    usual = f"the {ENOUGH}th percentile of the training {kind}s, rounded up"
    yield (
        f"Every {kind} has {told} ({usual if asked is None else 'as asked'}), padded or cut; {cut} --{flag} "
        "says another length."
    )


def _check_runs(found: Pretrained, example: dict[str, torch.Tensor]) -> None:
    try:
        with torch.no_grad():
            found.module(**example)
    except Exception as error:
        shapes = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in example.items())
        raise InputError(
            f"The model of {found.folder} does not answer {shapes}: {str(error).strip()[:200]}",
            "Check that tokenizer or processor and model are of one another; --tokens gives shorter texts.",
        ) from error


@dataclass(frozen=True)
class _Evaluation:
    """Evaluation by a named score over encoded rows."""

    rows: EncodedRows
    score: NamedScore
    found: Pretrained

    def evaluate(self, predict: Predict) -> float:
        """Score over all rows."""
        return self._score(predict, self.rows)

    @property
    def subset(self) -> Callable[[Predict], float] | None:
        """Score over the first rows; None of few rows, and of a score that rare classes decide."""
        if len(self.rows.order) < 2 * SUBSET or self.score.shown not in ("accuracy", "RMSE"):
            return None
        return lambda predict: self._score(predict, self.rows.first(SUBSET))

    @property
    def samples(self) -> Callable[[Predict], NDArray[np.float64]] | None:
        """One score per row, whose mean is the score; None where it is no mean over rows."""
        if self.score.shown != "accuracy" or self.found.head.reads == "words":
            return None

        def evaluate_samples(predict: Predict) -> NDArray[np.float64]:
            logits, targets = self._asked(predict, self.rows), self.targets(self.rows)
            right = (logits > 0) == (targets > 0.5) if targets.ndim == 2 else logits.argmax(-1) == targets
            scores: NDArray[np.float64] = right.reshape(len(right), -1).astype(np.float64).mean(1)
            return scores

        return evaluate_samples

    def doubts(self, score: float) -> Iterator[str]:
        """Question about a dense model that is no better than the best constant answer."""
        targets = self.targets(self.rows)
        targets = targets[targets != IGNORED] if self.found.head.reads == "words" else targets
        names, rows = self.found.names, len(self.rows.order)
        chance = self.score.chance(targets, len(names))
        gained = (chance - score) if self.score.lower_is_better else (score - chance)
        if gained > self.score.margin(chance, rows):
            return
        known = "Are these the labels that it was trained on"
        if self.found.answers != "values":
            shown = ", ".join(f"{at} = {name}" for at, name in enumerate(names[:5]))
            known += f", in the order of config.json ({shown}{', ...' if len(names) > 5 else ''})"
        yield (
            f"{self.score.shown} of the dense model is {score:.4g} on {rows} rows, not clearly better than "
            f"{chance:.4g}, which one answer for all of them gives. {known}?"
        )

    def targets(self, rows: EncodedRows) -> NDArray[Any]:
        """Targets of rows, [rows, ...]."""
        return np.concatenate([rows.target(number) for number in range(len(rows))])

    def _score(self, predict: Predict, rows: EncodedRows) -> float:
        return self.score.of(*counted(self._asked(predict, rows), self.targets(rows)))

    def _asked(self, predict: Predict, rows: EncodedRows) -> NDArray[Any]:
        return np.concatenate(
            [np.asarray(predict(*rows.inputs(number).values())) for number in range(len(rows))]
        )
