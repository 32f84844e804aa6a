"""The run folder: where things are, who holds it, and files that appear whole or not at all."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from secateur.errors import RunFolderError


class RunFolder:
    """Paths inside one run folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def config(self) -> Path:
        return self.root / "config.yaml"

    @property
    def database(self) -> Path:
        return self.root / "run.db"

    @property
    def bank(self) -> Path:
        return self.root / "bank"

    @property
    def uniform_bank(self) -> Path:
        return self.root / "uniform-bank"

    @property
    def calibration(self) -> Path:
        """What a calibration that is under way has put aside."""
        return self.root / "calibration"

    @property
    def recovery(self) -> Path:
        """What a recovery that is under way has put aside."""
        return self.root / "recovery"

    @property
    def front_recovery(self) -> Path:
        """One recovery for all points of the front: what is under way, and what it came to."""
        return self.root / "recovery-front"

    @property
    def report(self) -> Path:
        return self.root / "report.json"

    @property
    def page(self) -> Path:
        return self.root / "report.html"

    @property
    def front(self) -> Path:
        return self.root / "front.json"

    @property
    def exported(self) -> Path:
        return self.root / "exported"

    @property
    def scratch(self) -> Path:
        """Folder for files without a name, on the run's file system; there before the run's own is."""
        return next(path for path in (self.root.absolute(), *self.root.absolute().parents) if path.is_dir())

    @property
    def holds_a_run(self) -> bool:
        return self.config.is_file()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the folder for one process.

        Raises:
            RunFolderError: Another process holds it; the message names it.
        """
        with (self.root / ".lock").open("a+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                lock.seek(0)
                raise RunFolderError(
                    f"{self.root} is in use by process {lock.read().strip() or 'unknown'}; wait for it or end it"
                ) from error
            lock.truncate(0)
            lock.write(str(os.getpid()))
            lock.flush()
            yield


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`, and move it there once the block has ended without an exception.

    Works for files and folders; a folder that was there before is replaced.
    """
    partial = path.with_name(f".{path.name}.partial")
    remove(partial)
    try:
        yield partial
    except BaseException:
        remove(partial)
        raise
    _give_usual_permissions(partial)
    if path.is_dir():
        remove(path)
    partial.replace(path)


def _give_usual_permissions(path: Path) -> None:
    """Let the umask decide who may read: safetensors writes files that only their owner can."""
    umask = os.umask(0)
    os.umask(umask)
    for file in path.rglob("*") if path.is_dir() else [path]:
        file.chmod((0o777 if file.is_dir() else 0o666) & ~umask)


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
