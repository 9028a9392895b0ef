"""The program on the device: facts, peak memory, golden outputs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from edgeprune.devices import Load, agent, frames, open_device
from edgeprune.search.waiting import taken, undisturbed

AGENT = str(Path(agent.__file__))


def frame(header: dict[str, Any], arrays: dict[str, Any]) -> bytes:
    return b"".join(bytes(part) for part in frames.encode(header, arrays))


def ask(*requests: bytes, answers: int | None = None, program: str = AGENT) -> tuple[list[Any], str]:
    """Send requests to a fresh process, read as many answers, leave; the answers, and its stderr."""
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, program, "--serve"], stdin=pipe, stdout=pipe, stderr=pipe
    ) as process:
        if process.stdin is None or process.stdout is None or process.stderr is None:
            raise OSError("no pipes")
        process.stdin.write(b"".join(requests))
        process.stdin.flush()
        replies = [
            frames.decode(process.stdout.read) for _ in range(len(requests) if answers is None else answers)
        ]
        process.stdin.close()
        assert process.stdout.read() == b""
        words = process.stderr.read().decode()
    assert process.returncode == 0
    return replies, words


def loading(path: Path, **changes: Any) -> bytes:
    plain = {"runtime": "onnxruntime", "artefact": str(path), "threads": 1, "exact": False, "device": "CPU"}
    return frame({"do": "load", **plain, "sensors": [], **changes}, {})


def test_it_answers_one_request_after_the_other(small_onnx: ModuleType, tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((2, 8)).astype(np.float32)
    replies, _ = ask(
        loading(small_onnx.linear(tmp_path / "m.onnx")),
        frame({"do": "predict"}, {"x": x}),
        frame({"do": "warm_up", "min_seconds": 0.01}, {"x": x}),
        frame({"do": "time", "runs": 70, "seconds": 0.001}, {"x": x}),
        frame({"do": "memory"}, {}),
    )
    loaded, predicted, warm, timed, memory = replies
    assert loaded[0]["inputs"] == [["x", "float32", ["N", 8]]]
    np.testing.assert_allclose(predicted[1]["0"], small_onnx.linear_in_numpy(x)[0], rtol=1e-5, atol=1e-6)
    assert warm[0]["runs"] >= agent.WINDOW_RUNS
    assert warm[0]["seconds"] >= 0.01
    assert timed[1]["ms"].size >= 70
    assert (timed[1]["ms"] > 0).all()
    assert memory[0]["mib"] > 0


def test_peak_memory_is_the_models_and_not_that_of_recording(small_onnx: ModuleType, tmp_path: Path) -> None:
    x = np.ones((1, 8), np.float32)
    timing = frame({"do": "time", "runs": 50_000, "seconds": 0.0}, {"x": x})
    memory = frame({"do": "memory"}, {})
    replies, _ = ask(
        loading(small_onnx.linear(tmp_path / "m.onnx")),
        frame({"do": "time", "runs": 100, "seconds": 0.0}, {"x": x}),
        *(memory, timing, *[frame({"do": "state"}, {})] * 20, timing, memory),
    )
    first, *_, often, last = replies[2:]
    assert often[1]["ms"].size == 50_000
    assert last[0]["mib"] < first[0]["mib"] + 0.5  # as a list the 50,000 are 1.5 MiB


def test_more_queries_than_there_is_room_for_are_all_recorded() -> None:
    record = agent.Record()
    for number in range(3 * agent.RECORDED):
        record.add(number)
    assert len(record) == 3 * agent.RECORDED
    last = np.arange(2 * agent.RECORDED, 3 * agent.RECORDED)
    np.testing.assert_array_equal(record.since(2 * agent.RECORDED), last)
    record.clear()
    assert record.since(0).size == 0


def test_a_failing_request_is_told_and_the_next_one_answered(small_onnx: ModuleType, tmp_path: Path) -> None:
    replies, words = ask(
        loading(tmp_path / "absent.onnx"),
        loading(small_onnx.linear(tmp_path / "m.onnx")),
        frame({"do": "predict"}, {"x": np.ones((1, 8), np.float32)}),
    )
    assert replies[0][0]["error"] == "failed"
    assert "absent.onnx" in replies[0][0]["what"]
    assert "Traceback" in words
    assert "error" not in replies[2][0]


def test_what_a_library_prints_does_not_corrupt_the_frames(small_onnx: ModuleType, tmp_path: Path) -> None:
    # The runtime's session file is found beside a copied agent, as in a bundle: here it is a chatty one.
    for file in ("agent.py", "frames.py", "probe.py"):
        (tmp_path / file).write_text(Path(AGENT).with_name(file).read_text())
    (tmp_path / "ort.py").write_text(
        "import os\n"
        "print('hello from python')\n"
        "os.system('echo hello from a child')\n"
        "def version(): return '1'\n"
        "class Runner:\n"
        "    inputs, outputs = [], []\n"
        "    def __init__(self, *arguments): os.write(1, b'hello from C')\n"
    )
    replies, words = ask(loading(tmp_path / "m.onnx"), program=str(tmp_path / "agent.py"))
    assert replies[0][0]["version"] == "onnxruntime 1"
    assert words.count("hello from") == 3


def test_it_leaves_when_its_input_ends_even_in_the_middle_of_a_request(
    small_onnx: ModuleType, tmp_path: Path
) -> None:
    # A request of an hour; the host goes away (its end of stdin closes), and the agent must follow.
    hour = frame({"do": "time", "runs": 1, "seconds": 3600.0}, {"x": np.ones((1, 8), np.float32)})
    replies, _ = ask(loading(small_onnx.linear(tmp_path / "m.onnx")), hour, answers=1)
    assert "error" not in replies[0][0]


RUBBISH = {
    "a text": b"hello, is anybody there?\n",
    "a header that is no JSON": frames.MAGIC + b"\0\0\0\2{{",
    "a header that is a list": frames.MAGIC + b"\0\0\0\2[]",
    "a header without end": frames.MAGIC + b"\xff\xff\xff\xff",
    "an array of objects": frames.MAGIC
    + b"\0\0\0\x36"
    + b'{"arrays": [{"name": "a", "dtype": "|O", "shape": [1]}]}'[:54],
}


@pytest.mark.parametrize("stdin", RUBBISH.values(), ids=RUBBISH.keys())
@pytest.mark.parametrize("stderr", ["open", "closed"])
def test_it_ends_when_its_input_is_rubbish(stdin: bytes, stderr: str) -> None:
    ending = "" if stderr == "open" else " 2>&-"
    with subprocess.Popen(
        ["sh", "-c", f'exec "$0" "$1" --serve{ending}', sys.executable, AGENT],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        assert process.stdin is not None
        process.stdin.write(stdin)
        process.stdin.flush()  # and its input stays open
        assert process.wait(120) == 1


@pytest.fixture
def probe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The probe, with a folder of the test for what a real one reads below /sys."""
    loaded = agent.load_module("probe.py")
    monkeypatch.setattr(loaded, "READABLE_FOLDERS", (f"{tmp_path.resolve()}/class/",))
    (tmp_path / "class").mkdir()
    return loaded


def test_sensors_are_files_globs_and_commands(
    probe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "COMMANDS", ("echo throttled=0x0", "no-such-command-here -x"))
    for number in (1, 2):
        (tmp_path / "class" / f"zone{number}").write_text(f"4{number}000\n")
    found = probe.state([f"{tmp_path}/class/zone*", "echo throttled=0x0", "no-such-command-here -x"])
    assert found[f"{tmp_path}/class/zone1"] == "41000"
    assert found[f"{tmp_path}/class/zone2"] == "42000"
    assert found["echo throttled=0x0"] == "throttled=0x0"
    assert found["no-such-command-here -x"].startswith("unavailable: ")
    assert len(found["loadavg"].split()) == 3


@pytest.mark.parametrize(
    "sensor",
    [
        *(
            "sh -c 'touch {folder}/ran'",
            "touch {folder}/ran",
            "nvidia-smi; touch {folder}/ran",
            "nvpmodel -m 0",
        ),
        *(
            "nvpmodel -m 0",
            "vcgencmd",
            "/usr/bin/vcgencmd measure_temp",
            " vcgencmd measure_temp",
            "./vcgencmd measure_temp",
        ),
        *("/dev/zero", "/etc/passwd", "/proc/self/environ", "/proc/*/environ", "/sys", "/sys/firmware/*"),
        *(
            "/sys/class/../../etc/passwd",
            "/sys/class/thermal/../../../etc/passwd",
            "/sys//class/x",
            "/sys/class/**",
        ),
        *("//sys/class/x", "", "{folder}/outside"),
    ],
)
def test_nothing_that_is_not_on_the_lists_is_read_or_run(sensor: str, tmp_path: Path) -> None:
    probe = agent.load_module("probe.py")
    (tmp_path / "outside").write_text("secret")
    asked = sensor.format(folder=tmp_path)
    assert not probe.allowed(asked)
    plain, found = probe.state([]), probe.state([asked])
    assert found[asked].startswith("not read")
    assert found.keys() - plain.keys() == {asked}
    assert not (tmp_path / "ran").exists()


def test_a_link_out_of_the_readable_folders_a_pipe_and_a_flood_are_not_read(
    probe: Any, tmp_path: Path
) -> None:
    (tmp_path / "outside").write_text("secret")
    (tmp_path / "class" / "link").symlink_to(tmp_path / "outside")
    (tmp_path / "class" / "zero").symlink_to("/dev/zero")
    (tmp_path / "class" / "long").write_text("x" * 10**6)
    os.mkfifo(tmp_path / "class" / "pipe")
    found = probe.state([f"{tmp_path}/class/*"])
    told = {Path(name).name: text for name, text in found.items() if name.startswith(str(tmp_path))}
    assert told == {"pipe": "", "long": "x" * probe.READING_BYTES}


@pytest.mark.parametrize(
    ("script", "reading"),
    [
        ("echo one; echo two", "one\ntwo"),
        ("yes", "y\n" * 2048),
        ("sleep 60 & echo started; wait", "started"),
        ("sleep 60", "unavailable: no answer in 0.2 s"),
    ],
    ids=["ends", "floods", "leaves a child behind", "says nothing"],
)
def test_a_command_is_held_to_its_bytes_and_seconds(
    probe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, reading: str
) -> None:
    command = tmp_path / "tool"
    command.write_text(f"#!/bin/sh\n{script}\n")
    command.chmod(0o755)
    monkeypatch.setattr(probe, "COMMANDS", (str(command)[1:],))
    monkeypatch.setattr(probe, "COMMAND_SECONDS", 0.2 if script.startswith("sleep") else 5.0)
    monkeypatch.chdir("/")
    assert probe.state([str(command)[1:]])[str(command)[1:]] == reading.strip()


def test_of_a_command_that_never_ends_the_first_line_is_the_reading(
    probe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tegrastats").write_text("#!/bin/sh\nwhile :; do echo RAM 1/2; sleep 1; done\n")
    (tmp_path / "tegrastats").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert probe.state(["tegrastats --interval 100"])["tegrastats --interval 100"] == "RAM 1/2"


CGROUPS = {
    "version 1": {
        "proc/self/cgroup": "4:memory:/box\n2:cpu,cpuacct:/box\n",
        "sys/fs/cgroup/cpu/box/cpu.cfs_quota_us": "100000",
        "sys/fs/cgroup/cpu/box/cpu.cfs_period_us": "100000",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712",
        "sys/fs/cgroup/memory/box/memory.limit_in_bytes": str(512 << 20),
    },
    "version 2": {
        "proc/self/cgroup": "0::/system.slice/box\n",
        "sys/fs/cgroup/system.slice/cpu.max": "max 100000",
        "sys/fs/cgroup/system.slice/box/cpu.max": "150000 100000",
        "sys/fs/cgroup/system.slice/box/memory.max": str(512 << 20),
    },
}


@pytest.mark.parametrize("layout", CGROUPS)
def test_a_containers_limits_count_instead_of_the_hosts(layout: str, tmp_path: Path) -> None:
    for name, text in {**CGROUPS[layout], "proc/meminfo": "MemTotal: 8388608 kB\n"}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    probe = agent.load_module("probe.py")
    assert probe.memory_mib(str(tmp_path)) == 512.0
    assert probe.cores(str(tmp_path)) == 1


def test_without_a_limit_the_machine_counts(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "meminfo").write_text("MemTotal: 8388608 kB\n")
    probe = agent.load_module("probe.py")
    assert probe.memory_mib(str(tmp_path)) == 8192.0
    assert probe.cores(str(tmp_path)) == len(os.sched_getaffinity(0))


@pytest.fixture
def golden(small_onnx: ModuleType, tmp_path: Path) -> tuple[str, str]:
    """A model and the file of its golden inputs and outputs."""
    x = np.random.default_rng(0).standard_normal((3, 8)).astype(np.float32)
    y, z = small_onnx.linear_in_numpy(x)
    np.savez(tmp_path / "golden.npz", **{"in.x": x, "out.y": y, "out.z": z})
    return str(small_onnx.linear(tmp_path / "m.onnx")), str(tmp_path / "golden.npz")


def test_as_a_bundles_runner_it_confirms_the_golden_outputs(golden: tuple[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, AGENT, "--artefact", golden[0], "--golden", golden[1]],
        capture_output=True,
        timeout=60,
        check=True,
    )
    line = json.loads(done.stdout)
    assert line["ok"] is True
    assert line["worst"] <= 1e-6
    assert line["runtime"].startswith("onnxruntime ")


def check(golden: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any]]:
    code = agent.main(["--artefact", golden[0], "--golden", golden[1]])
    return code, json.loads(capsys.readouterr().out)


def test_other_outputs_than_the_golden_ones_fail(
    golden: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    with np.load(golden[1]) as data:
        changed = {key: data[key] * (1.01 if key == "out.z" else 1.0) for key in data.files}
    np.savez(golden[1], **changed)
    code, line = check(golden, capsys)
    assert code == 1
    assert line["ok"] is False
    assert line["worst"] == pytest.approx(0.01 / 1.01, rel=1e-3)


def test_golden_outputs_of_another_model_are_an_error_with_both_names(
    golden: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    with np.load(golden[1]) as data:
        np.savez(golden[1], **{"in.x": data["in.x"], "out.other": data["out.y"]})
    code, line = check(golden, capsys)
    assert code == 1
    assert line["error"] == "ValueError: the model's outputs are ['y', 'z'], the golden file's ['other']"


def test_an_artefact_of_a_fixed_batch_is_asked_in_batches(
    golden: tuple[str, str], small_onnx: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    small_onnx.linear(Path(golden[0]), batch=3)
    assert check(golden, capsys)[1]["ok"] is True


def test_without_an_artefact_it_says_what_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        agent.main(["--golden", "golden.npz"])
    assert caught.value.code == 2
    assert "--artefact and --golden are both needed" in capsys.readouterr().err


STAT = "cpu  9 9 9 9 9 9 9 9 0 0\n" + "".join(
    f"cpu{cpu} {{user}} 0 {{system}} 500 0 0 0 {{steal}} 0 0\n" for cpu in range(2)
)


class FakeProc:
    """Counters of a process and of two CPUs, both its own, below a folder."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1})
        monkeypatch.setattr(os, "sysconf", lambda name: 100)
        self.write("proc/self/cgroup", "4:cpu,cpuacct:/box\n0::/box\n")

    def write(self, path: str, text: str) -> None:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text)

    def threads(self, **books: str) -> None:
        for thread, book in books.items():
            self.write(f"proc/self/task/{thread[1:]}/schedstat", book)

    def cpus(self, user: int, system: int, steal: int) -> None:
        self.write("proc/stat", STAT.format(user=user, system=system, steal=steal))


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeProc:
    return FakeProc(tmp_path, monkeypatch)


def test_waiting_is_counted_thread_by_thread_and_for_the_cpus_that_it_may_use(
    fake: FakeProc, tmp_path: Path
) -> None:
    fake.threads(_10="5000000000 1000000000 7", _11="1000000000 0 1")
    fake.cpus(user=100, system=50, steal=0)
    fake.write("sys/fs/cgroup/cpu,cpuacct/box/cpu.stat", "nr_throttled 3\nthrottled_time 1000000000\n")
    fake.write("sys/fs/cgroup/cpu/box/cpu.stat", "nr_periods 9\n")
    fake.write("sys/fs/cgroup/box/cpu.stat", "usage_usec 5\nthrottled_usec 2000000\n")
    waits = agent.load_module("probe.py").Waits(str(tmp_path))
    waits.begin()
    assert waits.waited_ns() == 1_000_000_000
    fake.threads(_10="6400000000 1600000000 9", _11="1000000001 0 2", _12="300000000 200000000 1")
    fake.cpus(user=250, system=75, steal=30)
    fake.write("sys/fs/cgroup/box/cpu.stat", "usage_usec 5\nthrottled_usec 2250000\n")
    assert waits.waited_ns() == 1_600_000_000, "of the threads that there were"
    assert waits.end(2.0) == {
        "seconds": 2.0,
        "cores": 2,
        "threads": 2,  # the eleventh ran for a nanosecond
        "ran_s": pytest.approx(1.7),
        "waited_s": pytest.approx(0.8),
        "busy_s": pytest.approx(3.5),
        "stolen_s": pytest.approx(0.6),
        "throttled_s": pytest.approx(0.25),
    }


UNKNOWN = {
    "no schedstat": {},
    "a kernel that keeps no books": {"_10": "0 0 0"},
    "a schedstat of something else": {"_10": "no numbers here"},
}


@pytest.mark.parametrize("books", UNKNOWN.values(), ids=UNKNOWN.keys())
def test_what_a_system_does_not_count_is_unknown_and_not_zero(
    books: dict[str, str], fake: FakeProc, tmp_path: Path
) -> None:
    fake.threads(**books)
    fake.write("proc/stat", "cpu  1 2 3 4\ncpu0 1 2 3 4\n")  # no steal, and not all of its CPUs
    waits = agent.load_module("probe.py").Waits(str(tmp_path))
    waits.begin()
    counted = waits.end(1.0)
    assert {name for name, value in counted.items() if value is not None} == {"seconds", "cores"}


def test_a_session_without_schedstat_tells_no_share_of_its_queries() -> None:
    class Blind:
        def begin(self) -> None: ...

        def waited_ns(self) -> int:
            return 0

        def end(self, seconds: float) -> dict[str, Any]:
            return {"waited_s": None}

    class Model:
        def run(self, feeds: Any) -> None: ...

    shares = agent.Record()
    assert len(agent.timed(Model(), {}, 5, 0.0, agent.Record(), agent.WaitMeter(Blind(), shares))) == 5
    assert len(shares) == 0


def test_a_process_that_spins_on_the_same_cpu_is_seen(
    small_onnx: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session and a spinning process, both pinned to one CPU."""
    mine = os.sched_getaffinity(0)
    device, feeds = open_device("local"), {"x": np.ones((1, 8), np.float32)}
    load = Load("onnxruntime", small_onnx.linear(tmp_path / "m.onnx"), 1)
    os.sched_setaffinity(0, {min(mine)})  # which both inherit
    try:
        with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as spinning:
            try:
                with device.start(load) as session:
                    block = session.time(feeds, runs=1, seconds=0.5)
            finally:
                spinning.kill()
    finally:
        os.sched_setaffinity(0, mine)
    if block.waiting.waited_s is None:
        pytest.skip("waiting: this kernel keeps no schedstat")
    found = taken(block.waiting)
    assert found.much
    assert "other processes took" in found.words
    assert block.waiting.cores == 1
    assert len(block.waited) == len(block.ms) > len(undisturbed(block))
