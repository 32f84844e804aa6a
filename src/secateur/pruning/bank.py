"""The weight bank: every module in one order, its output projection ready for every width.

What an architecture keeps of a module is then a prefix: a candidate is put together from slices, and nothing is copied.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from secateur.model.loading import DenseModel
from secateur.model.shape import DenseShape, cut_norms, decoder_layers, group_tensors, module_of, projection_out
from secateur.pruning.bank_files import ByWidth, holds, mapped_tensors, write_tensors
from secateur.pruning.calibration import Statistics
from secateur.pruning.mixture_bank import fit_mixture
from secateur.pruning.mixture_statistics import MixtureStatistics
from secateur.pruning.orders import Order, OrderInputs, importance_order
from secateur.pruning.reconstruction import Reconstruction, Refitter, reconstruction_method
from secateur.schema import derive_seed

# Columns of an output projection up to which one thread is faster than several.
SMALL_MODULE = 1024


@dataclass(frozen=True)
class ModuleBank:
    """One module of the bank.

    Attributes:
        order: Group indices of the dense module, most worth keeping first; where a group is a channel of every expert,
            those of each expert, one row per rank.
        inputs: Parameters into the groups, permuted to that order, by name inside the block.
        outputs: Output projection per width.
        biases: Bias of the output projection per width, where the reconstruction changes it.
        errors: Error per width in nats per token (see `Refit.error`).
    """

    order: Int[Tensor, " groups"] | Int[Tensor, "groups experts"]
    inputs: Mapping[str, Tensor]
    outputs: Mapping[int, Float[Tensor, "hidden kept"]]
    biases: Mapping[int, Float[Tensor, " hidden"]]
    errors: Mapping[int, float]


@dataclass(frozen=True)
class WeightBank:
    """All modules in module order, made with one importance and one reconstruction."""

    shape: DenseShape
    modules: tuple[ModuleBank, ...]
    output_names: tuple[str, str]

    def slices(self, module: int, width: int) -> dict[str, Tensor]:
        """Give the parameters of a module at a width, by name inside the block, as views where they are sliced.

        The bias of the output projection is among them where it is not the dense one.

        Raises:
            KeyError: The bank was not made for that width.
        """
        bank = self.modules[module]
        _, kind = module_of(module)
        num_groups = self.shape.block(kind).num_groups
        taken = {name: tensor[: len(tensor) // num_groups * width] for name, tensor in bank.inputs.items()}
        output = self.output_names[module % 2]
        taken[f"{output}.weight"] = bank.outputs[width]
        if width in bank.biases:
            taken[f"{output}.bias"] = bank.biases[width]
        return taken

    def errors(self, module: int) -> Mapping[int, float]:
        return self.modules[module].errors


def build_bank(
    dense: DenseModel,
    statistics: Sequence[Statistics],
    widths: Iterable[Iterable[int]],
    importance: str = "obs",
    reconstruction: str = "least_squares",
    ridge: float = 1e-2,
    seed: int = 0,
    advance: Callable[[], None] = lambda: None,
    folder: Path | None = None,
) -> WeightBank:
    """Order every module and make its output projection for every width that may be asked for.

    Args:
        widths: Per module, the widths to make; 0 needs no weights but gets its error.
        reconstruction: One of `RECONSTRUCTIONS`.
        ridge: Damping of the Gram matrices, as a share of their mean diagonal.
        seed: Of the random importance.
        advance: Called after every module.
        folder: Where each module is written as soon as it is made, to be mapped from there; in memory if not given.
            Modules that an interrupted call with the same arguments has written are not made again.

    Raises:
        ConfigError: The importance or the reconstruction is unknown.
    """
    find_order, reconstruct = importance_order(importance), reconstruction_method(reconstruction)
    modules = []
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    for index, module_widths in enumerate(widths):
        path = module_file(folder, index) if folder is not None else None
        if path is None or not path.is_file():
            own = statistics[index]
            with _threads_for(own.gram.shape[-1]):
                module = _build_module(dense, own, index, set(module_widths), find_order, reconstruct, ridge, seed)
            dense.release(module_of(index)[0])
            if path is not None:
                _save_module(module, path)
        modules.append(module if path is None else _load_module(dense, index, path))
        advance()
    return _bank(dense, modules)


def _build_module(
    dense: DenseModel,
    statistics: Statistics,
    index: int,
    widths: set[int],
    find_order: Order,
    reconstruct: Reconstruction,
    ridge: float,
    seed: int,
) -> ModuleBank:
    output = output_projection(dense, index)
    weight = output.weight.detach()
    num_groups = dense.shape.block(module_of(index)[1]).num_groups
    size = weight.shape[1] // num_groups
    tensors = [(projection.weight.detach(), axis) for projection, axis in _tensors(dense, index).values()]
    seed = derive_seed(seed, "order", index)
    if isinstance(statistics, MixtureStatistics):
        made = fit_mixture(statistics, tensors, weight, sorted(widths), find_order, reconstruct, ridge, seed)
        inputs = _permuted_inputs(dense, index, made.order)
        return ModuleBank(made.order, inputs, made.outputs, {}, made.errors)
    order = find_order(OrderInputs(statistics, tensors, weight, num_groups, ridge, seed))
    columns = expand_groups(order, size)
    refitter = Refitter(
        statistics.gram[columns][:, columns],
        weight[:, columns],
        statistics.gradient_moment,
        ridge,
        statistics.mean[columns],
    )
    fits = {width: reconstruct(refitter, width * size) for width in sorted(widths)}
    outputs = {width: fit.weight for width, fit in fits.items() if width}
    if num_groups in outputs:
        outputs[num_groups] = weight[:, columns].contiguous()  # the dense weight itself, free of rounding
    dense_bias = 0 if output.bias is None else output.bias.detach()
    biases = {width: dense_bias + fit.bias for width, fit in fits.items() if fit.bias is not None}
    errors = {width: fit.error for width, fit in fits.items()}
    return ModuleBank(order, _permuted_inputs(dense, index, order), outputs, biases, errors)


@contextmanager
def _threads_for(num_columns: int) -> Iterator[None]:
    """Use one thread for small modules.

    Elimination makes thousands of tiny products, and waking a second thread for each costs more than it gives: 40 s
    instead of 1 s for the demo where idle threads sleep.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1 if num_columns <= SMALL_MODULE else threads)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def load_bank(dense: DenseModel, folder: Path) -> WeightBank:
    """Read what was written into a folder for the same dense model; what lies on a CPU is mapped when it is needed."""
    modules = [_load_module(dense, index, module_file(folder, index)) for index in range(dense.shape.num_modules)]
    return _bank(dense, modules)


def module_file(folder: Path, index: int) -> Path:
    return folder / f"{index:03}.safetensors"


def _save_module(module: ModuleBank, path: Path) -> None:
    widths = sorted(module.errors)
    errors = torch.tensor([module.errors[width] for width in widths], dtype=torch.float64)
    write_tensors(
        path,
        {
            "module": {"order": module.order, "widths": torch.tensor(widths), "errors": errors},
            "input": module.inputs,
            "output": {str(width): weight for width, weight in module.outputs.items()},
            "bias": {str(width): bias for width, bias in module.biases.items()},
        },
    )


def _load_module(dense: DenseModel, index: int, path: Path) -> ModuleBank:
    device = output_projection(dense, index).weight.device
    known = mapped_tensors(path, "module", device)
    # As if all modules were of this one's size.
    hold = holds(device, path.stat().st_size * dense.shape.num_modules)
    return ModuleBank(
        known["order"].clone(),
        mapped_tensors(path, "input", device, hold=hold),
        ByWidth(mapped_tensors(path, "output", device, hold=hold)),
        ByWidth(mapped_tensors(path, "bias", device, hold=hold)),
        dict(zip(known["widths"].tolist(), known["errors"].tolist(), strict=True)),
    )


def expand_groups(groups: Int[Tensor, " groups"] | Int[Tensor, "groups {size}"], size: int) -> Int[Tensor, " columns"]:
    """Turn group indices into the indices of their columns; one index per column where these are not of one group."""
    rows = groups if groups.ndim == 2 else groups.unsqueeze(1)
    return (rows * size + torch.arange(size, device=groups.device)).flatten()


def _bank(dense: DenseModel, modules: list[ModuleBank]) -> WeightBank:
    attention, mlp = dense.family.attention, dense.family.mlp
    return WeightBank(dense.shape, tuple(modules), output_names=(attention.output, mlp.output))


def _tensors(dense: DenseModel, index: int) -> dict[str, tuple[torch.nn.Linear, int]]:
    layer, kind = module_of(index)
    return group_tensors(decoder_layers(dense.model, dense.family)[layer], dense.family, kind)


def output_projection(dense: DenseModel, index: int) -> torch.nn.Linear:
    return projection_out(_tensors(dense, index))


def _permuted_inputs(dense: DenseModel, index: int, order: Int[Tensor, "groups *experts"]) -> dict[str, Tensor]:
    """Permute the rows of the projections into the groups, their biases, and the norms that act on what they give."""
    num_groups = dense.shape.block(module_of(index)[1]).num_groups
    permuted = {}
    for name, (projection, axis) in _tensors(dense, index).items():
        if axis == 1:
            continue
        rows = expand_groups(order, projection.weight.shape[0] // num_groups)
        permuted[f"{name}.weight"] = projection.weight.detach()[rows]
        if projection.bias is not None:
            permuted[f"{name}.bias"] = projection.bias.detach()[rows]
    layer, kind = module_of(index)
    for name, norm in cut_norms(decoder_layers(dense.model, dense.family)[layer], dense.family, kind).items():
        for entry, parameter in norm.named_parameters():
            columns = expand_groups(order, len(parameter) // num_groups)
            permuted[f"{name}.{entry}"] = parameter.detach()[columns]
    return permuted
