"""Tasks of a pretrained folder, as `save_pretrained` of transformers writes it, and labelled rows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgeprune.tasks.pretrained.loading import go_offline

if TYPE_CHECKING:
    from edgeprune.tasks.forms import TaskOptions
    from edgeprune.tasks.prepared import PreparedTask


def task_from_folder(folder: Path, options: TaskOptions) -> PreparedTask:
    """Task of a pretrained folder and the rows at `options.data`.

    The head that config.json names decides what a row is and what the outputs are. Rows of a part called
    train are for calibration and training, those of validation, or else of test, for evaluation; where there
    is one part alone, it is split by the seed. Nothing is fetched, and no code of the folder is run.
    Raises `InputError`, and `ModuleNotFoundError` without the extra `hf`.
    """
    go_offline()
    import datasets  # noqa: F401  all that the extra brings, before anything is read
    import sklearn  # noqa: F401
    import tokenizers  # noqa: F401
    import transformers  # noqa: F401

    from edgeprune.tasks.pretrained.making import made_task

    return made_task(folder, options)


__all__ = ["task_from_folder"]
