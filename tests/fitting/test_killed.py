"""A fit that is killed again and again, in every phase, and resumed: the same answer to the last byte."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgeprune.records.bundle import EVIDENCE, MANIFEST, MATERIALS

ROOT = Path(__file__).parents[2]
CHAINS, KILLS = 2, 10  # twenty kills in two runs

Ask = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def ask() -> Iterator[Ask]:
    """Makes a fit in a process of its own, killed at the moment `die` of a phase when that is given."""
    zygote = subprocess.Popen(
        [sys.executable, "-m", "tests.support.zygote"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )
    assert zygote.stdin is not None
    assert zygote.stdout is not None

    def order(
        folder: Path,
        die: tuple[str, int] | None = None,
        resume: bool = False,
        vanish: str | None = None,
    ) -> dict[str, Any]:
        folder.mkdir(exist_ok=True)
        line = json.dumps({"folder": str(folder), "die": die, "resume": resume, "vanish": vanish})
        zygote.stdin.write(line.encode() + b"\n")
        zygote.stdin.flush()
        answer: dict[str, Any] = json.loads(zygote.stdout.readline())
        return answer

    with zygote:
        yield order
        zygote.stdin.close()


@pytest.fixture(scope="module")
def whole(ask: Ask, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A fit that nothing disturbs: its folder, and its account."""
    folder = tmp_path_factory.mktemp("whole")
    account = ask(folder)
    assert account["ended"] == 0
    return folder, account


def answer(folder: Path) -> dict[str, Any]:
    """All that a fit leaves, apart from what says when and where it was made."""
    run = folder / "run"
    result = json.loads((run / "result.json").read_bytes())
    assert result.pop("bundle") == str(run / "run.edgeprune.zip")
    assert result.pop("out") == str(run)
    del result["seconds"], result["occasion"]
    with zipfile.ZipFile(run / "run.edgeprune.zip") as archive:
        bundle: dict[str, Any] = {name: archive.read(name) for name in archive.namelist()}
    bundle[EVIDENCE] = json.loads(bundle[EVIDENCE])
    del bundle[EVIDENCE]["seconds"]
    bundle[MANIFEST] = json.loads(bundle[MANIFEST])
    del bundle[MANIFEST]["created"]
    bundle[MATERIALS] = json.loads(bundle[MATERIALS])
    del bundle[MATERIALS]["metadata"]["timestamp"]
    timed = (EVIDENCE, MATERIALS)
    bundle[MANIFEST]["files"] = [file for file in bundle[MANIFEST]["files"] if file["path"] not in timed]
    artefacts = {path.parent.name: path.read_bytes() for path in run.glob("*/model.onnx")}
    return {
        "result": result,
        "bundle": bundle,
        "artefacts": artefacts,
        "steps": steps(run),
        "files": files(run),
    }


def steps(run: Path) -> list[str]:
    return [json.loads(line)["key"] for line in (run / "ledger.jsonl").read_text().splitlines()[1:]]


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_a_fit_goes_through_every_phase_that_is_killed_below(whole: tuple[Path, dict[str, Any]]) -> None:
    phases = list(whole[1]["moments"])
    for needed in (
        *("dense: building", "dense: measuring", "dense-int8: comparing on a subset"),
        *("table: measuring operators", "draft-01: measuring shapes"),
        *("trial-01: cutting and reconstructing", "trial-01: measuring"),
        *("final-01: recovering (finetune)", "final-01: proving", "final-01: comparing sample by sample"),
        *("golden vectors", "bundle", "result"),
    ):
        assert needed in phases
    assert len(phases) >= CHAINS * KILLS


def test_the_same_seed_and_table_give_the_same_answer_to_the_last_byte(
    ask: Ask, whole: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    """The tables come from a cache that was damaged, so they are measured again, and that is told."""
    tables = sorted((whole[0] / "cache" / "edgeprune" / "tables").iterdir())
    folder = tmp_path / "cache" / "edgeprune" / "tables"
    folder.mkdir(parents=True)
    for table in tables:
        (folder / table.name).write_bytes(table.read_bytes()[:-7])
    account = ask(tmp_path)
    assert account["ended"] == 0
    told = [told for told in account["told"] if "damaged and is measured again" in told]
    assert len(told) == len(tables) > 0
    assert not [told for told in whole[1]["told"] if "measured again" in told]
    for table in tables:
        assert (folder / table.name).read_bytes() == table.read_bytes()
    assert answer(tmp_path) == answer(whole[0])


@pytest.mark.parametrize("chain", range(CHAINS))
def test_a_fit_that_is_killed_in_many_phases_and_resumed_gives_the_same_answer(
    ask: Ask, whole: tuple[Path, dict[str, Any]], tmp_path: Path, chain: int
) -> None:
    """Phases in turn between the chains; the moment within a phase is random, by seed."""
    moments: dict[str, int] = whole[1]["moments"]
    chance = random.Random(chain)
    phases = [phase for phase in moments if phase != "start"][chain::CHAINS]
    struck = sorted(chance.sample(range(len(phases)), KILLS))
    begun = False
    for phase in [phases[at] for at in struck]:
        die = (phase, chance.randrange(moments[phase]))
        assert ask(tmp_path, die, begun)["ended"] == -signal.SIGKILL, die
        begun = (tmp_path / "run" / "ledger.jsonl").exists()
    assert ask(tmp_path, None, begun)["ended"] == 0
    assert answer(tmp_path) == answer(whole[0])
    assert files(tmp_path / "tmp") == [], "a scratch folder was left"


def test_a_device_that_vanishes_in_any_phase_decides_nothing(
    ask: Ask, whole: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    """Not even in the table, without which a fit would go another way."""
    asked = (
        *("dense: measuring", "dense-int8: comparing on a subset", "table: measuring operators"),
        *("trial-01: evaluating top-1", "final-01: proving", "final-01: comparing sample by sample"),
    )
    for at, phase in enumerate(asked):
        account = ask(tmp_path, None, at > 0, phase)
        assert account == {"ended": 0, "error": "The connection to device scripted was lost."}, phase
        assert not (tmp_path / "run" / "result.json").exists()
    assert ask(tmp_path, None, True)["ended"] == 0
    assert answer(tmp_path) == answer(whole[0])
