"""Orders and scores against brute force."""

import itertools

import pytest
import torch

from secateur.pruning.importance import (
    damped,
    fisher_scores,
    fluctuation_scores,
    greedy_elimination_order,
    magnitude_scores,
    matrix_square_root,
    order_by_scores,
    taylor_scores,
    taylor_vector_scores,
    wanda_scores,
)

RIDGE = 1e-2


def random_problem(seed, num_groups=6, size=2, hidden=5):
    """Correlated inputs X, an output weight W [hidden, columns] and a metric M."""
    generator = torch.Generator().manual_seed(seed)
    columns = num_groups * size
    x = torch.randn(200, columns, generator=generator) @ torch.randn(columns, columns, generator=generator)
    g = torch.randn(50, hidden, generator=generator) * torch.linspace(0.1, 3, hidden)
    return x.T @ x / len(x), torch.randn(hidden, columns, generator=generator), g.T @ g / len(g)


def error_after_refit(gram, weight, moment, kept):
    """Least error tr(M D^T H D) of any D = W - W', where W' may differ from zero in the kept columns only."""
    original = weight.double().T
    solution = torch.zeros_like(original)
    if kept:
        solution[kept] = torch.linalg.solve(gram[kept][:, kept], gram[kept] @ original)
    difference = original - solution
    return float(torch.trace(moment.double() @ difference.T @ gram @ difference))


def columns_of(groups, size):
    return [group * size + offset for group in groups for offset in range(size)]


@pytest.mark.parametrize("seed", range(5))
def test_greedy_elimination_removes_what_a_fresh_least_squares_fit_says_is_cheapest(seed):
    size, num_groups = 2, 6
    gram, weight, moment = random_problem(seed, num_groups, size)
    left, removed = list(range(num_groups)), []
    while left:
        costs = {
            group: error_after_refit(
                damped(gram, RIDGE), weight, moment, columns_of([g for g in left if g != group], size)
            )
            for group in left
        }
        cheapest = min(costs, key=costs.get)
        left.remove(cheapest)
        removed.append(cheapest)
    assert greedy_elimination_order(gram, weight, moment, num_groups, RIDGE).tolist() == removed[::-1]


def test_greedy_elimination_is_close_to_the_best_subset():
    """Greedy needs not be optimal, but on a problem this small it is never far off."""
    gram, weight, moment = random_problem(seed=1, num_groups=6, size=1)
    order = greedy_elimination_order(gram, weight, moment, 6, RIDGE).tolist()
    matrix = damped(gram, RIDGE)
    best = min(error_after_refit(matrix, weight, moment, list(kept)) for kept in itertools.combinations(range(6), 3))
    assert error_after_refit(matrix, weight, moment, order[:3]) <= 1.5 * best


def test_the_metric_decides_what_goes():
    """Group 0 writes to an output that no label depends on; in the metric M it goes first, however large it is."""
    gram, weight = torch.eye(3), torch.tensor([[9.0, 0.0, 0.0], [0.0, 0.5, 1.0]])
    moment = torch.diag(torch.tensor([0.0, 1.0]))
    assert greedy_elimination_order(gram, weight, moment, 3, RIDGE).tolist() == [2, 1, 0]
    assert greedy_elimination_order(gram, weight, torch.eye(2), 3, RIDGE).tolist() == [0, 2, 1]


@pytest.mark.parametrize("max_rounds", [1, 2, 4, 5])
def test_several_groups_a_round_go_in_the_order_of_that_rounds_errors(max_rounds):
    num_groups = 10
    gram, weight, moment = random_problem(3, num_groups, size=1)
    per_round = -(-num_groups // max_rounds)
    matrix = damped(gram, RIDGE)
    left, removed = list(range(num_groups)), []
    while left:
        costs = {g: error_after_refit(matrix, weight, moment, [other for other in left if other != g]) for g in left}
        chosen = sorted(left, key=costs.get)[:per_round]
        removed += chosen
        left = [group for group in left if group not in chosen]
    order = greedy_elimination_order(gram, weight, moment, num_groups, RIDGE, max_rounds=max_rounds)
    assert order.tolist() == removed[::-1]


def test_an_input_that_is_always_zero_goes_first_and_breaks_nothing():
    gram, weight, moment = random_problem(0, num_groups=4, size=1)
    gram[2], gram[:, 2] = 0, 0
    assert greedy_elimination_order(gram, weight, moment, 4, RIDGE).tolist()[-1] == 2
    order = greedy_elimination_order(torch.zeros(4, 4), weight, moment, 4, RIDGE)
    assert sorted(order.tolist()) == [0, 1, 2, 3]


def test_taylor_scores_are_sums_over_all_entries_of_a_group():
    generator = torch.Generator().manual_seed(0)
    into, out = torch.randn(2, 6, 5, generator=generator), torch.randn(2, 4, 6, generator=generator)
    expected = []
    for group in range(3):
        total = 0.0
        for channel in (2 * group, 2 * group + 1):
            total += sum(abs(float(into[0, channel, i] * into[1, channel, i])) for i in range(5))
            total += sum(abs(float(out[0, i, channel] * out[1, i, channel])) for i in range(4))
        expected.append(total)
    scores = taylor_scores([(into[0], into[1], 0), (out[0], out[1], 1)], 3)
    torch.testing.assert_close(scores, torch.tensor(expected))


def test_taylor_scores_take_tensors_of_different_height():
    """With grouped queries, the query projection is higher than key and value projections."""
    query, key = torch.ones(2, 8, 3), torch.ones(2, 4, 3)
    assert taylor_scores([(query[0], query[1], 0), (key[0], key[1], 0)], 2).tolist() == [18.0, 18.0]


def test_wanda_scores_are_norms_of_what_the_columns_add():
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(4, 6, generator=generator)
    square_mean = torch.rand(6, generator=generator)
    expected = [
        sum(float(weight[row, column] ** 2 * square_mean[column]) for row in range(4) for column in (2 * g, 2 * g + 1))
        ** 0.5
        for g in range(3)
    ]
    torch.testing.assert_close(wanda_scores(weight, square_mean, 3), torch.tensor(expected))


def test_vector_scores_let_entries_of_a_row_cancel_but_not_rows():
    weight, gradient = torch.tensor([[1.0, 1.0], [2.0, 0.0]]), torch.tensor([[3.0, -3.0], [1.0, 1.0]])
    assert taylor_vector_scores([(weight, gradient, 0)], 1).tolist() == [2.0]
    assert taylor_scores([(weight, gradient, 0)], 1).tolist() == [8.0]


def test_fisher_scores_are_squares_of_weights_times_summed_squares_of_gradients():
    """w F w with a diagonal F, over all entries of a group: rows of one tensor and columns of another."""
    into, into_squares = torch.tensor([[1.0, -2.0], [3.0, 0.0]]), torch.tensor([[0.5, 1.0], [2.0, 9.0]])
    out, out_squares = torch.tensor([[2.0, -1.0]]), torch.tensor([[1.0, 3.0]])
    scores = fisher_scores([(into, into_squares, 0), (out, out_squares, 1)], 2)
    assert scores.tolist() == [1 * 0.5 + 4 * 1.0 + 4 * 1.0, 9 * 2.0 + 0 + 1 * 3.0]


@pytest.mark.parametrize("factor", [1e-3, 50.0])
def test_fluctuation_scores_do_not_depend_on_the_scale_of_a_module(factor):
    """They are compared across modules, whose activations and weights differ in size."""
    inputs = torch.randn(80, 12, generator=torch.Generator().manual_seed(1)) * torch.linspace(0.2, 3, 12) + 1
    weight = torch.randn(4, 12, generator=torch.Generator().manual_seed(2))
    for num_groups in (12, 3):
        plain = fluctuation_scores(weight, inputs.square().mean(0), inputs.mean(0), num_groups)
        x, w = factor * inputs, weight / factor**0.5
        scaled = fluctuation_scores(w, x.square().mean(0), x.mean(0), num_groups)
        torch.testing.assert_close(scaled, plain, atol=1e-3, rtol=1e-3)
        assert float(plain.mean()) == pytest.approx(0, abs=1e-5)


def test_fluctuation_scores_of_a_module_that_never_varies_are_no_trouble():
    constant = torch.full((6,), 2.0)
    assert fluctuation_scores(torch.ones(3, 6), constant.square(), constant, 6).tolist() == [0.0] * 6
    assert fluctuation_scores(torch.ones(3, 1), torch.ones(1), torch.zeros(1), 1).tolist() == [0.0]


@pytest.mark.parametrize(("power", "expected"), [(1, [3 + 5.0, 7 + 3.0]), (2, [5 + 13.0, 25 + 9.0])])
def test_magnitudes_add_up_over_all_tensors_of_a_group(power, expected):
    into, out = torch.tensor([[1.0, -2.0], [3.0, 4.0]]), torch.tensor([[2.0, 0.0], [-3.0, 3.0]])
    assert magnitude_scores([(into, 0), (out, 1)], 2, power).tolist() == expected


def test_fluctuation_scores_ignore_what_is_constant():
    """The second channel is large and always the same; the third varies a little."""
    inputs = torch.tensor([[0.0, 9.0, 1.0], [2.0, 9.0, 1.5]])
    weight = torch.tensor([[1.0, 5.0, 2.0], [0.0, 5.0, 2.0]])
    scores = fluctuation_scores(weight, inputs.square().mean(0), inputs.mean(0), 3)
    plain = torch.tensor([1.0, 0.0, 0.0625 * 8])  # variance times squared norm
    torch.testing.assert_close(scores, (plain - plain.mean()) / plain.std())
    assert order_by_scores(scores).tolist() == [0, 2, 1]
    assert wanda_scores(weight, inputs.square().mean(0), 3).argmax() == 1


def test_fluctuation_scores_of_a_head_are_the_mean_of_its_standardised_squares():
    inputs = torch.randn(50, 6, generator=torch.Generator().manual_seed(0)) * torch.arange(1.0, 7.0)
    weight = torch.ones(2, 6)
    squares = (2 * inputs.var(0, unbiased=False)).square()
    expected = ((squares - squares.mean()) / squares.std()).view(3, 2).mean(1)
    scores = fluctuation_scores(weight, inputs.square().mean(0), inputs.mean(0), 3)
    torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-5)


def test_higher_scores_stay_longer_and_equal_ones_keep_their_place():
    assert order_by_scores(torch.tensor([1.0, 3.0, 1.0, 2.0])).tolist() == [1, 3, 0, 2]


def test_the_square_root_squares_to_the_moment():
    _, _, moment = random_problem(0)
    root = matrix_square_root(moment)
    torch.testing.assert_close(root @ root.T, moment.double(), atol=1e-5, rtol=1e-5)


def test_damping_is_a_share_of_the_mean_diagonal():
    gram = torch.diag(torch.tensor([1.0, 3.0]))
    torch.testing.assert_close(damped(gram, 0.5), torch.diag(torch.tensor([2.0, 4.0], dtype=torch.float64)))
