"""The ``tfdare`` command: it finds its subcommands, prints their help, and hides noise."""

import os
import pathlib
import re
import subprocess
import sys
from importlib import metadata

import pytest

import tfdare
from tfdare import cli
from tfdare.commands import parser as command
from tfdare.errors import UsageError
from tfdare.quiet import quiet
from tfdare.schema import SchemaError

ROOT = pathlib.Path(__file__).parents[2]
COMMANDS = {entry.name: entry for entry in metadata.entry_points(group="tfdare.commands")}
NOISE = re.compile(
    r"cpu_feature_guard|cuda|absl|computation_placer|tensorrt|oneDNN|^[IWE]0000 "
    r"|^20\d\d-.*: [IWE] ",
    re.IGNORECASE | re.MULTILINE,
)


def run(*argv, code=None):
    """Runs a new process without the variables that silence TensorFlow in tests."""
    environment = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
    start = ["-m", "tfdare.cli"] if code is None else ["-c", code]
    return subprocess.run(
        [sys.executable, *start, *map(str, argv)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )


def exit_code(*argv):
    """Returns the shell's exit code; argparse raises SystemExit, Beam's command returns."""
    try:
        return cli.main(list(argv))
    except SystemExit as stop:
        return stop.code


def test_commands_are_installed():
    names = {
        "simulate",
        "prepare",
        "train",
        "evaluate",
        "compare",
        "export",
        "serve",
        "query",
        "verify",
    }
    assert names <= set(COMMANDS)


@pytest.mark.parametrize("argv", [[], ["--help"], ["-h"]])
def test_help_lists_every_command(argv, capsys):
    assert cli.main(argv) == 0
    out = capsys.readouterr().out
    assert out.startswith("tfdare demo ")
    for name in COMMANDS:
        assert re.search(rf"^  {name} +\w", out, re.MULTILINE), name


def test_unknown_command(capsys):
    assert cli.main(["trian"]) == 2
    captured = capsys.readouterr()
    assert "no command 'trian'" in captured.err and "  train " in captured.err
    assert captured.out == ""


def test_a_reader_that_stops_reading_is_no_error():
    done = subprocess.run(
        f"{sys.executable} -m tfdare.cli --version | true; echo ${{PIPESTATUS[0]}}",
        shell=True,
        executable="bash",
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert (done.stderr, done.stdout) == ("", "0\n")


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"tfdare {tfdare.__version__}\n"


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_help_starts_with_a_line_to_paste(name, capsys):
    assert exit_code(name, "--help") == 0
    text = capsys.readouterr().out
    assert "(default: None)" not in text
    first, *rest = text.splitlines()
    module = COMMANDS[name].module
    assert first.startswith((f"tfdare {name} --", f"python -m {module} --"))
    options = set(re.findall(r"(--\w+)", "\n".join(rest)))
    assert set(re.findall(r"(--\w+)", first)) <= options


@pytest.mark.parametrize(
    "name", [name for name in sorted(COMMANDS) if name not in ("demo", "simulate", "serve")]
)
def test_missing_options_are_named(name, capsys):
    assert exit_code(name) == 2
    assert "required: --" in capsys.readouterr().err


def test_help_imports_no_tensorflow():
    code = (
        "import sys; from tfdare.cli import main; main(['--help']); main(['--version']); "
        "print(sorted({'tensorflow', 'keras', 'apache_beam', 'grpc'} & set(sys.modules)))"
    )
    process = run(code=code)
    assert process.returncode == 0 and process.stderr == ""
    assert process.stdout.splitlines()[-1] == "[]"


def test_the_exit_code_reaches_the_shell():
    process = run("nonsense")
    assert process.returncode == 2 and "no command 'nonsense'" in process.stderr


def test_help_of_a_command_is_quiet():
    process = run("evaluate", "--help")
    assert process.returncode == 0 and process.stderr == ""


def test_the_noise_pattern_matches_tensorflows_lines():
    for line in (
        "2026-01-01 00:00:00.123456: I tensorflow/core/util/port.cc:153] oneDNN custom operations",
        "I0000 00:00:1795462388.281839   10962 cudart_stub.cc:31] Could not find cuda drivers",
        "WARNING: All log messages before absl::InitializeLog() is called are written to STDERR",
    ):
        assert NOISE.search(line)


def test_a_failing_import_is_not_quiet(capfd, monkeypatch):
    monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL", raising=False)
    with pytest.raises(ImportError):
        with quiet():
            os.write(2, b"what the library had to say\n")
            raise ImportError("gone")
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "what the library had to say\nafter\n"


def test_chatter_is_dropped_and_the_rest_comes_through(capfd, monkeypatch):
    chatter = (
        b"WARNING: All log messages before absl::InitializeLog() is called are written to STDERR\n"
        b"I0000 00:00:1795462388.281839   10962 cudart_stub.cc:31] Could not find cuda drivers\n"
        b"2026-01-01 00:00:00.123456: I tensorflow/core/util/port.cc:153] oneDNN operations\n"
    )
    monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL", raising=False)
    with quiet():
        os.write(2, chatter + b"a plugin's own warning\n")
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "a plugin's own warning\nafter\n"
    with pytest.raises(KeyError):
        with quiet(explained=(KeyError,)):
            os.write(2, chatter)
            raise KeyError
    assert capfd.readouterr().err == ""
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "0")
    with quiet():
        os.write(2, b"I0000 00:00:1795462388.2 1 a.cc:1] asked for\n")
    assert "asked for" in capfd.readouterr().err


@pytest.mark.parametrize(
    "error, code, words",
    [
        (None, 0, ""),
        (UsageError("`k` is 0, `j` is 1"), 2, "tfdare try: --k is 0, `j` is 1\n"),
        (SchemaError("no _SUCCESS"), 2, "tfdare try: no _SUCCESS\n"),
        (KeyboardInterrupt(), 130, "tfdare try: stopped"),
    ],
)
def test_exit_codes_of_errors(capsys, error, code, words):
    def action(options):
        assert options.k == 3
        if error is not None:
            raise error

    parser = command.Parser("try", "tfdare try --k 3", "Tries.")
    parser.add_argument("--k", type=int, default=1, help="a number")
    assert command.run(parser, ["--k", "3"], action) == code
    err = capsys.readouterr().err
    assert words in err and "Traceback" not in err and bool(err) == bool(words)
    assert "(default: 1)" in parser.format_help()


def test_a_defect_keeps_its_traceback():
    def action(options):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        command.run(command.Parser("try", "tfdare try", "Tries."), [], action)
