"""Runs commands as fresh interpreters, which have torch, timm and matplotlib at hand: their imports take longest.

`run` starts one interpreter for the whole session. It imports them, and forks for every command. So vitrim itself is
imported anew each time, and no command sees what another one did.
"""

from __future__ import annotations

import atexit
import functools
import gc
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from pathlib import Path

SECONDS = 600


def run(command: list[str], folder: Path | str = ".", before: str = "") -> subprocess.CompletedProcess[str]:
    """What the command says and ends with: a Python script, -m and a module, or -c and code, with its arguments.

    before: code that runs in the same interpreter first.
    """
    server = _server()
    with tempfile.TemporaryDirectory() as place:
        said = [os.path.join(place, name) for name in ("stdout", "stderr")]
        print(json.dumps([command, os.path.abspath(folder), said, before]), file=server.stdin, flush=True)
        status = int(server.stdout.readline())
        return subprocess.CompletedProcess(command, status, *(Path(each).read_text() for each in said))


@functools.cache
def _server() -> subprocess.Popen[str]:
    one_thread = os.environ | {"OMP_NUM_THREADS": "1"}  # test processes share the cores
    return subprocess.Popen(
        [sys.executable, __file__], env=one_thread, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def _serve() -> None:
    import matplotlib.pyplot  # noqa: F401
    import timm  # noqa: F401
    import torch  # noqa: F401

    gc.freeze()  # what is there now is looked through by no collection in the forked ones
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            _end(_status(*json.loads(line)))
        sys.stdout.write(f"{os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}\n")
        sys.stdout.flush()


def _status(command: list[str], folder: str, said: list[str], before: str) -> int:
    """Runs the command; what Python would end with."""
    try:
        _prepare(folder, said)
        exec(before, {})
        _become(command)
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        sys.stderr.write(f"{end.code}\n")
        return 1
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _end(status: int) -> None:
    """Leave as Python does, but without taking torch and timm apart, which takes longer than most commands."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(status)


def _prepare(folder: str, said: list[str]) -> None:
    signal.alarm(SECONDS)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for stream, path in enumerate(said, 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), stream)
    os.chdir(folder)


def _become(command: list[str]) -> None:
    if command[0] == "-c":
        sys.argv, sys.path[0] = ["-c", *command[2:]], ""
        exec(command[1], vars(sys.modules["__main__"]))
    elif command[0] == "-m":
        sys.argv, sys.path[0] = command[1:], ""
        runpy.run_module(command[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv, sys.path[0] = command, os.path.dirname(os.path.realpath(command[0]))
        runpy.run_path(command[0], run_name="__main__")


if __name__ == "__main__":
    _serve()
