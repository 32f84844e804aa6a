"""lm-evaluation-harness (MIT) on an exported model whose layers differ: it loads it and ranks answers as we do."""

import json

import pytest
import torch

from secateur.export.checkpoint import express, save_checkpoint
from secateur.pruning.surgery import prune
from secateur.space.architecture import Architecture

pytestmark = pytest.mark.slow

TASK = """
task: words
dataset_path: json
dataset_kwargs:
  data_files: {{test: {data}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{text}}}}"
doc_to_choice: [w3, w4, w5]
doc_to_target: "{{{{label}}}}"
metric_list:
  - metric: acc
"""


@pytest.fixture
def exported(prepared, tmp_path):
    architecture = Architecture.from_widths((0, 40, 2, 16, 4, 0))
    pruned = prune(prepared.dense, prepared.bank, architecture)
    save_checkpoint(prepared.dense, pruned, express(prepared.dense, architecture, "float32"), "float32", tmp_path / "e")
    return pruned, tmp_path / "e"


def test_the_harness_scores_an_exported_per_layer_model_as_we_do(exported, prepared, tmp_path):
    pytest.importorskip("lm_eval", reason="lm-evaluation-harness is missing: pip install 'secateur[compare]'")
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    pruned, folder = exported
    tokenizer = prepared.dense.tokenizer
    generator = torch.Generator().manual_seed(0)
    texts = [" ".join(f"w{number}" for number in torch.randint(3, 96, (6,), generator=generator)) for _ in range(12)]
    with (tmp_path / "words.jsonl").open("w") as lines:
        for place, text in enumerate(texts):
            with torch.no_grad():
                logits = pruned(torch.tensor([tokenizer(text)["input_ids"]]), use_cache=False).logits[0, -1]
            answers = logits[torch.tensor([tokenizer.convert_tokens_to_ids(word) for word in ("w3", "w4", "w5")])]
            best = int(answers.argmax())
            label = best if place % 3 else (best + 1) % 3  # the model is wrong on every third
            lines.write(json.dumps({"text": text, "label": label}) + "\n")
    (tmp_path / "words.yaml").write_text(TASK.format(data=tmp_path / "words.jsonl"))

    # The folder is the one that has just been written, modelling file included.
    model = HFLM(pretrained=str(folder), trust_remote_code=True, dtype="float32", device="cpu", batch_size=1)
    tasks = TaskManager(include_path=str(tmp_path), include_defaults=False)
    results = simple_evaluate(model=model, tasks=["words"], task_manager=tasks, bootstrap_iters=0)
    assert results["results"]["words"]["acc,none"] == pytest.approx(2 / 3)
