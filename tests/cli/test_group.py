"""The command group: lazy imports, missing extras, and exceptions that become sentences."""

from __future__ import annotations

import errno
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from im2sp.cli import app
from im2sp.cli.group import LAZY_COMMANDS, Group
from im2sp.errors import Im2SpError
from im2sp.installing import install_command

HEAVY = "{'fastapi', 'numpy', 'onnxruntime', 'PIL', 'pydantic', 'soundfile', 'torch', 'typer'}"


@pytest.mark.parametrize("arguments", [["--help"], *([name, "--help"] for name in ("caption", "watch", "info"))])
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    script = f"import sys; from im2sp.cli import app; app({arguments}, standalone_mode=False)\n"
    script += f"print('loaded:', *{HEAVY} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("loaded:\n")


@pytest.mark.parametrize("name", sorted(set(LAZY_COMMANDS) - {"serve"}))
def test_help_of_training_loads_no_torch(name: str) -> None:
    script = f"import sys; from im2sp.cli import app; app(['{name}', '--help'], standalone_mode=False)\n"
    script += "print('loaded:', *{'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("loaded:\n")


def test_completion_without_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("im2sp.cli.group.find_spec", lambda library: None)
    monkeypatch.setenv("COMP_WORDS", "im2sp serve --")
    monkeypatch.setenv("COMP_CWORD", "2")
    result = CliRunner().invoke(app, prog_name="im2sp", env={"_IM2SP_COMPLETE": "bash_complete"})
    assert (result.exit_code, result.exception) == (0, None)
    assert "--help" in result.stdout


@pytest.mark.parametrize("name", LAZY_COMMANDS)
def test_without_its_extra_a_command_says_what_to_install(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("im2sp.cli.group.find_spec", lambda library: None)
    result = CliRunner().invoke(app, [name, "--help"])
    assert result.exit_code == 1
    assert result.stderr.startswith(f"im2sp {name} needs ")
    assert result.stderr.endswith(f", which is not installed: {install_command(LAZY_COMMANDS[name].extra)}\n")
    assert name in CliRunner().invoke(app, ["--help"]).stdout


def failing(error: BaseException) -> tuple[int, str]:
    """Exit code and stderr of a command that raises."""

    @click.group(cls=Group)
    def group() -> None:
        pass

    @group.command()
    def fail() -> None:
        raise error

    result = CliRunner().invoke(group, ["fail"])
    return result.exit_code, result.stderr


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (KeyboardInterrupt(), 130, "stopped"),
        (Im2SpError("what to do"), 1, "what to do"),
        (OSError(errno.ENOSPC, "No space left", "/x"), 1, "/x: the disk is full; free some space and run again"),
        (OSError("odd"), 1, "odd"),
        (MemoryError(), 1, "unexpected MemoryError (there is not enough memory); set IM2SP_DEBUG=1 to see where, "),
        (ZeroDivisionError("of all\nthings"), 1, "unexpected ZeroDivisionError (of all things); set IM2SP_DEBUG=1 "),
        (click.UsageError("wrong"), 2, "Error: wrong"),
    ],
)
def test_exceptions_become_sentences(
    error: BaseException, code: int, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("IM2SP_DEBUG", raising=False)
    found, stderr = failing(error)
    assert found == code
    assert stderr.splitlines()[-1].startswith(sentence)
    assert "Traceback" not in stderr


def test_tracebacks_come_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IM2SP_DEBUG", "1")
    assert "Traceback" in failing(ZeroDivisionError())[1]
