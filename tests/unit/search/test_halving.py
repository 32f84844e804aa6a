import random

import pytest

from secateur.search.halving import Rung, halve, rungs, work


class TestRungs:
    def test_halve_the_field_at_each_step(self):
        steps = rungs(16, 64, 4)
        assert [(step.batches, step.survivors) for step in steps] == [
            (range(2), 32),
            (range(2, 4), 16),
            (range(4, 8), 8),
            (range(8, 16), 4),
        ]
        assert work(steps, 64) == 20

    @pytest.mark.parametrize("num_batches", [1, 2, 3, 5, 8, 33])
    @pytest.mark.parametrize(("num_candidates", "num_survivors"), [(64, 4), (9, 8), (30, 1), (5, 2)])
    def test_run_every_batch_once_and_lose_some_at_each_step(self, num_batches, num_candidates, num_survivors):
        steps = rungs(num_batches, num_candidates, num_survivors)
        assert [batch for step in steps for batch in step.batches] == list(range(num_batches))
        counts = [num_candidates, *(step.survivors for step in steps)]
        assert counts == sorted(counts, reverse=True)
        assert counts[-1] == num_survivors
        assert work(steps, num_candidates) <= num_candidates

    def test_have_one_step_where_all_survive(self):
        assert rungs(8, 3, 3) == [Rung(range(8), 3)]
        assert work(rungs(8, 3, 3), 3) == 3


class TestHalve:
    def test_gives_the_best_of_all_where_few_batches_tell_what_all_do(self):
        losses = random.Random(0).sample(range(64), 64)
        left = halve(64, rungs(8, 64, 4), lambda there, _: [losses[number] for number in there])
        assert [losses[number] for number in left] == [0, 1, 2, 3]

    def test_compares_those_who_are_there_on_the_same_batches(self):
        asked = []

        def score(there, step):
            asked.append((len(there), step.batches.stop))
            return [-float(number) for number in there]

        assert halve(16, rungs(8, 16, 2), score) == [15, 14]
        assert asked == [(16, 1), (10, 2), (6, 4), (3, 8)]

    def test_what_is_no_number_goes_first(self):
        left = halve(4, rungs(1, 4, 2), lambda there, _: [float("nan") if number == 0 else 1.0 for number in there])
        assert left == [1, 2]
