"""Who is to load the export: asked before a run begins, since some targets cannot hold some models."""

from secateur.errors import ModelError
from secateur.export.gguf_file import check_gguf
from secateur.model.loading import DenseModel


def check_target(dense: DenseModel, target: str, *, output_bias: bool) -> None:
    """Refuse a model that the target cannot hold.

    Args:
        output_bias: The reconstruction will give narrowed blocks a bias.

    Raises:
        ModelError: Says what the target cannot hold, and what to do instead.
    """
    if target == "gguf":
        check_gguf(dense)
    shape = dense.shape
    if target == "padded" and shape.whole_experts:
        raise ModelError(
            "--target padded cannot fill layers up with experts: the router would send tokens to them; use "
            "--target per-layer, or space.experts=widths"
        )
    if target in ("uniform", "padded") and output_bias and not (shape.attention.output_bias and shape.mlp.output_bias):
        raise ModelError(
            f"--target {target} cannot hold the biases of pruning.reconstruction=bias, which stock models of family "
            f"{dense.family.model_type!r} have not; use another reconstruction, or --target per-layer"
        )
