"""The command line keeps its contract: light, lazy, one sentence and one exit code for each error."""

from __future__ import annotations

import math
import os
import pkgutil
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import metadata
from pathlib import Path
from types import ModuleType

import click
import pytest
from click.testing import CliRunner, Result

import edgeprune
from edgeprune import cli
from edgeprune.cli import extras, output
from edgeprune.errors import DeviceError, EdgepruneError, InputError, MissingExtraError
from edgeprune.records.machine import Budget, Figure
from edgeprune.runtimes import TABLE as RUNTIMES
from edgeprune.toml import Table

ROOT = Path(edgeprune.__file__).resolve().parent.parent
HEAVY = ("torch", "torchao", "onnx", "onnxruntime", "openvino", "neural_compressor", "scipy")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli.main, list(arguments))


def python(code: str) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter that finds this edgeprune."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.fixture
def verb(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], None]], None]:
    """Put a function in the place of the verb `fit`."""

    def replace(body: Callable[[], None]) -> None:
        module = ModuleType("edgeprune.cli.fit")
        module.command = click.command("fit")(body)  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "edgeprune.cli.fit", module)

    return replace


def raising(error: BaseException) -> Callable[[], None]:
    def body() -> None:
        raise error

    return body


def test_help_lists_every_verb_with_its_summary_in_the_order_of_the_table() -> None:
    result = run("--help")
    assert result.exit_code == 0
    at = [result.stdout.index(f"\n  {name} ") for name in cli.VERBS]
    assert at == sorted(at)
    assert all(summary in " ".join(result.stdout.split()) for summary in cli.VERBS.values())


def test_the_table_has_the_verbs_of_the_documentation() -> None:
    assert list(cli.VERBS) == [
        *("init", "fit", "bundle", "validate", "prune", "inspect"),
        *("profiles", "targets", "report", "why", "doctor"),
    ]


def test_help_imports_neither_torch_nor_a_runtime() -> None:
    code = (
        "import sys; from edgeprune.cli import main\n"
        "main(['--help'], standalone_mode=False)\n"
        f"print('heavy:', [name for name in {HEAVY} if name in sys.modules])\n"
    )
    assert python(code).stdout.endswith("heavy: []\n")


def test_no_verb_imports_torch_or_a_runtime_before_it_is_called() -> None:
    modules = [f"edgeprune.cli.{module.name}" for module in pkgutil.iter_modules(cli.__path__)]
    assert "edgeprune.cli.doctor" in modules
    code = (
        f"import sys, importlib\nfor name in {modules}: importlib.import_module(name)\n"
        f"print([name for name in {HEAVY} if name in sys.modules])\n"
    )
    done = python(code)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_version_is_the_packages() -> None:
    assert run("--version").stdout == f"edgeprune {edgeprune.__version__}\n"


def test_a_misspelt_verb_is_a_usage_error_with_the_nearest() -> None:
    result = run("docter")
    assert result.exit_code == 2
    assert "There is no verb 'docter'. Did you mean 'doctor'?" in result.stderr


def test_a_wrong_flag_is_a_usage_error() -> None:
    assert run("profiles", "--jsn").exit_code == 2


def test_a_verb_that_is_not_there_breaks_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "VERBS", {**cli.VERBS, "brew": "Make coffee."})
    assert "brew" in run("--help").stdout
    assert run("targets").exit_code == 0
    result = run("brew")
    assert result.exit_code == 1
    assert "was installed without the verb 'brew'" in result.stderr


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (EdgepruneError("It broke.", "Mend it."), 1),
        (DeviceError("It broke.", "Mend it."), 1),
        (MissingExtraError("It broke.", "Mend it."), 2),
        (InputError("It broke.", "Mend it."), 2),
    ],
    ids=lambda value: type(value).__name__,
)
def test_errors_end_as_two_lines_on_stderr_and_their_exit_code(
    verb: Callable[[Callable[[], None]], None], error: EdgepruneError, code: int
) -> None:
    verb(raising(error))
    result = run("fit")
    assert (result.exit_code, result.stdout) == (code, "")
    assert result.stderr == "error: It broke.\nhint: Mend it.\n"


def test_an_interrupt_ends_with_one_line_and_130(verb: Callable[[Callable[[], None]], None]) -> None:
    verb(raising(KeyboardInterrupt()))
    result = run("fit")
    assert (result.exit_code, result.stdout, result.stderr) == (130, "", "interrupted\n")


def test_a_missing_library_is_answered_with_the_line_that_installs_it(
    verb: Callable[[Callable[[], None]], None],
) -> None:
    verb(raising(ModuleNotFoundError("No module named 'torch.export'", name="torch.export")))
    result = run("fit")
    assert result.exit_code == 2
    assert "error: torch is not installed" in result.stderr
    assert "hint: Run: pip install 'edgeprune[fit]'" in result.stderr


def test_a_missing_module_of_somebody_else_is_not_swallowed(
    verb: Callable[[Callable[[], None]], None],
) -> None:
    verb(raising(ModuleNotFoundError("No module named 'mytask'", name="mytask")))
    assert isinstance(run("fit").exception, ModuleNotFoundError)


def test_the_exit_code_of_a_verb_is_the_programs(verb: Callable[[Callable[[], None]], None]) -> None:
    verb(lambda: click.get_current_context().exit(3))
    assert run("fit").exit_code == 3


def test_a_reader_that_left_is_no_error_message() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, "-c", "from edgeprune.cli import main; main(['profiles', '--json'])"],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=writer,
            stderr=subprocess.PIPE,
            timeout=60,
            check=False,
        )
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (1, b"")


def test_every_extra_that_is_advised_exists() -> None:
    checkout = ROOT / "pyproject.toml"
    if checkout.is_file():
        declared = tuple(Table.read(checkout).table("project").table("optional-dependencies"))
    else:
        declared = tuple(metadata("edgeprune").get_all("Provides-Extra") or ())
    assert set(extras.extras().values()) <= set(declared)
    assert all(extras.extras()[row.imports] == row.extra for row in RUNTIMES.values())


def test_json_is_one_document_without_nan(capsys: pytest.CaptureFixture[str]) -> None:
    output.emit_json({"nan": math.nan, "inf": -math.inf, "pair": (1, 2.5), "path": Path("a/b"), "none": None})
    assert capsys.readouterr().out == (
        '{\n  "nan": null,\n  "inf": null,\n  "pair": [\n    1,\n    2.5\n  ],\n'
        '  "path": "a/b",\n  "none": null\n}\n'
    )


def test_json_takes_records_and_numpy_scalars() -> None:
    numpy = pytest.importorskip("numpy")
    assert output.plain(Figure(8, "GB", "a sheet")) == {"value": 8, "unit": "GB", "source": "a sheet"}
    assert output.plain([numpy.float32(0.5), numpy.int64(3), numpy.float64("nan")]) == [0.5, 3, None]
    assert output.plain(Budget())["max_drop"] == 0.01  # type: ignore[index]


def test_json_refuses_what_has_no_form() -> None:
    with pytest.raises(TypeError, match="object has no JSON form"):
        output.plain({"x": object()})


def test_python_runs_the_package_as_the_command_line() -> None:
    done = python(
        "import runpy, sys; sys.argv[1:] = ['--version']; runpy.run_module('edgeprune', {}, '__main__')"
    )
    assert (done.returncode, done.stdout) == (0, f"edgeprune {edgeprune.__version__}\n")
