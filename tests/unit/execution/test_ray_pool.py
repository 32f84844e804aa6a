"""The same on Ray: actors of a cluster that is started here, killed and followed by others."""

import os
import textwrap

import pytest
from squares import WORK, right, squares

from secateur.errors import ExecutionError
from secateur.execution.pool import Opening
from secateur.execution.ray_pool import RayPool
from secateur.execution.settings import Execution
from secateur.execution.supervisor import Supervisor

pytestmark = pytest.mark.slow
ray = pytest.importorskip("ray", reason="needs the extra: ray")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A cluster of one node with three processors, whose workers can import the work of these tests."""
    folder = tmp_path_factory.mktemp("modules")
    (folder / "work_on_ray.py").write_text(textwrap.dedent(WORK))
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
        patched.setenv("RAY_USAGE_STATS_ENABLED", "0")
        ray.init(num_cpus=3, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        yield
        ray.shutdown()


@pytest.fixture
def supervise(cluster, tmp_path):
    begun = []

    def begin(workers: int = 2, function: str = "open_work", **settings) -> Supervisor:
        opening = Opening(module="work_on_ray", function=function, argument=str(tmp_path))
        begun.append(RayPool(opening, Execution(executor="ray", workers=workers)))
        return Supervisor(begun[-1], **({"batch_items": 4} | settings))

    yield begin
    for pool in begun:
        pool.close()


def test_actors_that_are_killed_lose_nothing(supervise):
    items = [1, 2, 3, 4, 5, 6, 7, *range(20, 60)]
    supervisor = supervise()
    assert squares(supervisor, items) == right(items)
    assert supervisor.faults.lost == 1


def test_an_actor_that_hangs_is_ended_after_the_limit(supervise):
    items = [1, 2, 8, 10]
    supervisor = supervise(batch_seconds=2.0)
    assert squares(supervisor, items) == right(items)
    assert supervisor.faults.hung == 1


def test_there_are_as_many_actors_as_there_is_room_for(supervise):
    supervisor = supervise(workers=0)
    assert squares(supervisor, list(range(20, 30))) == right(range(20, 30))
    assert supervisor.pool._wanted == 3


def test_actors_that_cannot_begin_are_an_error_with_their_last_words(supervise):
    with pytest.raises(ExecutionError, match=r"3 workers in a row"):
        squares(supervise(function="open_nothing"), [1])
