"""Samples: how the dense model, the baseline and the result go on from the same few prompts."""

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedModel

from secateur.data import Role
from secateur.pruning.bank import WeightBank
from secateur.pruning.surgery import prune
from secateur.report.record import Sample
from secateur.runs.progress import stage_clock
from secateur.stages.calibrate import uniform_baselines
from secateur.stages.run import Run

PROMPTS, PROMPT_TOKENS, NEW_TOKENS = 3, 24, 40
# Every token is a whole forward pass, without a cache: a block that is gone would count wrong in one. Large models on a
# processor say less, so that it is a matter of seconds.
FEW_TOKENS, LARGE = 8, 500_000_000
# The baseline is cut out for nothing else, so only where that is a matter of nothing.
SMALL = 200_000_000


def samples_stage(run: Run, result: PreTrainedModel, uniform_bank: WeightBank | None) -> tuple[Sample, ...]:
    """Let models continue the starts of evaluation windows, greedily. The text chooses nothing."""
    known = run.store.stage("samples")
    if known is not None:
        return known.read_all(Sample)
    dense = run.inputs.original
    models = {"dense": dense.model, run.result_name: result}
    with stage_clock("samples", run.listener, PROMPTS) as clock:
        windows = run.inputs.sets[Role.EVALUATION].expect(Role.EVALUATION).tokens
        length = min(PROMPT_TOKENS, run.config.data.sequence_length // 2)
        places = torch.linspace(0, len(windows) - 1, min(PROMPTS, len(windows))).long()
        prompts = windows[places.unique(), :length]
        large = dense.shape.decoder_parameters > LARGE and dense.model.device.type == "cpu"
        count = min(FEW_TOKENS if large else NEW_TOKENS, run.config.data.sequence_length - length)
        texts = {name: _texts(run, continued(model, prompts, count)) for name, model in models.items()}
        baselines = uniform_baselines(run)
        if uniform_bank is not None and baselines and dense.shape.decoder_parameters < SMALL:
            uniform = prune(run.inputs.dense, uniform_bank, baselines[0])
            texts["uniform"] = _texts(run, continued(uniform, prompts, count))
        order = [name for name in ("dense", "uniform", run.result_name) if name in texts]
        samples = tuple(
            Sample(prompt=prompt, continuations={name: texts[name][place] for name in order})
            for place, prompt in enumerate(_texts(run, prompts))
        )
    run.store.end_stage("samples", clock.seconds, [sample.model_dump(mode="json") for sample in samples])
    return samples


def continued(
    model: PreTrainedModel, prompts: Int[Tensor, "prompts length"], count: int
) -> Int[Tensor, "prompts {count}"]:
    """Give the `count` most likely next tokens, one after the other."""
    tokens = prompts.to(model.device)
    with torch.no_grad():
        for _ in range(count):
            # All but the last position's logits are of no use, but not every family can leave them out.
            following = model(input_ids=tokens, use_cache=False).logits[:, -1].argmax(-1, keepdim=True)
            tokens = torch.cat([tokens, following], dim=1)
    return tokens[:, prompts.shape[1] :].cpu()


def _texts(run: Run, tokens: Int[Tensor, "prompts length"]) -> list[str]:
    """Write tokens as text, up to the end of the document."""
    tokenizer = run.inputs.dense.tokenizer
    rows = [
        row[: row.index(tokenizer.eos_token_id)] if tokenizer.eos_token_id in row else row for row in tokens.tolist()
    ]
    return [str(tokenizer.decode(row, skip_special_tokens=True)).strip() for row in rows]
