"""The agent, a program that loads one artefact on a device and answers requests over stdin and stdout.

    python agent.py --serve                                     # driven by edgeprune, frame by frame
    python agent.py --artefact model.onnx --runtime onnxruntime --golden golden.npz

Standard library, numpy and the runtime; Python 3.8; nothing of edgeprune. The second form is the
runner that a bundle carries: it answers the golden inputs, compares and prints one line of JSON.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import os
import queue
import sys
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import numpy as np

# Telemetry of the runtimes, switched off before any of them is imported: edgeprune/telemetry.py says why.
TELEMETRY = ("ORT_DISABLE_TELEMETRY", "DO_NOT_TRACK")
TELEMETRY_PACKAGES = ("openvino_telemetry",)
for _name in TELEMETRY:
    os.environ.setdefault(_name, "1")
for _name in TELEMETRY_PACKAGES:
    sys.modules.setdefault(_name, None)  # type: ignore[arg-type]  # None: it cannot be imported

PROTOCOL = 1
_TENSORRT = ("trt.py", "gpu.py", "trt_build.py", "trt_layers.py")
SESSIONS = {  # runtime: its session file, then the files that this one needs beside it
    "onnxruntime": ("ort.py",),
    "openvino": ("ov.py",),
    "tensorrt": _TENSORRT,
    "tensorrt-rtx": _TENSORRT,
}
BUILDERS = (
    "tensorrt",
    "tensorrt-rtx",
)  # they build an engine for a batch, within a memory, at the first load

SETTLED_SHARE = 0.01  # warm-up ends when the rolling median moves less than this
WINDOW_SECONDS = 0.1  # what the rolling median looks at, and never fewer than WINDOW_RUNS
WINDOW_RUNS = 5
WARM_UP_LIMIT = 20  # times the seconds asked for: a machine that never settles is measured, and shows it
RECORDED = 1 << 16  # queries of one request that need no further memory
GLANCE_SECONDS = 1e-3  # of queries, between two looks at what the process waited


def sibling(file: str) -> str:
    """The path of another device-side file: beside this one (bundle, device) or in the source tree."""
    here = os.path.dirname(os.path.abspath(__file__))
    places = [os.path.join(here, file), os.path.join(here, "..", "runtimes", file)]
    for place in places:
        if os.path.isfile(place):
            return os.path.normpath(place)
    raise FileNotFoundError(f"{file} is not beside agent.py (looked in {', '.join(places)})")


def load_module(file: str) -> Any:
    """Import a device-side file by its path, so that no folder of ours can shadow a library."""
    path = sibling(file)
    spec = importlib.util.spec_from_file_location("edgeprune_device_" + file[:-3], path)
    if spec is None or spec.loader is None:
        raise ImportError(f"cannot import {path}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def load_session(runtime: str) -> Any:
    """The session of a runtime: an object with `version` and `Runner`; one file may serve several."""
    if runtime not in SESSIONS:
        raise ValueError(f"no runtime {runtime!r} here ({', '.join(SESSIONS)})")
    module = load_module(SESSIONS[runtime][0])
    return module.serving(runtime) if runtime in BUILDERS else module


def peak_mib() -> float:
    """Highest resident set of this process so far (VmHWM counts from exec, unlike ru_maxrss)."""
    with open("/proc/self/status") as status:
        for line in status:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024.0
    raise OSError("/proc/self/status has no VmHWM line: this kernel does not report a peak")


class Record:
    """Recorded query times, in memory that is taken before a model is loaded and does not count as its own.

    A list of floats takes 32 bytes per query. A model of some microseconds answers 50,000 in one request.
    """

    def __init__(self) -> None:
        self._held = np.full(RECORDED, 0.0)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def clear(self) -> None:
        self._count = 0

    def add(self, number: float) -> None:
        if self._count == len(self._held):
            self._held = np.concatenate((self._held, np.zeros_like(self._held)))
        self._held[self._count] = number
        self._count += 1

    def since(self, first: int) -> Any:
        """A view of the numbers from that place on, valid until `clear`."""
        return self._held[first : self._count]


class WaitMeter:
    """Meter of the time that the process waits for CPUs while queries are timed.

    shares: gets, for each query, the share of the time that its threads waited, summed over them, in the
        queries between two glances; nothing where the system does not tell. A glance takes a microsecond
        per thread, so it waits for GLANCE_SECONDS of queries; it lies between queries and is not timed.
    """

    def __init__(self, waits: Any, shares: Record) -> None:
        self._waits, self._shares = waits, shares
        self.counts: dict[str, Any] = {}

    def begin(self) -> None:
        self._shares.clear()
        self._waits.begin()
        self._waited = self._waits.waited_ns()
        self._begun = self._last = time.perf_counter()

    def glance(self, now: float, queries: int) -> None:
        """Look, unless the last look was just now. queries: that were answered by then."""
        if now - self._last >= GLANCE_SECONDS:
            self._look(now, queries)

    def end(self, queries: int) -> None:
        now = time.perf_counter()
        self._look(now, queries)
        self.counts = self._waits.end(now - self._begun)
        if self.counts["waited_s"] is None:
            self._shares.clear()

    def _look(self, now: float, queries: int) -> None:
        waited = self._waits.waited_ns()
        share = (waited - self._waited) / 1e9 / max(now - self._last, 1e-9)
        for _ in range(queries - len(self._shares)):
            self._shares.add(share)
        self._waited, self._last = waited, time.perf_counter()


class Agent:
    """Answers requests; each method named `do_NAME` answers the request `NAME`."""

    def __init__(self) -> None:
        self._runner: Any = None
        self._empty_mib = 0.0
        self._sensors: list[str] = []
        self._probe: Any = None
        self._record = Record()
        self._shares = Record()
        self._waits: Any = None

    def answer(
        self, header: dict[str, Any], arrays: Mapping[str, Any]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """The reply to one request; what fails becomes an `error` that the host reports."""
        try:
            handle = getattr(self, "do_" + header.pop("do"))
            result = handle(arrays, **header)
        except ImportError as error:
            return {"error": "missing", "what": str(error)}, {}
        except Exception as error:  # the seam: whatever a runtime raises is told to the host in its words
            traceback.print_exc()
            told = {"error": "failed", "what": f"{type(error).__name__}: {error}"}
            lost = getattr(error, "layers", None)  # of an engine that runs INT8 layers in float
            return (dict(told, error="lost int8", layers=lost) if lost else told), {}
        return result  # type: ignore[no-any-return]

    def do_machine(self, arrays: Mapping[str, Any]) -> Any:
        versions = {}
        for name in SESSIONS:
            try:
                versions[name] = load_session(name).version()
            except (ImportError, OSError) as error:  # not installed, or not installed whole
                print(f"{name}: {error}", file=sys.stderr)
        return dict(load_module("probe.py").machine(), runtimes=versions, protocol=PROTOCOL), {}

    def do_load(
        self,
        arrays: Mapping[str, Any],
        runtime: str,
        artefact: str,
        threads: int,
        exact: bool,
        device: str,
        sensors: Sequence[str],
        batch: int = 1,
        memory_mib: float | None = None,
        profile: bool = False,
    ) -> Any:
        module = load_session(runtime)
        self._sensors = list(sensors)
        self._waits = self._waits or load_module("probe.py").Waits()
        self._waits.begin()
        self._waits.end(1.0)
        self.do_state({})  # what this and a median take the first time is not the model's
        np.median(np.zeros(2))
        self._empty_mib = peak_mib()
        options: dict[str, Any] = {"batch": batch, "memory_mib": memory_mib} if runtime in BUILDERS else {}
        if profile and runtime in BUILDERS:
            raise ValueError(f"{runtime} is not timed operator by operator")
        if profile:
            options["profile"] = True
        self._runner = module.Runner(artefact, threads, exact, device, **options)
        reply = {
            "version": f"{runtime} {module.version()}",
            "inputs": [list(port) for port in self._runner.inputs],
            "outputs": [list(port) for port in self._runner.outputs],
        }
        return reply, {}

    def do_predict(self, arrays: Mapping[str, Any]) -> Any:
        outputs = self._runner.run(arrays)
        return {}, {str(at): value for at, value in enumerate(outputs)}

    def do_warm_up(self, arrays: Mapping[str, Any], min_seconds: float) -> Any:
        """Run until `min_seconds` have passed and the medians of two windows in a row agree."""
        run, clock, record = self._runner.run, time.perf_counter, self._record
        record.clear()
        begin = last = clock()
        previous, window_from, window_begin = 0.0, 0, begin
        while last - begin < min_seconds * WARM_UP_LIMIT or len(record) < WINDOW_RUNS:
            run(arrays)
            now = clock()
            record.add(now - last)
            last = now
            if len(record) - window_from >= WINDOW_RUNS and now - window_begin >= WINDOW_SECONDS:
                median = float(np.median(record.since(window_from)))
                if now - begin >= min_seconds and abs(median - previous) < SETTLED_SHARE * median:
                    break
                previous, window_from, window_begin = median, len(record), now
                last = clock()
        return {"runs": len(record), "seconds": last - begin}, {}

    def do_time(self, arrays: Mapping[str, Any], runs: int, seconds: float) -> Any:
        watch = WaitMeter(self._waits, self._shares)
        ms = timed(self._runner, arrays, runs, seconds, self._record, watch)
        return {"waiting": watch.counts}, {"ms": ms, "waited": self._shares.since(0)}

    def do_operators(self, arrays: Mapping[str, Any], runs: int) -> Any:
        return {"operators": self._runner.operators(arrays, runs)}, {}

    def do_memory(self, arrays: Mapping[str, Any]) -> Any:
        """Peak memory of the process and, with a runner that reports it, of the GPU.

        added_mib: of it, what the model took above the process with the runtime imported.
        """
        host = peak_mib()
        device = self._runner.device_mib() if hasattr(self._runner, "device_mib") else 0.0
        found = {"mib": host + device, "host_mib": host, "device_mib": device}
        return dict(found, added_mib=host - self._empty_mib + device), {}

    def do_state(self, arrays: Mapping[str, Any]) -> Any:
        self._probe = self._probe or load_module("probe.py")
        found = self._probe.state(self._sensors)
        if self._runner is not None:
            found.update(("setting:" + name, text) for name, text in self._runner.settings().items())
        if hasattr(self._runner, "device_mib"):
            found["memory:device_mib"] = f"{self._runner.device_mib():.1f}"
        return {"state": found}, {}


def timed(
    runner: Any,
    feeds: Mapping[str, Any],
    runs: int,
    seconds: float,
    record: Record,
    watch: WaitMeter | None = None,
) -> Any:
    """Milliseconds of each single synchronous query, until both `runs` and `seconds` are reached.

    They lie in `record`, until it is used again. watch: looks between queries what the process waited.
    """
    run, clock = runner.run, time.perf_counter
    record.clear()
    gc.collect()
    gc.disable()  # a collection in the middle of a query would be charged to the model
    try:
        if watch is not None:
            watch.begin()
        begin = end = clock()
        while len(record) < runs or end - begin < seconds:
            start = clock()
            run(feeds)
            end = clock()
            record.add((end - start) * 1e3)
            if watch is not None:
                watch.glance(end, len(record))
    finally:
        gc.enable()
    if watch is not None:
        watch.end(len(record))
    return record.since(0)


def serve() -> NoReturn:
    """Answer frames until stdin ends, which also ends a request that is running: no orphans."""
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints goes to stderr and cannot corrupt the frames
    requests: Any = queue.Queue()
    frames = load_module("frames.py")
    listening = (os.fdopen(os.dup(0), "rb"), frames, requests)
    threading.Thread(target=_listen, args=listening, daemon=True).start()
    agent = Agent()
    while True:
        header, arrays = requests.get()
        reply, results = agent.answer(header, arrays)
        for buffer in frames.encode(reply, results):
            out.write(buffer)
        out.flush()


def _listen(stream: Any, frames: Any, requests: Any) -> None:
    """Queue requests until the stream ends, or is none of ours: then the process ends, whatever it does."""
    code = 1
    try:
        frame = frames.decode(stream.read)
        while frame is not None:
            requests.put(frame)
            frame = frames.decode(stream.read)
        code = 0  # the host is gone: nothing may go on running here
    except EOFError as error:
        code = 0
        print(error, file=sys.stderr)
    except frames.NotAFrame as error:
        print(error, file=sys.stderr)
    finally:  # even where stderr is closed or memory is short
        try:
            sys.stderr.flush()
        finally:
            os._exit(code)


def check_golden(runner: Any, golden: str) -> dict[str, float]:
    """Run the golden inputs (`in.NAME`) and compare with the golden outputs (`out.NAME`).

    Rows are asked one at a time, or as many as the model's fixed batch takes.
    `worst` is the largest absolute difference, relative to the largest magnitude of its golden output.
    """
    with np.load(golden, allow_pickle=False) as data:
        inputs = {key[len("in.") :]: data[key] for key in data.files if key.startswith("in.")}
        wanted = {key[len("out.") :]: data[key] for key in data.files if key.startswith("out.")}
        lengths = data["length"] if "length" in data.files else None
        dims = {key[len("length.") :]: data[key] for key in data.files if key.startswith("length.")}
    names = [port[0] for port in runner.outputs]
    if not inputs or set(wanted) != set(names):
        raise ValueError(f"the model's outputs are {names}, the golden file's {sorted(wanted)}")
    batch = runner.inputs[0][2][0] if isinstance(runner.inputs[0][2][0], int) else 1
    rows = len(next(iter(inputs.values())))
    feeds = [{name: a[at : at + batch] for name, a in inputs.items()} for at in range(0, rows, batch)]
    if lengths is not None:  # each row is padded to the longest
        for feed, length in zip(feeds, lengths[::batch]):  # noqa: B905  strict= is newer than 3.8
            for name in dims:
                whole = [
                    slice(0, int(length) if dim in dims[name] else None) for dim in range(feed[name].ndim)
                ]
                feed[name] = feed[name][tuple(whole)]
    answers = [runner.run(feed) for feed in feeds]
    worst = 0.0
    for at, name in enumerate(names):
        got = np.concatenate([answer[at] for answer in answers]).astype(np.float64)
        want = wanted[name].astype(np.float64)
        if want.shape != got.shape:
            raise ValueError(f"output {name} has shape {got.shape}, not {want.shape}")
        gap, scale = float(np.max(np.abs(got - want))), float(np.max(np.abs(want)))
        worst = max(worst, gap / scale if scale else gap) if np.isfinite(gap) else float("inf")
    return {"worst": worst, "p50_ms": float(np.median(timed(runner, feeds[0], 20, 0.2, Record())))}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="agent.py", description="Run a model on this device and compare it with its golden outputs."
    )
    parser.add_argument("--serve", action="store_true", help="answer edgeprune's requests on stdin instead")
    parser.add_argument("--artefact", metavar="FILE", help="the model: .onnx, .plan, or .xml with its .bin")
    parser.add_argument("--runtime", choices=sorted(SESSIONS), default="onnxruntime")
    parser.add_argument("--golden", metavar="FILE", help="a .npz with in.NAME and out.NAME arrays")
    parser.add_argument("--threads", type=int, default=1, metavar="N")
    parser.add_argument("--device", default="CPU", help="the runtime's device string (default: CPU)")
    parser.add_argument("--batch", type=int, default=1, metavar="N", help="rows that an engine is built for")
    parser.add_argument(
        "--memory-mib", type=float, metavar="X", help="memory that building an engine may take"
    )
    parser.add_argument(
        "--exact", action="store_true", help="INT8 without x86 saturation, to compare machines"
    )
    parser.add_argument("--tolerance", type=float, default=1e-3, help="largest relative difference allowed")
    asked = parser.parse_args(arguments)
    if asked.serve:
        serve()
    if not asked.artefact or not asked.golden:
        parser.error("--artefact and --golden are both needed")
    try:
        module = load_session(asked.runtime)
        options = {}
        if asked.runtime in BUILDERS:
            options = {"batch": asked.batch, "memory_mib": asked.memory_mib}
        runner = module.Runner(asked.artefact, asked.threads, asked.exact, asked.device, **options)
        found = check_golden(runner, asked.golden)
    except Exception as error:  # the program's edge: one line of JSON whatever happens
        traceback.print_exc()
        print(json.dumps({"ok": False, "error": f"{type(error).__name__}: {error}"}))
        return 1
    ok = found["worst"] <= asked.tolerance
    runtime = f"{asked.runtime} {module.version()}"
    print(json.dumps(dict(found, ok=ok, tolerance=asked.tolerance, runtime=runtime)))
    return 0 if ok else 1


if __name__ == "__main__":
    # Our own folder holds files named like modules (local.py, ssh.py): libraries must not find them.
    sys.path[:] = [
        p for p in sys.path if os.path.abspath(p or ".") != os.path.dirname(os.path.abspath(__file__))
    ]
    sys.exit(main())
