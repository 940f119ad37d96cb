"""Every error leaves the command line as one line with an exit code, and signals clean up."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import warnings

import pytest
import torch

from vitrim import failures
from vitrim.cli import app
from vitrim.cli.noise import quietly
from vitrim.core.notice import VitrimWarning

QUICK = ("macs", "--methods", "evit")
CPU_FULL = "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory"


class Odd(Exception):
    """What no code of ours raises."""


@pytest.fixture
def raising(monkeypatch, capsys):
    """Runs a command in which an error is raised; returns the exit code and what was said."""

    def run(error: BaseException) -> tuple[int, str]:
        def fail(*_, **__):
            raise error

        monkeypatch.setattr("vitrim.loading.build.build_model", fail)
        with pytest.raises(SystemExit) as end:
            app(list(QUICK))
        out, err = capsys.readouterr()
        assert out == ""
        assert err.count("\n") == (1 if err else 0)
        return end.value.code, err

    return run


@pytest.mark.parametrize(
    "error",
    [MemoryError(), torch.OutOfMemoryError("CUDA out of memory."), RuntimeError(CPU_FULL), OSError(12, "no memory")],
)
def test_short_memory_of_any_class_says_what_to_do(raising, error):
    code, said = raising(error)
    assert code == 2
    assert "not enough memory" in said
    assert "--batch-size" in said


def test_an_unexpected_error_takes_one_line_and_can_be_found(raising, monkeypatch):
    monkeypatch.setenv("VITRIM_DEBUG", "0")
    code, said = raising(Odd("first\nsecond"))
    assert (code, said.split(" (")[0]) == (2, "error: Odd: first")
    assert "VITRIM_DEBUG=1" in said
    monkeypatch.setenv("VITRIM_DEBUG", "1")
    with pytest.raises(Odd):
        app(list(QUICK))


def test_a_killed_worker_is_no_riddle(raising):
    code, said = raising(RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "))
    assert code == 2
    assert "was killed" in said
    assert failures.reason(RuntimeError("DataLoader worker (pid(s) 7, 8) exited unexpectedly")) is not None
    assert failures.reason(RuntimeError("mat1 and mat2 shapes cannot be multiplied")) is None


def test_text_from_outside_reaches_the_terminal_short_and_without_control_characters(raising):
    code, said = raising(ValueError("no class \x1b[31m" + "x" * 10**6 + "\udcff\x00."))
    assert code == 2
    assert len(said) < 3000
    assert "\x1b" not in said
    assert "\\x1b[31m" in said


@pytest.mark.parametrize("option", ["--seed", "--batch-size", "--limit", "--rounds", "--img-size", "--r", "--gmacs"])
@pytest.mark.parametrize("value", ["9" * 400, "9" * 5000, "-inf", "nan"])
def test_numbers_beyond_all_sense(capsys, option, value, tmp_path):
    with pytest.raises(SystemExit) as end:
        app(["compare", "--output", str(tmp_path / "out"), "--methods", "tome", option, value])
    (said,) = capsys.readouterr().err.splitlines()
    assert end.value.code == 2
    assert option in said
    assert "unexpected" not in said


PYTREE = "<enum 'KernelPreference'> is an Enum subclass and is now natively supported by torch.compile."


@pytest.mark.parametrize(
    ("logger", "known"),
    [
        ("torch.utils._pytree", PYTREE),
        ("torch.utils.cpp_extension", "No CUDA runtime is found, using CUDA_HOME='/usr/local'"),
    ],
)
def test_only_what_is_known_and_of_no_use_is_left_out(caplog, logger, known):
    with quietly():
        logging.getLogger(logger).warning(known)
        logging.getLogger(logger).warning("%s is no key", "x")
        logging.getLogger("torch.utils.other").warning(known)
    assert [record.getMessage() for record in caplog.records] == ["x is no key", known]
    logging.getLogger(logger).warning(known)
    assert len(caplog.records) == 3


def test_warnings_of_our_own_take_one_line_and_others_stay_as_they_are():
    plain = warnings.formatwarning
    with quietly():
        own = warnings.formatwarning(VitrimWarning("w.pth holds\nNaN."), VitrimWarning, "load.py", 7)
        other = warnings.formatwarning(UserWarning("odd"), UserWarning, "their.py", 7, "line")
    assert own == "vitrim: warning: w.pth holds NaN.\n"
    assert other == plain(UserWarning("odd"), UserWarning, "their.py", 7, "line")
    assert warnings.formatwarning is plain


WAIT = """
import os, sys, time
from vitrim.cli import app
import vitrim.loading.build, vitrim.temporary
def wait(*_, **__):
    with vitrim.temporary.temporary_folder():
        print("waiting", flush=True)
        time.sleep(60)
vitrim.loading.build.build_model = wait
app(["macs"])
"""


def test_sigterm_ends_a_command_with_one_line_and_leaves_nothing(tmp_path):
    other = subprocess.Popen(
        [sys.executable, "-c", WAIT],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"TMPDIR": str(tmp_path)},
    )
    assert other.stdout.readline() == "waiting\n"
    assert [path.name[:7] for path in tmp_path.iterdir()] == ["vitrim-"]
    other.send_signal(signal.SIGTERM)
    _, err = other.communicate(timeout=30)
    assert (other.returncode, err) == (143, "terminated.\n")
    assert list(tmp_path.iterdir()) == []


def test_a_reader_that_stops_reading_is_no_error():
    command = [sys.executable, "-c", "import time; time.sleep(0.5)\nfrom vitrim.cli import app\napp(['--help'])"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as other:
        other.stdout.close()
        assert other.stderr.read() == b""
    assert other.returncode == 1
