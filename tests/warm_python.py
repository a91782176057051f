"""A `python` that has its imports behind it: each `python -m module …` is a fork of one process that has imported the large libraries.

Jobs of workflows in tests are short, and starting torch and transformers takes most of their time. A fork runs the same module of the
same code, in its own folder, with its own environment, output and exit status; none of this project's modules is imported before.
Tests that kill jobs start the real interpreter instead, as a fork is no child of the process that asks for it.
"""

import array
import atexit
import contextlib
import functools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import threading
from pathlib import Path
from typing import NoReturn

from forked import run_and_end

LIBRARIES = (
    "torch",
    "transformers.image_processing_utils",
    "transformers.modeling_utils",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.processing_auto",
    "transformers.models.gemma3.modeling_gemma3",
    "transformers.models.qwen2_vl.modeling_qwen2_vl",
    "polars",
    "pydantic",
    "grimp",
    "zarr",
    "sklearn.linear_model",
    "altair",
    "snakemake.cli",
)
# Run by the bare interpreter, in some hundredths of a second: hand over, then end as the fork does.
CLIENT = """\
#!{interpreter} -IS
import array, json, os, signal, socket, sys
if sys.argv[1:2] != ["-m"]:
    os.execv({real!r}, [{real!r}, *sys.argv[1:]])
server = socket.socket(socket.AF_UNIX)
server.connect({socket!r})
request = json.dumps(dict(words=sys.argv[2:], folder=os.getcwd(), environment=dict(os.environ), umask=os.umask(0))).encode()
files = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0, 1, 2]))]
server.sendmsg([len(request).to_bytes(8, "big")], files)
server.sendall(request)
answers = server.makefile()
pid = int(answers.readline())
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, lambda number, frame: os.kill(pid, number))
code = int(answers.readline())
if code < 0:
    signal.signal(-code, signal.SIG_DFL) if -code != signal.SIGKILL else None
    os.kill(os.getpid(), -code)
sys.exit(code)
"""


@functools.cache
def python() -> str:
    """Path of the `python` that asks; its packages are this one's. It serves as long as the process that calls this lives."""
    folder = Path(tempfile.mkdtemp(prefix="warm-python-"))
    programs = folder / "bin"
    programs.mkdir()
    base = Path(sys.base_prefix, "bin", f"python{sysconfig.get_python_version()}")
    (folder / "pyvenv.cfg").write_text(f"home = {base.parent}\n", encoding="utf-8")
    (folder / "lib").symlink_to(Path(sys.prefix, "lib"))
    real, asking = programs / "python3", programs / "python"
    real.symlink_to(base)
    asking.write_text(CLIENT.format(interpreter=base, real=str(real), socket=str(folder / "socket")), encoding="utf-8")
    asking.chmod(0o755)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": ""}
    server = subprocess.Popen(
        [real, __file__, folder / "socket"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8", env=environment
    )
    atexit.register(_stop, server, folder)
    assert server.stdout is not None
    assert server.stdout.readline() == "ready\n"
    return str(asking)


def _stop(server: subprocess.Popen[str], folder: Path) -> None:
    server.communicate()
    shutil.rmtree(folder)


def serve(path: str) -> None:
    """Answer until standard input ends."""
    import importlib

    for library in LIBRARIES:
        importlib.import_module(library)
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(path)
    listening.listen(64)
    print("ready", flush=True)
    threading.Thread(target=_end_with_input, daemon=True).start()
    # The children that end are waited for by a process of their own, so that this one has no other thread at work when it forks.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        client, _ = listening.accept()
        if os.fork() == 0:
            listening.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _answer(client)
        client.close()


def _end_with_input() -> None:
    sys.stdin.read()
    os._exit(0)


def _answer(client: socket.socket) -> None:
    head, ancillary, _, _ = client.recvmsg(8, socket.CMSG_SPACE(3 * 4))
    files = array.array("i")
    for _, _, data in ancillary:
        files.frombytes(data)
    with client.makefile("rb") as sent:
        request = json.loads(sent.read(int.from_bytes(head, "big")))
    child = os.fork()
    if child == 0:
        client.close()
        _become(request, files)
    for descriptor in files:
        os.close(descriptor)
    client.sendall(f"{child}\n".encode())
    # Whoever asked may be killed; its fork goes with it.
    threading.Thread(target=_kill_when_left, args=(client, child), daemon=True).start()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        client.sendall(f"{code}\n".encode())
    finally:
        os._exit(0)


def _kill_when_left(client: socket.socket, child: int) -> None:
    client.recv(1)
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)


def _become(request: dict, files: array.array) -> NoReturn:
    """Be ``python -m module …``, until its end."""
    import runpy

    for target, descriptor in enumerate(files):
        os.dup2(descriptor, target)
    os.chdir(request["folder"])
    os.umask(request["umask"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.path[:0] = [request["folder"], *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    sys.argv = request["words"]
    # What it starts with its own interpreter, such as Snakemake inside a cluster's job, asks as well.
    sys.executable = str(Path(sys.executable).with_name("python"))
    run_and_end(lambda: runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True))


if __name__ == "__main__":
    serve(sys.argv[1])
