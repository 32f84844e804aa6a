"""Workers as processes of this machine, each with threads of its own."""

import os
import selectors
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO

from secateur.execution.pool import Answer, Answered, Batch, Event, Lost, Opening, Ready

# What libraries read when they begin: a worker that takes all cores waits for the others.
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
# Bytes of what a worker printed that may be quoted.
QUOTED = 4_096


@dataclass
class _Worker:
    process: "subprocess.Popen[bytes]"
    printed: IO[bytes]
    unread: bytes = b""
    ready: bool = False
    stopped: str = ""


class ProcessPool:
    """So many worker processes; one that ends is followed by another."""

    def __init__(self, opening: Opening, count: int, threads: int) -> None:
        """Start them; they become ready one after the other."""
        self._opening, self._threads, self._started = opening, threads, 0
        self._selector = selectors.DefaultSelector()
        self._workers: dict[str, _Worker] = {}
        for _ in range(count):
            self._start()

    def _start(self) -> None:
        self._started += 1
        name = f"process {self._started}"
        printed = tempfile.TemporaryFile()  # noqa: SIM115  as long as the worker
        process = subprocess.Popen(
            [sys.executable, "-m", "secateur.execution.worker", self._opening.model_dump_json()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=printed,
            env=os.environ | dict.fromkeys(THREADS, str(self._threads)),
        )
        self._workers[name] = _Worker(process, printed)
        assert process.stdout is not None, "asked for above"
        os.set_blocking(process.stdout.fileno(), False)
        self._selector.register(process.stdout, selectors.EVENT_READ, name)

    def poll(self, seconds: float) -> Sequence[Event]:
        events: list[Event] = []
        for key, _ in self._selector.select(seconds):
            name = key.data
            worker = self._workers[name]
            assert worker.process.stdout is not None, "asked for when it was started"
            read = worker.process.stdout.read() or b""
            if not read:
                events.append(self._gone(name))
                continue
            *lines, worker.unread = (worker.unread + read).split(b"\n")
            for line in lines:
                text = line.decode()
                if worker.ready:
                    events.append(Answered(name, Answer.model_validate_json(text)))
                else:
                    worker.ready = True
                    events.append(Ready(name, text))
        return events

    def _gone(self, name: str) -> Lost:
        """Take leave of a worker, and start another."""
        worker = self._workers.pop(name)
        stream = worker.process.stdout
        assert stream is not None, "asked for when it was started"
        self._selector.unregister(stream)
        code = worker.process.wait()
        reason = worker.stopped or _reason(code, worker.printed)
        self._end(worker)
        self._start()
        return Lost(name, reason, worker.ready)

    def send(self, worker: str, batch: Batch) -> None:
        stream = self._workers[worker].process.stdin
        assert stream is not None, "asked for when it was started"
        try:
            stream.write(batch.model_dump_json().encode() + b"\n")
            stream.flush()
        except BrokenPipeError:
            # Its output has ended too, which the next poll sees.
            return

    def stop(self, worker: str, reason: str) -> None:
        self._workers[worker].stopped = reason
        self._workers[worker].process.kill()

    def close(self) -> None:
        for worker in self._workers.values():
            worker.process.kill()
            worker.process.wait()
            self._end(worker)
        self._workers.clear()
        self._selector.close()

    @property
    def process_ids(self) -> dict[str, int]:
        """Give the ids of the worker processes, by name."""
        return {name: worker.process.pid for name, worker in self._workers.items()}

    @staticmethod
    def _end(worker: _Worker) -> None:
        for stream in (worker.process.stdin, worker.process.stdout, worker.printed):
            assert stream is not None, "asked for when it was started"
            try:
                stream.close()
            except BrokenPipeError:
                continue


def _reason(code: int, printed: IO[bytes]) -> str:
    """Say why a process ended: by which signal, or with which last words."""
    if code < 0:
        killed = f"ended by {signal.Signals(-code).name}"
        return f"{killed} (out of memory, perhaps)" if -code == signal.SIGKILL else killed
    size = printed.seek(0, os.SEEK_END)
    printed.seek(max(0, size - QUOTED))
    lines = printed.read().decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else f"ended with exit code {code}"
