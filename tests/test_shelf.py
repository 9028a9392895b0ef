"""The shelf reads strictly, and everything that stands on it can be read."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import pytest

from edgeprune import detect, runtimes, shelf
from edgeprune.errors import EdgepruneError, InputError
from edgeprune.quantize import dialects
from edgeprune.records.machine import Budget, Profile, Target

PROFILE = """\
title = "A board"
architecture = "aarch64"
threads = 4
isa = ["asimd"]
sources = ["A data sheet, 2024-01"]

[budget]
latency_ms = 20

[figures.memory]
value = 4
unit = "GB"
source = "A data sheet, 2024-01"
"""
TARGET = """\
title = "A platform"
runtime = "onnxruntime"
dialect = "onnxruntime-arm"
profile = "raspberry-pi-5"
channel_multiple = 8
"""


@dataclass(frozen=True)
class Refused:
    """A line changed, and what the error must then say (`what`) and advise (`hint`)."""

    name: str
    old: str
    new: str
    what: str
    hint: str = ""


PROFILE_ERRORS = (
    Refused("an unknown key", "threads", "thread", "thread is not a known key", '"threads"'),
    Refused("a missing title", 'title = "A board"', "", "title is missing, expected a text"),
    Refused("an empty title", '"A board"', '" "', "title is an empty text"),
    Refused("threads as text", "= 4\nisa", '= "4"\nisa', 'threads is "4", expected a whole number'),
    Refused("threads as truth", "= 4\nisa", "= true\nisa", "threads is true, expected a whole number"),
    Refused("no threads at all", "= 4\nisa", "= 0\nisa", "threads is 0, expected a whole number, 1 or more"),
    Refused("a misspelt instruction set", '"asimd"', '"asimddb"', 'isa[0] is "asimddb"', '"asimddp"'),
    Refused("a number as instruction set", '"asimd"', "7", "isa[0] is 7, expected a text"),
    Refused("a document nobody named", '["A data sheet, 2024-01"]', "[]", "sources is missing"),
    Refused("an unknown budget line", "latency_ms", "latency", "budget.latency is not", '"latency_ms"'),
    Refused("a negative latency", "= 20", "= -20", "budget.latency_ms is -20, expected a positive number"),
    Refused("a latency of nothing", "= 20", "= 0", "budget.latency_ms is 0, expected a positive number"),
    Refused("a latency without end", "= 20", "= inf", "budget.latency_ms is inf"),
    Refused("a latency that is no number", "= 20", "= nan", "budget.latency_ms is nan"),
    Refused("two bounds on latency", "= 20", "= 20\nspeedup = 2", "budget.speedup stands beside", "Keep"),
    Refused(
        "percentile 0", "= 20", "= 20\npercentile = 0", "percentile is 0, expected a whole number, 1 to 99"
    ),
    Refused("percentile 100", "= 20", "= 20\npercentile = 100", "budget.percentile is 100"),
    Refused("half a percentile", "= 20", "= 20\npercentile = 99.9", "budget.percentile is 99.9"),
    Refused(
        "a drop in words",
        "= 20",
        '= 20\nmax_drop = "little"',
        'budget.max_drop is "little", expected a number of 0 or more, or a text such as "2%"',
    ),
    Refused(
        "a negative drop", "= 20", "= 20\nmax_drop = -0.1", "budget.max_drop is -0.1, expected a number of 0"
    ),
    Refused("negative memory", "= 20", "= 20\nmemory_mib = -1", "budget.memory_mib is -1"),
    Refused("an empty file size", "= 20", "= 20\nsize_mib = 0", "budget.size_mib is 0"),
    Refused("an unknown figure", "figures.memory", "figures.memry", "figures.memry is not", '"memory"'),
    Refused(
        "figures that are no table",
        PROFILE[PROFILE.index("[budget]") :],
        "figures = 4",
        "figures is 4, expected a table",
    ),
    Refused("a figure without unit", 'unit = "GB"', "", "figures.memory.unit is missing"),
    Refused("a figure in another unit", '"GB"', '"GiB"', 'figures.memory.unit is "GiB"', '"GB"'),
    Refused(
        "a figure without source",
        '"GB"\nsource = "A data sheet, 2024-01"',
        '"GB"',
        "memory.source is missing",
    ),
    Refused("a negative figure", "value = 4", "value = -4", "figures.memory.value is -4"),
    Refused("a note beside a figure", 'unit = "GB"', 'unit = "GB"\nnote = "x"', "figures.memory.note is not"),
    Refused("detection beside facts", "threads = 4", "detect = true", "architecture stands beside detect"),
    Refused(
        "an unknown target", "threads = 4", 'threads = 4\ntarget = "jetsn"', 'target is "jetsn"', '"jetson"'
    ),
    Refused(
        "a target that is not there", "threads = 4", 'threads = 4\ntarget = "own.toml"', "there is no file"
    ),
    Refused("text that is not TOML", "threads = 4", "threads 4", "is not TOML: "),
)
TARGET_ERRORS = (
    Refused("an unknown key", "runtime", "runtme", "runtme is not a known key", '"runtime"'),
    Refused(
        "an unknown runtime", '"onnxruntime"', '"onnx-runtime"', 'runtime is "onnx-runtime"', '"onnxruntime"'
    ),
    Refused(
        "an unknown dialect", '"onnxruntime-arm"', '"onnxruntime-amr"', "dialect is", '"onnxruntime-arm"'
    ),
    Refused(
        "a dialect of another runtime",
        '"onnxruntime-arm"',
        '"tensorrt"',
        'dialect is "tensorrt", which onnxruntime has no kernels for',
        "auto, onnxruntime-x86, onnxruntime-arm",
    ),
    Refused("an unknown profile", '"raspberry-pi-5"', '"raspberrypi-5"', "profile is", '"raspberry-pi-5"'),
    Refused("a profile file that is not there", '"raspberry-pi-5"', '"own.toml"', "there is no file"),
    Refused("no channel multiple", "channel_multiple = 8", "", "channel_multiple is missing"),
    Refused("a channel multiple of nothing", "= 8", "= 0", "channel_multiple is 0"),
    Refused(
        "a command of its own",
        "= 8",
        '= 8\nsensors = ["sh -c id"]',
        'holds "sh -c id", which no device',
        "/sys/",
    ),
    Refused(
        "a file that is no sensor",
        "= 8",
        '= 8\nthrottle = ["/etc/passwd"]',
        'holds "/etc/passwd"',
        "nvpmodel",
    ),
    Refused("sensors as text", "= 8", '= 8\nsensors = "/sys/x"', 'sensors is "/sys/x", expected an array'),
)


def by_name(case: Refused) -> str:
    return case.name


@pytest.fixture(params=shelf.names("profiles"))
def profile(request: pytest.FixtureRequest) -> Profile:
    return shelf.load_profile(request.param)


@pytest.fixture(params=shelf.names("targets"))
def target(request: pytest.FixtureRequest) -> Target:
    return shelf.load_target(request.param)


def test_the_shelf_holds_what_the_documentation_promises() -> None:
    assert shelf.names("targets") == ("arm", "intel", "jetson", "local", "rtx", "x86")
    assert set(shelf.names("profiles")) == {
        *("local", "jetson-orin-nano", "jetson-orin-nx", "jetson-agx-orin", "raspberry-pi-4"),
        *("raspberry-pi-5", "intel-n100", "intel-core-ultra", "x86-server", "xeon", "rtx-4060"),
    }


def test_every_profile_bounds_latency_in_one_way(profile: Profile) -> None:
    assert (profile.budget.latency_ms is None) != (profile.budget.speedup is None)
    assert 0 < profile.budget.max_drop < 1


def test_every_profile_names_its_documents_with_a_year(profile: Profile) -> None:
    if profile.name == "local":
        assert all("this machine" in source for source in profile.sources)
        return
    named = [source for source in profile.sources if any(str(year) in source for year in range(2015, 2027))]
    assert named
    assert all(any(str(y) in f.source for y in range(2015, 2027)) for _, f in profile.figures)


def test_every_profile_says_that_its_budget_is_our_own_default(profile: Profile) -> None:
    text = (shelf.folder("profiles") / f"{profile.name}.toml").read_text("utf-8")
    assert "# edgeprune's own default" in text.partition("[budget]")[2]


def test_every_profile_lists_instruction_sets_of_its_own_architecture(profile: Profile) -> None:
    own = {"x86_64": detect.ISA_X86, "aarch64": detect.ISA_ARM}[profile.architecture]
    assert set(profile.isa) <= set(own)


def test_every_profile_asks_for_no_more_threads_than_the_machine_has_cores(profile: Profile) -> None:
    cores = dict(profile.figures).get("cores")
    assert cores is None or profile.threads <= cores.value


def test_the_two_x86_servers_differ_in_whether_int8_saturates() -> None:
    assert detect.saturates(shelf.load_profile("x86-server").isa)
    assert not detect.saturates(shelf.load_profile("xeon").isa)


def test_every_target_has_a_default_profile_that_loads(target: Target) -> None:
    assert shelf.load_profile(target.profile).name == target.profile


def test_every_sensor_is_a_glob_under_sys_or_a_command(target: Target) -> None:
    for entry in (*target.sensors, *target.throttle):
        assert entry.startswith("/sys/") or "/" not in entry.split()[0]


def test_the_targets_know_every_dialect_that_exists() -> None:
    assert {*dialects.TABLE, runtimes.AUTO} <= set(shelf.DIALECTS)


def test_local_is_the_machine_it_is_loaded_on() -> None:
    local, host = shelf.load_profile("local"), detect.host()
    assert (local.architecture, local.isa) == (host.architecture, host.isa)
    assert host.cores is not None
    assert local.threads == max(1, host.cores - 1)  # one core is left to the system
    assert local.budget == Budget(speedup=2.0, percentile=90, max_drop=0.01)


def test_a_path_loads_a_profile_of_the_users_own(tmp_path: Path) -> None:
    path = tmp_path / "own-board.toml"
    path.write_text(PROFILE)
    own = shelf.load_profile(path)
    assert own == shelf.load_profile(str(path))
    assert (own.name, own.threads, own.budget.latency_ms, own.batch) == ("own-board", 4, 20.0, 1)
    assert [(name, figure.value, figure.unit) for name, figure in own.figures] == [("memory", 4.0, "GB")]


def test_a_target_of_the_users_own_may_bring_its_profile_along(tmp_path: Path) -> None:
    (tmp_path / "board.toml").write_text(PROFILE)
    path = tmp_path / "platform.toml"
    path.write_text(TARGET.replace('"raspberry-pi-5"', '"board.toml"'))
    assert shelf.load_profile(shelf.load_target(path).profile).name == "board"


def test_a_profile_may_bring_its_target_and_a_detected_one_is_here_by_any_name(tmp_path: Path) -> None:
    assert [shelf.shelved(name).target for name in ("jetson-orin-nano", "rtx-4060", "xeon")] == [
        "jetson",
        "rtx",
        None,
    ]
    (tmp_path / "platform.toml").write_text(TARGET)
    path = tmp_path / "board.toml"
    path.write_text(PROFILE.replace("threads = 4", 'threads = 4\ntarget = "platform.toml"'))
    own = shelf.shelved(path)
    assert own.target is not None
    assert (own.here, shelf.load_target(own.target).name) == (False, "platform")
    path.write_text('title = "My desk"\ndetect = true\n')
    assert shelf.shelved(path).here


@pytest.mark.parametrize("case", PROFILE_ERRORS, ids=by_name)
def test_a_profile_is_refused_with_file_key_value_and_advice(case: Refused, tmp_path: Path) -> None:
    check_refused(PROFILE, case, tmp_path / "board.toml", shelf.load_profile)


@pytest.mark.parametrize("case", TARGET_ERRORS, ids=by_name)
def test_a_target_is_refused_with_file_key_value_and_advice(case: Refused, tmp_path: Path) -> None:
    check_refused(TARGET, case, tmp_path / "platform.toml", shelf.load_target)


def check_refused(text: str, case: Refused, path: Path, load: object) -> None:
    assert callable(load)
    assert text.count(case.old) >= 1
    path.write_text(text.replace(case.old, case.new, 1))
    with pytest.raises(InputError) as caught:
        load(path)
    assert caught.value.what.startswith(str(path))
    assert case.what in caught.value.what
    assert case.hint in caught.value.hint
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("load", [shelf.load_profile, shelf.load_target], ids=["profile", "target"])
def test_an_unknown_name_is_answered_with_the_nearest(load: object) -> None:
    assert callable(load)
    with pytest.raises(InputError, match=r'There is no (profile|target) "locl"') as caught:
        load("locl")
    assert 'Did you mean "local"?' in caught.value.hint


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent\.toml cannot be read: No such file"):
        shelf.load_profile(tmp_path / "absent.toml")


def test_detection_is_refused_where_the_system_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    blind = detect.Host("arm64", None, None, None, None)
    monkeypatch.setattr(detect, "host", lambda: blind)
    with pytest.raises(InputError, match="does not tell how many cores"):
        shelf.load_profile("local")


def test_a_shelf_inside_the_package_is_preferred(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside = tmp_path / "edgeprune/_shelf/profiles"
    inside.mkdir(parents=True)
    (tmp_path / "profiles").mkdir()
    monkeypatch.setattr(shelf, "__file__", str(tmp_path / "edgeprune/shelf.py"))
    assert shelf.folder("profiles") == inside
    with pytest.raises(EdgepruneError, match="edgeprune's own targets are missing"):
        shelf.folder("targets")


def test_every_budget_line_of_the_record_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / "board.toml"
    lines = {"latency_ms": 1.5, "percentile": 99, "memory_mib": 64, "size_mib": 2, "max_drop": 0}
    written = "\n".join(f"{key} = {value}" for key, value in lines.items())
    path.write_text(PROFILE.replace("latency_ms = 20", written))
    assert shelf.load_profile(path).budget == Budget(**lines)
    said_otherwise = {
        "speedup",
        "max_drop_percent",
        "whole_ms",
    }  # in other forms, or by a flag
    assert {field.name for field in fields(Budget)} == {*lines, *said_otherwise}


def test_a_largest_drop_may_be_a_share_and_what_is_left_out_is_known(tmp_path: Path) -> None:
    path = tmp_path / "board.toml"
    path.write_text(PROFILE.replace("latency_ms = 20", 'latency_ms = 20\nmax_drop = "2%"'))
    found = shelf.load_profile(path)
    assert (found.budget.max_drop_percent, found.unsaid) == (2.0, ("percentile",))
    path.write_text(PROFILE)
    assert shelf.load_profile(path).unsaid == ("percentile", "max_drop")
