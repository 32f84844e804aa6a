"""ShortGPT's allocation: the layers that change the residual stream least go whole."""

import torch
from jaxtyping import Float
from torch import Tensor

from secateur.data import Role, TokenSet
from secateur.errors import BudgetError
from secateur.model.shape import DenseShape
from secateur.model.walk import DecoderWalk
from secateur.search.allocation import largest_within
from secateur.search.uniform import widest_ffn
from secateur.space.architecture import Architecture
from secateur.space.cost import Budget, cost_of


@torch.no_grad()
def block_influence(walk: DecoderWalk, calibration: TokenSet, batch_tokens: int) -> Float[Tensor, " layers"]:
    """Score every layer by 1 - mean over tokens of the cosine between the residual stream before and after it.

    Source:
        ShortGPT (arXiv 2403.03853, eq. 1).
    """
    windows = calibration.expect(Role.CALIBRATION).tokens.to(walk.device)
    influence = torch.zeros(len(walk.layers), dtype=torch.float64)
    for batch in windows.split(max(1, batch_tokens // windows.shape[1])):
        states = walk.states([batch])
        (hidden,) = next(states)
        for layer in range(len(walk.layers)):
            before = hidden
            next(states)
            (hidden,) = next(states)
            cosine = torch.nn.functional.cosine_similarity(before.float(), hidden.float(), dim=-1)
            influence[layer] += float((1 - cosine).sum())
    return (influence / windows.numel()).float()


def layer_dropping_architecture(shape: DenseShape, budget: Budget, influence: Float[Tensor, " layers"]) -> Architecture:
    """Drop the layers of least influence; the last one is narrowed, not dropped, where that fills the budget.

    Raises:
        BudgetError: The least that it can leave is too much.

    Source:
        ShortGPT (arXiv 2403.03853) drops whole layers and meets only the budgets that these make. To stand beside other
        methods at one parameter count, the layer at the margin keeps KV heads and FFN channels in equal shares.
    """
    architecture = largest_within(shape, budget, lambda parameters: _dropped(shape, influence, parameters))
    if architecture is None:
        raise BudgetError(f"search.method=block_influence finds nothing within {budget}; raise {budget.options}")
    return architecture


def _dropped(shape: DenseShape, influence: Float[Tensor, " layers"], parameters: int) -> Architecture:
    """Drop and narrow layers until there are so many decoder parameters left."""
    widths = [shape.num_kv_heads, shape.ffn_width] * shape.num_layers
    if shape.decoder_parameters <= parameters:
        return Architecture.from_widths(tuple(widths))
    for layer in torch.argsort(influence, stable=True).tolist():
        widths[2 * layer : 2 * layer + 2] = [0, 0]
        left = parameters - cost_of(shape, Architecture.from_widths(tuple(widths))).decoder_parameters
        if left >= 0:
            widths[2 * layer : 2 * layer + 2] = _narrowed(shape, left)
            break
    return Architecture.from_widths(tuple(widths))


def _narrowed(shape: DenseShape, parameters: int) -> tuple[int, int]:
    """Give the KV heads and FFN width of a layer with so many parameters, in equal shares as far as heads allow."""
    share = parameters / (shape.attention.parameters + shape.mlp.parameters)
    heads = min(int(shape.num_kv_heads * share + 1e-9), shape.num_kv_heads)
    while shape.attention.parameters_at(heads) > parameters:
        heads -= 1
    width = widest_ffn(shape, heads, float(parameters))
    # What a whole FFN leaves over goes to heads.
    while width == shape.ffn_width and heads < shape.num_kv_heads:
        if shape.attention.parameters_at(heads + 1) > parameters:
            break
        heads += 1
        width = widest_ffn(shape, heads, float(parameters))
    return heads, width
