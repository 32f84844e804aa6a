import pytest

from secateur.errors import RunFolderError
from secateur.runs.store import RunStore


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.db"


@pytest.fixture
def store(path):
    with RunStore(path) as opened:
        yield opened


def test_stages_come_back_in_the_order_in_which_they_ended(store):
    assert store.stage("search") is None
    for name in ("load", "calibrate", "search"):
        store.end_stage(name, 1.5, {"of": name, "nested": [1, None]})
    assert [row.name for row in store.stages()] == ["load", "calibrate", "search"]
    row = store.stage("calibrate")
    assert (row.seconds, row.payload) == (1.5, {"of": "calibrate", "nested": [1, None]})


def test_a_stage_that_ends_again_replaces_what_it_left(store):
    store.end_stage("prune", 1.0, "first")
    store.end_stage("prune", 2.0, "second")
    assert [(row.seconds, row.payload) for row in store.stages()] == [(2.0, "second")]


def test_candidates_come_back_in_the_order_of_proposal(store):
    store.add_candidates([("c", 1, "third"), ("d", 1, "fourth")])
    store.add_candidates([("b", 0, "first"), ("a", 0, "second")])
    assert store.candidates() == ["first", "second", "third", "fourth"]


def test_proposing_again_changes_nothing(store):
    batch = [("b", 0, "first"), ("a", 0, "second")]
    store.add_candidates(batch)
    store.add_candidates(batch)
    store.add_candidates([("a", 1, "another origin"), ("c", 1, "third")])
    assert store.candidates() == ["first", "second", "third"]


def test_a_batch_is_stored_whole_or_not_at_all(store):
    unwritable = "\ud800"
    with pytest.raises(UnicodeEncodeError):
        store.add_candidates([("a", 0, "fine"), ("b", 0, unwritable)])
    assert store.candidates() == []
    store.add_candidates([("a", 0, "fine")])
    assert store.candidates() == ["fine"]


def test_measurements_belong_to_one_protocol(store):
    store.add_measurement("a", "p", "one")
    store.add_measurement("b", "p", "two")
    store.add_measurement("a", "q", "other protocol")
    assert store.measurements_of(["a"], "p") == {"a": "one"}
    assert store.measurements_of(["b", "a"], "q") == {"a": "other protocol"}
    assert store.measurements("p") == ["one", "two"]
    assert store.all_measurements() == ["one", "two", "other protocol"]


def test_everything_survives_reopening(path):
    with RunStore(path) as store:
        store.end_stage("load", 0.5, {"model": "abc"})
        store.add_candidates([("a", 0, "candidate")])
        store.add_measurement("a", "p", "measurement")
    with RunStore(path) as again:
        assert again.stage("load").payload == {"model": "abc"}
        assert again.candidates() == ["candidate"]
        assert again.measurements_of(["a"], "p") == {"a": "measurement"}


def test_what_was_written_is_there_for_another_reader_at_once(path, store):
    """As after a kill: nothing is held back in the process that writes."""
    store.add_candidates([("a", 0, "candidate")])
    store.add_measurement("a", "p", "measurement")
    with RunStore(path) as other:
        assert other.measurements_of(["a"], "p") == {"a": "measurement"}


def test_a_file_that_is_no_database_is_refused(path):
    path.write_text("this is a text file, and long enough not to be taken for an empty database" * 20)
    with pytest.raises(RunFolderError, match=r"is not a run database .*choose another --out folder"):
        RunStore(path)


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(RunFolderError, match="is not a run database"):
        RunStore(tmp_path)
