"""`edgeprune fit`, `prune` and `inspect` as a program: exit codes, messages, documents."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from edgeprune.cli import main
from edgeprune.records.progress import Event
from tests.support import haste

TASK = """
import torch
import edgeprune

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.one = torch.nn.Conv2d(1, 8, 3, padding=1)
        self.two = torch.nn.Conv2d(8, 8, 3, padding=1)
        self.head = torch.nn.Linear(8, 4)

    def forward(self, x):
        x = torch.relu(self.two(torch.relu(self.one(x))))
        {line}
        return self.head(x.mean((2, 3)))

def task():
    torch.manual_seed(0)
    data = torch.randn(32, 1, 8, 8)
    return edgeprune.Task(
        model=Net().eval(), example=data[:1], calibration={calibration}, evaluate={evaluate}
    )
"""


def write(
    folder: Path,
    line: str = "pass",
    calibration: str = "[data]",
    evaluate: str = "lambda predict: float(predict(data.numpy()).std() > 0)",
) -> str:
    path = folder / "mytask.py"
    path.write_text(TASK.format(line=line, calibration=calibration, evaluate=evaluate))
    return str(path)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    haste.hurry(monkeypatch.setattr)


def refused(result: Result, *words: str) -> None:
    assert result.exit_code == 2, result.stderr
    assert "hint: " in result.stderr
    for word in words:
        assert word in result.stderr
    assert result.stdout == ""


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    refused(run("fit", str(tmp_path / "absent.py"), "--out", str(tmp_path / "run")), "absent.py")
    assert not (tmp_path / "run").exists()


def test_a_module_without_a_task_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "empty.py"
    path.write_text("x = 1\n")
    refused(run("fit", str(path)), "task")


def test_a_model_that_does_not_export_names_the_line(tmp_path: Path) -> None:
    task = write(tmp_path, line="x = x * 2 if x.sum() > 0 else x")
    refused(run("fit", task, "--out", str(tmp_path / "run")), "does not export", "mytask.py", "x.sum() > 0")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("calibration", "words"),
    [
        ("None", "calibration is None"),
        ("[data * float('nan')]", "NaN"),
        ("[]", "calibration"),
        ("[torch.randn(4, 3, 8, 8)]", "3"),
    ],
    ids=["none", "not a number", "empty", "another shape"],
)
def test_calibration_that_cannot_be_used_is_refused(tmp_path: Path, calibration: str, words: str) -> None:
    task = write(tmp_path, calibration=calibration)
    refused(run("fit", task, "--out", str(tmp_path / "run")), words)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("evaluate", "words"),
    [
        ("lambda predict: 1 / 0", "division by zero"),
        ("lambda predict: float('nan')", "nan"),
        ("lambda predict: 10**400", "inf"),
        ("lambda predict: __import__('sys').exit(0)", "ended the program: systemexit: 0"),
        ("lambda predict: exit()", "ended the program: systemexit"),
    ],
    ids=["raises", "returns NaN", "returns more than a float holds", "exits with 0", "exits"],
)
def test_an_evaluation_that_fails_is_the_input_s_fault(tmp_path: Path, evaluate: str, words: str) -> None:
    task = write(tmp_path, evaluate=evaluate)
    result = run("fit", task, "--out", str(tmp_path / "run"))
    assert result.exit_code == 2
    assert words in result.stderr.lower()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("x = self.two(torch.exp(x * 1e4))", ("NaN or infinity, first in exp",)),
        ("return torch.nonzero(x)", ("output nonzero depends on the values given",)),
        ("x = x + torch.histc(x.flatten(), 4).sum()", ("no ONNX form", "aten.histc", "mytask.py", "line 14")),
    ],
    ids=["infinite activations", "a size that depends on values", "an operator without ONNX form"],
)
def test_a_model_that_cannot_be_served_is_refused_by_the_operation(
    tmp_path: Path, line: str, words: tuple[str, ...]
) -> None:
    task = write(tmp_path, line=line, evaluate="lambda predict: 0.5")
    refused(run("fit", task, "--out", str(tmp_path / "run")), *words)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("self.two.bias.data.add_(1)", ("parameter 'two.bias' changed",)),
        ("x = x + torch.randn(1)", ("draws random numbers with aten.randn", "line 14")),
        ("self.seen = getattr(self, 'seen', 0) + 1; x = x * self.seen", ("attribute 'seen' changed",)),
        ("return self.head(x.mean((2, 3))).half()", ("forward computes in torch.float16", "line 14")),
    ],
    ids=["state", "noise", "a counter", "half precision"],
)
def test_a_model_that_is_no_function_of_its_inputs_is_refused_at_the_start(
    tmp_path: Path, line: str, words: tuple[str, ...]
) -> None:
    task = write(tmp_path, line=line, evaluate="lambda predict: 1 / 0")  # it is never asked
    refused(run("fit", task, "--out", str(tmp_path / "run")), *words)
    assert not (tmp_path / "run").exists()


def test_an_operator_that_the_runtime_lacks_is_named(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    task = write(tmp_path, line="x = x * torch.linalg.det(x)[..., None, None]")
    result = run("fit", task, "--runtime", "openvino", "--out", str(tmp_path / "run"))
    refused(result, "OpenVINO does not take", "no operator for Det", "another runtime")
    assert not (tmp_path / "run").exists()


def test_a_runtime_that_is_not_installed_comes_with_the_line_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    task = write(tmp_path)
    result = run("fit", task, "--runtime", "openvino", "--out", str(tmp_path / "run"))
    refused(result, "openvino is not installed", "pip install 'edgeprune[openvino]'")
    assert not (tmp_path / "run").exists()


def test_an_unknown_flag_value_is_refused(tmp_path: Path) -> None:
    assert run("fit", write(tmp_path), "--recover", "prayer").exit_code == 2


@pytest.mark.parametrize(
    ("rung", "word"), [("finetune", "Task.train"), ("rewind", "Task.earlier")], ids=lambda value: value
)
def test_a_recovery_that_the_task_has_no_data_for_is_refused(tmp_path: Path, rung: str, word: str) -> None:
    refused(run("fit", write(tmp_path), "--recover", rung, "--out", str(tmp_path / "run")), word)
    assert not (tmp_path / "run").exists()


def test_every_recovery_can_be_asked_for() -> None:
    from edgeprune.recover.ways import TABLE

    assert f"[{'|'.join(TABLE)}]" in run("fit", "--help").output


def test_an_out_that_cannot_be_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    refused(run("fit", write(tmp_path), "--out", str(tmp_path / "file" / "run")), "file")


@pytest.mark.usefixtures("hurried")
def test_a_budget_that_nothing_meets_ends_with_3_and_says_by_how_much(tmp_path: Path) -> None:
    out = tmp_path / "run"
    result = run(
        "fit", write(tmp_path), "--latency-ms", "0.000001", "--epochs", "0", "--out", str(out), "--json"
    )
    document = json.loads(result.stdout)
    assert (result.exit_code, document["verdict"], document["bundle"]) == (3, "misses", None)
    assert document["chosen"]["breaches"][0]["line"] == "latency_ms"
    assert document["chosen"]["breaches"][0]["excess"] > 0
    again = run("report", str(out), "--json")
    assert json.loads(again.stdout)["chosen"] == document["chosen"]


@pytest.mark.parametrize(
    ("flags", "stderr"),
    [((), ["trial-01: " + "finished, " * 20, "a note"]), (("--quiet",), ["a note"])],
    ids=["told", "quiet"],
)
def test_a_finished_trial_is_a_line_on_stderr_without_a_terminal_too(
    flags: tuple[str, ...],
    stderr: list[str],
    tmp_path: Path,
    make_run: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    result = make_run().result

    def fit(task: object, listen: Callable[[Event], None], **options: Any) -> Any:
        listen(Event("trial-01", "building"))
        listen(Event("trial-01", "finished, " * 20, ended=True))
        listen(Event("trial-01", "a note", lasting=True))
        return result

    monkeypatch.setattr("edgeprune.fitting.fit", fit)
    monkeypatch.setattr("edgeprune.cli.drawing.draw_beside", lambda folder: "")
    found = run("fit", write(tmp_path), "--out", str(tmp_path / "run"), "--json", *flags)
    assert found.stderr.splitlines() == stderr
    assert json.loads(found.stdout)["verdict"] == "fits"


@pytest.mark.parametrize("told", ["report: here", "note: it was not drawn", ""])
@pytest.mark.parametrize("flags", [(), ("--json",)], ids=["tables", "json"])
def test_the_page_beside_a_run_is_told_after_the_answer_and_changes_nothing(
    told: str,
    flags: tuple[str, ...],
    tmp_path: Path,
    make_run: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    result = make_run().result
    monkeypatch.setattr("edgeprune.fitting.fit", lambda task, **options: result)
    monkeypatch.setattr("edgeprune.cli.drawing.draw_beside", lambda folder: told)
    found = run("fit", write(tmp_path), "--out", str(tmp_path / "run"), *flags)
    assert found.exit_code == 0
    lines = found.stderr if flags or told.startswith("note") else found.stdout
    assert not told or lines.splitlines()[-1] == told
    if flags:
        assert json.loads(found.stdout)["verdict"] == "fits"


def test_a_fit_of_a_project_file_says_so_and_is_resumed_and_reported_without_a_flag(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a folder below the project's, and once more from it; predicted, so that no load here matters."""
    write(tmp_path)
    (tmp_path / "edgeprune.toml").write_text(
        'model = "mytask.py"\ntarget = "arm"\nlatency_ms = 1e6\nepochs = 0\nmax_drop = 0.5\n'
    )
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    result = run("fit", "--max-drop", "0.25", "--json")
    document = json.loads(result.stdout)
    assert (result.exit_code, document["verdict"]) == (0, "predicted")
    assert document["out"] == str(tmp_path / "runs" / "mytask")
    assert (document["sources"]["latency_ms"], document["sources"]["max_drop"]) == ("project", "flag")
    assert document["occasion"]["project"] == {
        "file": str(tmp_path / "edgeprune.toml"),
        "keys": {"model": '"mytask.py"', "target": '"arm"', "latency_ms": "1000000", "epochs": "0"},
        "set_aside": {},
    }
    assert list((tmp_path / "below").iterdir()) == []
    monkeypatch.chdir(tmp_path)
    refused(run("fit", "--max-drop", "0.25"), "already holds a run")
    again = run("fit", "mytask.py", "--max-drop", "0.25", "--resume", "--json")
    resumed = json.loads(again.stdout)
    assert resumed["chosen"] == document["chosen"]
    assert resumed["occasion"]["project"]["keys"].keys() == {"target", "latency_ms", "epochs"}
    shown = run("report")
    assert "asked: p90 latency of 1e+06 ms (edgeprune.toml), " in shown.stdout
    assert 'with: edgeprune.toml (target = "arm", latency_ms = 1000000, epochs = 0)' in shown.stdout
    other = run("fit", "--max-drop", "0.25", "--latency-ms", "2e6", "--resume")
    refused(other, "budget.latency_ms was 1000000.0, is now 2000000.0")


@pytest.mark.usefixtures("hurried")
def test_several_budgets_are_answered_by_one_run_and_one_document(tmp_path: Path) -> None:
    """A budget that anything meets and one that nothing meets: 3, whatever the other says."""
    out = tmp_path / "run"
    budgets = ["--latency-ms", "0.000001,10000,0.000001", "--epochs", "0"]
    result = run("fit", write(tmp_path), *budgets, "--out", str(out), "--json")
    document = json.loads(result.stdout)
    assert (result.exit_code, document["verdict"]) == (3, "misses")
    assert [tier["name"] for tier in document["tiers"]] == ["10000 ms", "1e-06 ms"]
    assert document["tiers"][0]["chosen"]["name"] == "dense"
    assert document["tiers"][1]["breaches"] == document["breaches"]
    assert (document["cascade"], document["bundle"]) == (None, None)
    assert "evaluate_samples" in document["no_cascade"]
    assert "The budget 1e-06 ms was given more than once; it is answered once." in result.stderr
    assert "Budgets are answered from the largest to the smallest: 10000 ms, 1e-06 ms." in result.stderr
    shown = run("report", str(out))
    assert "tier 2, 1e-06 ms: misses: nothing fits." in shown.stdout
    assert "tier 1, 10000 ms: " in shown.stdout
    assert json.loads(run("report", str(out), "--json").stdout) == document


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--latency-ms", "20,10", "--speedup", "2"], "Both --latency-ms and --speedup"),
        (
            ["--profile", "local", "--profile", "x86-server", "--latency-ms", "20,10"],
            "2 profiles and 2 values",
        ),
        (
            ["--profile", "local", "--profile", "x86-server"],
            "the latency is measured in the first and predicted",
        ),
        (["--latency-ms", "20,-1"], "latency_ms is -1.0"),
    ],
    ids=["two kinds", "lists times profiles", "measured and predicted", "a negative one"],
)
def test_budgets_that_cannot_be_combined_are_refused(tmp_path: Path, flags: list[str], words: str) -> None:
    refused(run("fit", write(tmp_path), *flags, "--out", str(tmp_path / "run")), words)
    assert not (tmp_path / "run").exists()


def test_a_list_of_budgets_that_are_no_numbers_is_refused(tmp_path: Path) -> None:
    result = run("fit", write(tmp_path), "--latency-ms", "20,ten")
    assert result.exit_code == 2
    assert "'ten' is not a number; write one, or several as in 20,10,5." in result.stderr


def test_ctrl_c_keeps_the_ledger_and_says_how_to_go_on(tmp_path: Path) -> None:
    """The evaluation of the first artefact interrupts its own process: the same moment on any machine."""
    evaluate = (
        "lambda predict: (not __import__('os').path.exists('run/dense') or "
        "__import__('os').path.exists('resumed') or "
        "__import__('os').kill(__import__('os').getpid(), 2), 1.0)[1]"
    )
    task = write(tmp_path, evaluate=evaluate)
    program = [sys.executable, "-m", "tests.support.haste"]
    command = [*program, "fit", task, "--latency-ms", "1e4", "--out", "run"]
    # A parent that ignores SIGINT (a shell's background job) would pass that on.
    first = subprocess.run(
        command,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        env=_environment(),
    )
    assert first.returncode == 130, first.stderr
    assert "--resume --out run" in first.stderr
    assert (tmp_path / "run" / "ledger.jsonl").exists()
    (tmp_path / "resumed").touch()
    second = subprocess.run(
        [*command, "--resume", "--json"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env=_environment(),
    )
    assert second.returncode in (0, 1), second.stderr  # 1: the machine was too restless to prove it
    assert json.loads(second.stdout)["verdict"] in ("fits", "inconclusive")


def _environment() -> dict[str, str]:
    root = str(Path(__file__).parents[2])
    return {**os.environ, "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}


def test_prune_writes_a_model_that_loads(tmp_path: Path) -> None:
    import torch

    out = tmp_path / "small.pt2"
    result = run("prune", write(tmp_path), "--ratio", "0.4", "-o", str(out), "--json")
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    loaded = torch.export.load(out)
    assert sum(p.numel() for _, p in loaded.named_parameters()) == document["params"]["pruned"]
    assert document["params"]["pruned"] < document["params"]["dense"]


@pytest.mark.parametrize("ratio", ["1.0", "-0.1", "0.999", "nan", "inf"])
def test_prune_refuses_a_ratio_that_cannot_be(tmp_path: Path, ratio: str) -> None:
    out = tmp_path / "small.pt2"
    refused(run("prune", write(tmp_path), "--ratio", ratio, "-o", str(out)), "ratio")
    assert not out.exists()


@pytest.mark.parametrize(
    ("verb", "flag", "value"),
    [
        ("fit", "--seed", "-1"),
        ("fit", "--seed", "4294967296"),
        ("fit", "--epochs", "100000"),
        ("fit", "--device", ""),
        ("fit", "--device", " "),
        ("prune", "--seed", "-1"),
    ],
)
def test_a_value_out_of_range_is_refused_before_the_task_runs(
    tmp_path: Path, verb: str, flag: str, value: str
) -> None:
    task, out = write(tmp_path), tmp_path / "out.pt2"
    Path(task).write_text("raise RuntimeError('the task ran')")
    options = ["--ratio", "0.3", "-o", str(out)] if verb == "prune" else ["--out", str(out)]
    refused(run(verb, task, *options, flag, value), flag)
    assert not out.exists()


def test_inspect_lists_groups_and_unknown_operations(tmp_path: Path) -> None:
    task = write(tmp_path, line="x = x.index_put((torch.arange(8), torch.arange(8)), torch.ones(8))")
    document = json.loads(run("inspect", task, "--json").stdout)
    assert {group["name"]: group["units"] for group in document["groups"]} == {"one": 8}
    assert document["unknown"] == ["aten.index_put"]
    assert "aten.index_put" in {each["op"] for each in document["frozen"]}


@pytest.mark.parametrize("verb", ["inspect", "prune"])
def test_code_of_a_task_that_exits_ends_no_verb_with_0(tmp_path: Path, verb: str) -> None:
    options = ["--ratio", "0.3", "-o", str(tmp_path / "out.pt2")] if verb == "prune" else []
    task = write(tmp_path, line="import sys; sys.exit(0)")
    refused(run(verb, task, *options), "ended the program: SystemExit: 0", "mytask.py, line")
    assert not (tmp_path / "out.pt2").exists()


WANDERER = """
import os, sys
os.makedirs("elsewhere", exist_ok=True)
os.chdir("elsewhere")
sys.stdout.close()
"""


def test_code_that_changes_folders_and_closes_stdout_moves_no_output_and_loses_no_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = Path(write(tmp_path))
    task.write_text(WANDERER + task.read_text())
    monkeypatch.chdir(tmp_path)
    line = [sys.executable, "-c", "from edgeprune.cli import main; main()"]
    options = ["prune", task.name, "--ratio", "0.3", "-o", "small.pt2", "--json"]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([*line, *options], capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["output"] == "small.pt2"
    assert (tmp_path / "small.pt2").is_file()
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_run_folder_stays_where_it_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hurried: None
) -> None:
    wander = "lambda predict: (__import__('os').chdir('/'), float(predict(data.numpy()).std() > 0))[1]"
    task = Path(write(tmp_path, evaluate=wander))
    task.write_text(WANDERER.replace("sys.stdout.close()", "") + task.read_text())
    monkeypatch.chdir(tmp_path)
    result = run("fit", task.name, "--latency-ms", "1000", "--epochs", "0", "--out", "run", "--json")
    assert result.exit_code == 0, result.stderr
    assert (tmp_path / "run" / "result.json").is_file()
    assert Path.cwd() == tmp_path / "elsewhere"
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_what_a_task_prints_is_not_part_of_the_answer(tmp_path: Path) -> None:
    task = write(tmp_path)
    noise = "import os\nprint('noise')\nos.write(1, b'noise\\n')\nos.system('echo noise')\n"
    Path(task).write_text(noise + Path(task).read_text())
    line = [sys.executable, "-c", "from edgeprune.cli import main; main()", "inspect", task, "--json"]
    done = subprocess.run(line, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    assert json.loads(done.stdout)["groups"]
    assert done.stderr.count("noise") == 3
