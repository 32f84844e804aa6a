import os
import subprocess
import sys

import pytest


def settled(**environment):
    """What a process that was started with these variables says after it has settled."""
    code = (
        "import os, ctypes\n"
        "from secateur.machine import settle_process\n"
        "called = []\n"
        "class Library:\n"
        "    mallopt = staticmethod(lambda *a: called.append(a))\n"
        "ctypes.CDLL = lambda _: Library\n"
        "settle_process()\n"
        "print(os.environ['OMP_WAIT_POLICY'], os.environ['GOMP_SPINCOUNT'], len(called))"
    )
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_W", "GOMP", "MALLOC"))}
    return subprocess.check_output([sys.executable, "-c", code], env=kept | environment, text=True).split()


def test_threads_wait_a_moment_and_then_sleep_and_memory_stays():
    assert settled() == ["PASSIVE", "2000", "2"]


@pytest.mark.parametrize("name", ["MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"])
def test_what_the_user_has_set_stays(name):
    assert settled(OMP_WAIT_POLICY="ACTIVE", GOMP_SPINCOUNT="7", **{name: "131072"}) == ["ACTIVE", "7", "0"]
