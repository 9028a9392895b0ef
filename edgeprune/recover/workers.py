"""Processes of a recovery training: started here, or by a launcher (`accelerate launch`, `torchrun`).

One process leads: it runs the fit. The others follow: they compute shares of batches while something is
trained (`together`), wait while it is not, and write nothing.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import IO, Any

import torch
from torch import distributed

from edgeprune.environment import variable
from edgeprune.errors import EdgepruneError, InputError
from edgeprune.graph.capture import Captured, module_of
from edgeprune.recover.place import Place, training_place
from edgeprune.recover.recipe import Recipe, TrainingOptions
from edgeprune.recover.together import END, LEADER, follow, hand_out
from edgeprune.recover.train import trained_parameters, training_mode

LONGEST_WAIT = timedelta(days=7)  # of a follower, while the leader measures
STARTING_SECONDS = 300.0
ENDING_SECONDS = 10.0
LAUNCHED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # what a launcher tells its processes
_JOINED = "EDGEPRUNE_JOINED"  # in the environment while the default group is that of `joined`
_LOOPBACK = "lo0" if sys.platform == "darwin" else "lo"


@dataclass(frozen=True)
class _Job:
    """Training to follow. student, teacher: exported programs. threads: of each process."""

    student: bytes
    teacher: bytes
    recipe: Recipe
    place: Place
    threads: int


def launched() -> bool:
    """Whether a launcher started this process among others."""
    return all(name in os.environ for name in LAUNCHED) and int(os.environ["WORLD_SIZE"]) > 1


def leads() -> bool:
    """Whether this process runs the fit."""
    return not launched() or int(os.environ["RANK"]) == LEADER


def check_processes(options: TrainingOptions) -> None:
    """Refuse a training device that is not there, and more processes than devices. Raises `InputError`."""
    place = training_place(options.device)
    if options.processes == 1 or _JOINED in os.environ:
        return
    if distributed.is_initialized():
        raise InputError(
            "--processes was given in a program that has a process group of its own.",
            "End that group before the fit, or start the command line under the launcher.",
        )
    if ":" in options.device:
        raise InputError(
            f"--train-device {options.device} is one device, and --processes is {options.processes}.",
            "Say --train-device cuda: each process takes one of the GPUs.",
        )
    count = {"cuda": torch.cuda.device_count(), "mps": 1}.get(place.device.type, options.processes)
    if count < options.processes:
        raise InputError(
            f"--processes is {options.processes}, and PyTorch finds {count} {place.device.type} device"
            f"{'s' * (count != 1)} here: each process needs its own.",
            f"Give at most {count}, or --train-device cpu.",
        )


@contextmanager
def joined() -> Iterator[int]:
    """Context in which the processes of a launcher are one group; their number, 1 without a launcher.

    Followers come out of it when the leader's fit has ended.
    """
    if not launched():
        yield 1
        return
    distributed.init_process_group(_backend(torch.cuda.is_available()), timeout=LONGEST_WAIT)
    try:
        with variable(_JOINED, "1"):
            yield distributed.get_world_size()
        if leads():
            _tell(None)
    finally:
        distributed.destroy_process_group()


def serve() -> None:
    """Follow one training after the other, until the leader's fit has ended."""
    while (job := _told()) is not None:
        place = _own(job.place)
        student, teacher = (_read(program).on(place.device) for program in (job.student, job.teacher))
        torch.set_num_threads(job.threads)
        torch.manual_seed(job.recipe.options.seed + distributed.get_rank())
        with training_mode(student), trained_parameters(student, job.recipe) as parameters:
            follow(student, teacher, place, parameters)


@contextmanager
def followers(student: Captured, teacher: Captured, recipe: Recipe, place: Place) -> Iterator[None]:
    """Context in which the followers of a training are at work.

    Raises `EdgepruneError` when one of them fails.
    """
    threads = torch.get_num_threads()
    each = max(1, threads // recipe.options.processes)
    job = _Job(_written(student), _written(teacher), recipe, place, each)
    with _started(recipe.options.processes, place):
        _tell(job)
        torch.set_num_threads(each)
        try:
            yield
            hand_out(END)
        finally:
            torch.set_num_threads(threads)


@contextmanager
def _started(processes: int, place: Place) -> Iterator[None]:
    """Context with a group of this process and others that it starts; that of the launcher where there is."""
    if _JOINED in os.environ:
        yield
        return
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as said:
        meeting = Path(folder) / "meeting"
        started = [_start(rank, processes, meeting, place, said) for rank in range(1, processes)]
        try:
            _await(meeting, started)
            _meet(LEADER, processes, meeting, place.device.type)
            yield
            _tell(None)
            for process in started:
                process.wait(ENDING_SECONDS)
        except (RuntimeError, subprocess.TimeoutExpired) as error:
            if not _one_ended(started):
                raise
            said.seek(0)
            raise EdgepruneError(
                f"A process of --processes ended in the middle of a training: {_last_line(said)}.",
                "Give fewer --processes, or more memory; --resume goes on.",
            ) from error
        finally:
            for process in started:
                process.kill()
                process.wait()
            if distributed.is_initialized():
                distributed.destroy_process_group()


def _one_ended(started: list[subprocess.Popen[bytes]]) -> bool:
    """Whether one of the processes has ended, or ends soon: its connections are gone before it is."""
    until = time.monotonic() + ENDING_SECONDS
    while all(process.poll() is None for process in started):
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True


def _start(
    rank: int, processes: int, meeting: Path, place: Place, said: IO[bytes]
) -> subprocess.Popen[bytes]:
    package = str(Path(__file__).resolve().parents[2])
    paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
    return subprocess.Popen(
        [sys.executable, "-m", __name__, *map(str, (rank, processes, meeting)), place.device.type],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        stdin=subprocess.DEVNULL,
        stdout=said,
        stderr=said,
        start_new_session=True,  # Ctrl-C is the leader's
    )


def _await(meeting: Path, started: list[subprocess.Popen[bytes]]) -> None:
    """Wait for all processes to have come up; raises `RuntimeError` when one has ended or takes too long."""
    until = time.monotonic() + STARTING_SECONDS
    while not all(_up(meeting, rank).exists() for rank in range(1, len(started) + 1)):
        if any(process.poll() is not None for process in started) or time.monotonic() > until:
            raise RuntimeError("a process of a training did not come up")
        time.sleep(0.05)


def _up(meeting: Path, rank: int) -> Path:
    """File that says that a process has come up."""
    return meeting.with_name(f"up-{rank}")


def _meet(rank: int, processes: int, meeting: Path, device: str) -> None:
    """Make this process one of the default group. meeting: a file in a folder that is the user's alone."""
    with variable("GLOO_SOCKET_IFNAME", _LOOPBACK):
        distributed.init_process_group(
            _backend(device == "cuda"),
            init_method=meeting.as_uri(),
            rank=rank,
            world_size=processes,
            timeout=LONGEST_WAIT,
        )


def _follow_from(rank: int, processes: int, meeting: Path, device: str) -> None:
    """Work of a process that `_start` made."""
    _up(meeting, rank).touch()
    _meet(rank, processes, meeting, device)
    serve()
    distributed.destroy_process_group()


def _own(place: Place) -> Place:
    """The leader's place, on the device that is this process's own."""
    if place.device.type != "cuda":
        return place
    launcher = os.environ.get("LOCAL_RANK") if _JOINED in os.environ else None
    number = distributed.get_rank() if launcher is None else int(launcher)
    return replace(place, device=torch.device("cuda", number))


def _backend(cuda: bool) -> str:
    return "cpu:gloo,cuda:nccl" if cuda else "gloo"


def _tell(job: _Job | None) -> None:
    distributed.broadcast_object_list([job], LEADER)


def _told() -> _Job | None:
    found: list[Any] = [None]
    distributed.broadcast_object_list(found, LEADER)
    return found[0]  # type: ignore[no-any-return]


def _written(network: Captured) -> bytes:
    stream = io.BytesIO()
    torch.export.save(network.program(), stream)
    return stream.getvalue()


def _read(program: bytes) -> Captured:
    read = torch.export.load(io.BytesIO(program))
    args, kwargs = read.example_inputs
    return Captured(module_of(read), args, kwargs)


def _last_line(said: IO[bytes]) -> str:
    lines = said.read().decode("utf-8", "replace").strip().splitlines()
    return lines[-1].strip().rstrip(".")[:300] if lines else "it said nothing"


if __name__ == "__main__":
    _follow_from(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4])
