"""Work given to real worker processes: whatever happens to them, every item has one result, and the right one."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from squares import WORK, right, squares

from secateur.errors import ExecutionError
from secateur.execution.pool import Opening
from secateur.execution.processes import ProcessPool
from secateur.execution.supervisor import Supervisor, batch_size


@pytest.fixture
def supervise(tmp_path, monkeypatch):
    (tmp_path / "work_of_tests.py").write_text(textwrap.dedent(WORK))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    begun = []

    def begin(count: int = 2, function: str = "open_work", **settings) -> Supervisor:
        pool = ProcessPool(Opening(module="work_of_tests", function=function, argument=str(tmp_path)), count, 1)
        begun.append(pool)
        return Supervisor(pool, **({"batch_items": 4} | settings))

    yield begin
    for pool in begun:
        pool.close()


def test_every_item_has_its_result_whoever_did_it(supervise):
    items = list(range(20, 60))
    supervisor = supervise()
    assert squares(supervisor, items) == right(items)
    # The same workers do what comes next.
    assert squares(supervisor, items[:3]) == right(items[:3])
    assert supervisor.faults.lost == 0


@given(count=st.integers(0, 500), most=st.integers(1, 64), workers=st.integers(1, 2_000))
def test_batches_become_smaller_so_that_none_is_waited_for_long(count: int, most: int, workers: int) -> None:
    sizes: list[int] = []
    while sum(sizes) < count:
        sizes.append(batch_size(count - sum(sizes), most, workers))
    assert sum(sizes) == count
    assert all(1 <= size <= most for size in sizes)
    if workers == 1:
        assert len(sizes) == -(-count // most), "nobody else is waited for"
        return
    assert sizes == sorted(sizes, reverse=True)
    for place, size in enumerate(sizes):
        assert size <= max(1, -(-sum(sizes[place:]) // (2 * workers))), "half of a fair share of what is left"


def test_a_worker_that_is_killed_in_the_middle_loses_nothing(supervise):
    items = [1, 2, 3, 4, 5, 6, 7, 10, 11, 12]
    supervisor = supervise()
    assert squares(supervisor, items) == right(items)
    assert supervisor.faults.lost == 1
    assert supervisor.faults.given_up == 0


def test_all_workers_killed_from_outside_are_followed_by_others(supervise):
    supervisor = supervise()
    items = list(range(20, 220))

    def kill_all() -> None:
        time.sleep(0.7)
        for process in list(supervisor.pool.process_ids.values()):
            os.kill(process, signal.SIGKILL)

    killer = threading.Thread(target=kill_all)
    killer.start()
    assert squares(supervisor, items) == right(items)
    killer.join()
    assert supervisor.faults.lost >= 1


def test_what_is_late_comes_with_the_next(supervise):
    """Nobody waits for the last of a round: what it gives is there with the next one, and in the end there is all."""
    supervisor = supervise(batch_items=1)
    # Eight takes a minute the first time: it is not waited for.
    supervisor.batch_seconds = 3.0
    first = squares(supervisor, [10, 8, 11, 12], share=0.5)
    assert len(first) in (2, 3)
    assert 8 not in first
    second = squares(supervisor, [20, 21], share=0.5)
    assert second.keys().isdisjoint(first)
    rest = squares(supervisor, [])
    assert first | second | rest == right([10, 8, 11, 12, 20, 21])
    assert supervisor.faults.hung == 1


def test_a_worker_that_hangs_is_ended_after_the_limit(supervise):
    items = [1, 2, 8, 10]
    supervisor = supervise(batch_seconds=1.0)
    assert squares(supervisor, items) == right(items)
    assert supervisor.faults.hung == 1


def test_a_batch_that_does_not_fit_in_memory_is_halved(supervise):
    items = [1, 2, 3, 4, 5, 6]
    supervisor = supervise(1)
    assert squares(supervisor, items, "wide") == right(items)
    assert supervisor.faults.split >= 1
    assert supervisor.faults.lost == 0


def test_an_item_that_takes_every_worker_with_it_fails_alone(supervise):
    supervisor = supervise()
    found = squares(supervisor, [1, 2, 13, 3, 4])
    assert found.pop(13).startswith("failed: ended by SIGKILL")
    assert found == right([1, 2, 3, 4])
    assert supervisor.faults.given_up == 1


def test_an_item_that_is_refused_fails_alone_and_its_worker_goes_on(supervise):
    supervisor = supervise(1)
    found = squares(supervisor, [1, 9, 2])
    assert found.pop(9) == "failed: ValueError: nine is refused"
    assert found == right([1, 2])
    assert supervisor.faults.lost == 0


def test_workers_that_cannot_begin_are_an_error_with_their_last_words(supervise):
    with pytest.raises(ExecutionError, match=r"3 workers in a row .*: the model is not here; .*secateur resume"):
        squares(supervise(function="open_nothing"), [1])


def test_workers_that_see_something_else_are_refused(supervise):
    with pytest.raises(ExecutionError, match=r"sees something else than this process: process \d+, expected numbers"):
        squares(supervise(function="open_other", expected="numbers"), [1])


def test_workers_end_with_the_process_that_asks(tmp_path, monkeypatch):
    (tmp_path / "work_of_tests.py").write_text(textwrap.dedent(WORK))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    asks = f"""
        import json, time
        from secateur.execution.pool import Opening
        from secateur.execution.processes import ProcessPool
        opening = Opening(module="work_of_tests", function="open_work", argument={str(tmp_path)!r})
        pool = ProcessPool(opening, 2, 1)
        print(json.dumps(list(pool.process_ids.values())), flush=True)
        time.sleep(60)
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(asks)], stdout=subprocess.PIPE, text=True)
    workers = json.loads(process.stdout.readline())
    process.kill()
    process.wait()
    process.stdout.close()
    for _ in range(100):
        if not any(map(is_there, workers)):
            break
        time.sleep(0.1)
    assert not any(map(is_there, workers))


def is_there(process: int) -> bool:
    return Path(f"/proc/{process}").exists()
