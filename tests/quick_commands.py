"""Commands as a user types them, without the seconds that their imports take: each is a fork of one process that has made them.

The fork runs the entry point that the command would run, in its own folder, with its own output; nothing of it comes back but files.
"""

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import NoReturn, Self

from forked import run_and_end

REPOSITORY = Path(__file__).parents[1]
OURS = (
    "cli",
    "workflow.planning",
    "workflow.preflight",
    "activations.store",
    "probes.analysis",
    "report.compare",
    "scenes.boxes_file",
)
PREPARED = ("snakemake.cli", *(f"vlm_spatial.{module}" for module in OURS))


@dataclass(frozen=True)
class Done:
    """How a command ended, and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def errors(self) -> list[str]:
        """What a user takes for the errors."""
        return [line for line in self.err.splitlines() if line.startswith(("error:", "Error"))]


class Commands:
    """Runs ``snakemake …``, ``vlm-spatial …`` and ``python -m module …``; a context manager."""

    def __enter__(self) -> Self:
        environment = {name: value for name, value in os.environ.items() if name != "VLM_SPATIAL_WORKFLOW"}
        # A forked process has none of the threads that its parent had.
        environment |= {"OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "encoding": "utf-8"}
        self._server = subprocess.Popen([sys.executable, __file__], env=environment, **pipes)  # type: ignore[call-overload]
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._server.stdin.close()
        self._server.wait()
        self._server.stdout.close()

    def run(self, folder: Path, *words: str) -> Done:
        with tempfile.TemporaryDirectory() as outside:
            self._server.stdin.write(json.dumps({"folder": str(folder), "words": words, "output": outside}) + "\n")
            self._server.stdin.flush()
            code = json.loads(self._server.stdout.readline())
            return Done(code, *(Path(outside, name).read_text(encoding="utf-8") for name in ("out", "err")))


def serve() -> None:
    """Fork for each line of stdin; answer each with an exit code."""
    prepare()
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            become(**request)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def prepare() -> None:
    """Import what the commands import, and read the code's identity, which is the same for all of them."""
    import importlib

    for module in PREPARED:
        importlib.import_module(module)
    from vlm_spatial.stages.registry import STAGES
    from vlm_spatial.workflow.code_identity import stage_identity

    for stage in STAGES:
        stage_identity(stage)


def become(folder: str, words: list[str], output: str) -> NoReturn:
    """Be the command, until its end."""
    os.chdir(folder)
    for descriptor, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(Path(output, name), os.O_WRONLY | os.O_CREAT), descriptor)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.argv = words
    run_and_end(lambda: run(words))


def run(words: list[str]) -> None:
    import runpy

    import snakemake.cli

    from vlm_spatial.cli import app

    match words:
        case ["snakemake", *arguments]:
            snakemake.cli.main(["--snakefile", str(REPOSITORY / "Snakefile"), *arguments])
        case ["vlm-spatial", *arguments]:
            app(arguments)
        case ["python", "-m", module, *arguments]:
            sys.argv = [module, *arguments]
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        case _:
            raise ValueError(f"{words}: not a command that can be run quickly")


if __name__ == "__main__":
    serve()
