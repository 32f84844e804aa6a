"""Soups: one model whose weights are the mean of several recoveries of the same pruned model."""

from collections.abc import Callable, Iterable, Sequence
from math import isfinite

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from secateur.errors import ModelError
from secateur.schema import Record

# Gives the selection loss of the mean of some ingredients, which are named by their places.
Taste = Callable[[tuple[int, ...]], float]


class Tasting(Record):
    """A soup that was tried, and what the selection set said of it."""

    members: tuple[int, ...] = Field(description="ingredients, as places in their list")
    loss: float = Field(description="on the selection set, nats per token")
    kept: bool = Field(description="no worse than the soup before it")


def mean_of(tensors: Iterable[Float[Tensor, "..."]]) -> Float[Tensor, "..."]:
    """Average tensors of one shape, in float64: one is read at a time, and who stores the mean rounds it once.

    Of merged weights W + s_i B_i A_i the mean is W + mean(s_i B_i A_i). Averaging A and B by themselves gives something
    else, products B_i A_j of changes that were never trained together among it.

    Raises:
        ValueError: There is none.
    """
    total: Tensor | None = None
    count = 0
    for tensor in tensors:
        total = tensor.to(torch.float64, copy=True) if total is None else total.add_(tensor)
        count += 1
    if total is None:
        raise ValueError("expected at least one tensor to average, got none")
    return total.div_(count)


def greedy(losses: Sequence[float], taste: Taste) -> tuple[Tasting, ...]:
    """Add ingredients, best first, each where the soup with it is no worse on the selection set.

    So the last soup that was kept is the best of all that were, and never worse there than the best ingredient.

    Args:
        losses: Of the ingredients by themselves, on the selection set. One that is not finite never goes in.

    Returns:
        All soups that were tried, in order; the first is the best ingredient alone.

    Raises:
        ModelError: No ingredient has a finite loss.

    Source:
        Model soups (arXiv 2203.05482), recipe 1, with losses in the place of accuracies.
    """
    order = sorted((place for place, loss in enumerate(losses) if isfinite(loss)), key=lambda place: losses[place])
    if not order:
        raise ModelError("no ingredient has a finite loss on the selection set, so there is no soup; recover them anew")
    soup = Tasting(members=(order[0],), loss=losses[order[0]], kept=True)
    tried = [soup]
    for place in order[1:]:
        members = (*soup.members, place)
        loss = taste(members)
        tried.append(Tasting(members=members, loss=loss, kept=loss <= soup.loss))
        soup = tried[-1] if tried[-1].kept else soup
    return tuple(tried)


def kept(tried: Sequence[Tasting]) -> Tasting:
    """Give the soup that trying has come to."""
    return [each for each in tried if each.kept][-1]
