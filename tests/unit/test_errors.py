import inspect

import pytest

from secateur import errors
from secateur.errors import InputError, SecateurError, suggestion

ALL = [value for value in vars(errors).values() if inspect.isclass(value) and issubclass(value, Exception)]


@pytest.mark.parametrize("error", ALL)
def test_what_was_asked_wrongly_exits_with_2_and_what_failed_with_1(error):
    assert issubclass(error, SecateurError)
    assert error.exit_code == (2 if issubclass(error, InputError) else 1)


def test_the_tree_at_the_top_of_the_file_is_complete():
    assert all(error.__name__ in errors.__doc__ for error in ALL)


def test_a_near_miss_is_suggested():
    assert suggestion("wandas", ["taylor", "wanda"]) == "known: taylor, wanda; did you mean 'wanda'?"


def test_nothing_is_suggested_where_nothing_is_near():
    assert suggestion("zzz", ["taylor", "wanda"]) == "known: taylor, wanda"
