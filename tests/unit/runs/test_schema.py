import pytest
from pydantic import ValidationError

from secateur.schema import Record, canonical_json, derive_seed, digest


class Point(Record):
    x: int
    y: int = 0


def test_records_refuse_what_they_do_not_know_and_never_change():
    with pytest.raises(ValidationError, match="z"):
        Point(x=1, z=2)
    with pytest.raises(ValidationError, match="frozen"):
        Point(x=1).x = 2


def test_equal_values_give_equal_text():
    assert canonical_json({"b": 1, "a": [1, 2]}) == canonical_json({"a": [1, 2], "b": 1}) == '{"a":[1,2],"b":1}'
    assert digest({"b": 1, "a": 2}) == digest({"a": 2, "b": 1})


def test_digests_are_the_same_in_every_process():
    assert digest([4, 48]) == "6fcd31775b5b9716"


def test_seeds_depend_on_the_run_and_on_the_use():
    seeds = {derive_seed(run, *parts) for run in (0, 1) for parts in (("a",), ("b",), ("a", 1), ("a", 2))}
    assert len(seeds) == 8
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert derive_seed(7, "fit", 3) == derive_seed(7, "fit", 3)
