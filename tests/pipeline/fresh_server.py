"""Exports are checked in a process that never imported Secateur, without six seconds of imports for each of them.

Run as a script it is such a process: it imports what the check imports, and forks for every request on its standard
input. The run of `finished` and tests/equivalence check exports in processes of their own, as users' runs do.
"""

import json
import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

PRELOADED = (
    "torch",
    "safetensors.torch",
    "transformers",
    "transformers.models.auto.tokenization_auto",
    "transformers.models.llama.modeling_llama",
)


class FreshServer:
    """Answers what `secateur.export.verify.run_check` asks, by forks of one process."""

    def __init__(self, check: Path) -> None:
        self.check = check
        self.modules = tempfile.mkdtemp(prefix="secateur-fresh-modules-")
        self.process: subprocess.Popen[str] | None = None

    def run_check(self, arguments: list[str], scratch: str) -> subprocess.CompletedProcess[str]:
        if self.process is None:
            self.process = subprocess.Popen(
                [sys.executable, "-I", __file__, str(self.check)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=os.environ | {"HF_MODULES_CACHE": self.modules},
            )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        out, err = Path(scratch) / "stdout", Path(scratch) / "stderr"
        self.process.stdin.write(json.dumps([str(Path.cwd()), str(out), str(err), arguments]) + "\n")
        self.process.stdin.flush()
        code = int(self.process.stdout.readline())
        return subprocess.CompletedProcess(arguments, code, out.read_text(), err.read_text())

    def close(self) -> None:
        if self.process is not None:
            self.process.communicate()


def serve(check: str) -> None:
    for name in PRELOADED:
        __import__(name)
    for line in sys.stdin:
        folder, out, err, arguments = json.loads(line)
        child = os.fork()
        if child == 0:
            # Paths may be relative to where the caller is.
            os.chdir(folder)
            _run(check, arguments, out, err)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def _run(check: str, arguments: list[str], out: str, err: str) -> Any:
    """Run the check as the script it is, and end this process."""
    for path, descriptor in ((out, 1), (err, 2)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), descriptor)
    code = 1
    try:
        sys.argv = [check, *arguments]
        runpy.run_path(check, run_name="__main__")
        code = 0
    finally:
        if code:
            sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    serve(sys.argv[1])
