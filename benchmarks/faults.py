"""Kills at random moments, in every stage: each run is resumed, and has to end as one that nothing disturbed.

    python benchmarks/faults.py [--kills 50] [--seed 0] [--executors local,processes]

The whole flow (`secateur prune`, as a process) on a small Llama that is made here, and recovery by LoRA in it. In each
run a stage is drawn, and a moment after its beginning; the process gets SIGKILL then, with `processes` now and then one
of its workers instead, and the run is resumed with an executor that is drawn, until it ends. Compared with an
undisturbed run: the chosen architecture, every measurement, every figure of the report's rows, and the exported weights
byte by byte. No measurement may be made twice, and none may be lost once it was stored. Writes
`benchmarks/results/faults.json` and prints a Markdown table.
"""

import argparse
import hashlib
import json
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import torch
import yaml
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from secateur.assignments import parse_list
from secateur.demo import decoder_path, generate_documents
from secateur.report.record import Report
from secateur.runs.store import RunStore
from secateur.space.candidate import Measurement

RESULTS = Path(__file__).parent / "results" / "faults.json"
STAGES = ("load", "calibrate", "search", "uniformity", "prune", "evaluate", "recover", "samples", "export")
# Seconds after the beginning of a stage within which it is killed.
WITHIN = 2.0
# Share of kills, where there are workers, that hit one of them and not the driver.
OF_WORKERS = 0.3
TOLERANCE = 1e-6
SETTINGS: dict[str, Any] = {
    "data": {"sequence_length": 32, "calibration_tokens": 2048, "selection_tokens": 1024, "evaluation_tokens": 1024},
    "evaluation": {"batch_tokens": 512, "speed": False},
    "space": {"ffn_levels": 5},
    "budget": {"keep": 0.7, "band": 0.03},
    "search": {
        "measurements": 40,
        "rounds": 3,
        "reconstructed_share": 0.3,
        "reconstructed_tokens": 512,
        "finalists": 2,
        "least_improvement": 0.0,
        "alternative_measurements": 25,
    },
    "recovery": {"method": "lora", "tokens": 4096, "epochs": 1.0, "rank": 4, "alpha": 4},
}


@dataclass
class Tally:
    """What was done to runs, and what came of it."""

    kills: Counter[str] = field(default_factory=Counter)
    worker_kills: int = 0
    runs: int = 0
    resumes: int = 0
    differences: list[str] = field(default_factory=list)

    @property
    def num_kills(self) -> int:
        return sum(self.kills.values()) + self.worker_kills


def write_inputs(folder: Path) -> Path:
    """Write a model, its text and a configuration; give the last."""
    tokenizer = AutoTokenizer.from_pretrained(decoder_path())
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=4,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        initializer_range=0.25,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    text = "\n<|endoftext|>\n".join(document.text for document in generate_documents(300, seed=3))
    (folder / "text.txt").write_text(text)
    inputs = {"model": {"name": str(folder / "model")}, "data": {"sources": [str(folder / "text.txt")]}}
    merged = {name: SETTINGS.get(name, {}) | inputs.get(name, {}) for name in SETTINGS | inputs}
    (folder / "config.yaml").write_text(yaml.safe_dump(merged))
    return folder / "config.yaml"


def begin(config: Path, root: Path, executor: str) -> "subprocess.Popen[str]":
    """Begin a run, or go on with it."""
    what = (
        ["resume", str(root)]
        if (root / "config.yaml").is_file()
        else ["prune", "--config", str(config), "--out", str(root)]
    )
    who = ["--executor", executor, *(["--workers", "2"] if executor != "local" else [])]
    command = [sys.executable, "-m", "secateur", *what, *who, "--json-progress"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def killed_in(process: "subprocess.Popen[str]", stage: str, after: float, worker: bool) -> str:
    """Kill a process, or a worker of it, so many seconds after a stage has begun; say which was, empty if none."""
    done: list[str] = []

    def kill() -> None:
        if process.poll() is not None:
            return
        target: psutil.Process | subprocess.Popen[str] = process
        if worker:
            workers = [
                each for each in psutil.Process(process.pid).children() if "secateur.execution.worker" in each.cmdline()
            ]
            if not workers:
                return
            target = workers[0]
        target.kill()
        done.append("worker" if worker else "driver")

    timer: threading.Timer | None = None
    if stage == "load":
        timer = threading.Timer(after, kill)
        timer.start()
    assert process.stdout is not None, "asked for"
    for line in process.stdout:
        said = json.loads(line)
        if timer is None and said.get("event") == "started" and said.get("stage") == stage:
            timer = threading.Timer(after, kill)
            timer.start()
    process.wait()
    if timer is not None:
        timer.cancel()
        timer.join()
    return done[0] if done else ""


def stored(root: Path) -> dict[tuple[str, str], Measurement]:
    if not (root / "run.db").is_file():
        return {}
    with RunStore(root / "run.db") as store:
        measured = [Measurement.model_validate_json(record) for record in store.all_measurements()]
    return {(each.architecture.key, each.protocol): each for each in measured}


def fingerprint(root: Path) -> str:
    files = sorted((root / "exported").glob("*.safetensors"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def differences(undisturbed: Path, root: Path) -> list[str]:
    """Say in what a run ended otherwise."""
    found = []
    one, other = (Report.model_validate_json((each / "report.json").read_text()) for each in (undisturbed, root))
    if one.choice.architecture != other.choice.architecture:
        found.append("another architecture")
    for row, same in zip(one.rows, other.rows, strict=True):
        if abs(row.perplexity.value - same.perplexity.value) > TOLERANCE * row.perplexity.value:
            found.append(f"perplexity of {row.name}")
    expected, measured = stored(undisturbed), stored(root)
    if expected.keys() != measured.keys():
        found.append(f"{len(expected.keys() ^ measured.keys())} other measurements")
    else:
        far = sum(abs((expected[key].kl or 0) - (measured[key].kl or 0)) > TOLERANCE for key in expected)
        found += [f"{far} measurements that differ"] if far else []
    if fingerprint(undisturbed) != fingerprint(root):
        found.append("other weights")
    return found


def disturbed(
    config: Path, root: Path, undisturbed: Path, draw: random.Random, executors: list[str], tally: Tally
) -> None:
    """Let a run go to its end through kills."""
    tally.runs += 1
    before: dict[tuple[str, str], Measurement] = {}
    while not (root / "report.json").is_file():
        executor, stage = draw.choice(executors), draw.choice(STAGES)
        worker = executor != "local" and draw.random() < OF_WORKERS
        stage = "search" if worker else stage
        process = begin(config, root, executor)
        hit = killed_in(process, stage, draw.uniform(0, WITHIN), worker)
        if hit == "driver":
            tally.kills[stage] += 1
            tally.resumes += 1
        tally.worker_kills += hit == "worker"
        if not hit and process.returncode:
            assert process.stderr is not None, "asked for"
            tally.differences.append(f"exit code {process.returncode}: {process.stderr.read()[-300:]}")
            return
        after = stored(root)
        lost = [key for key, each in before.items() if after.get(key) != each]
        if lost:
            tally.differences.append(f"{len(lost)} stored measurements lost or made again")
        before = after
    tally.differences += differences(undisturbed, root)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--executors", default="local,processes")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    draw, tally, start = random.Random(arguments.seed), Tally(), time.perf_counter()
    executors = list(parse_list("--executors", arguments.executors, str))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config, undisturbed = write_inputs(folder), folder / "undisturbed"
        process = begin(config, undisturbed, "local")
        killed_in(process, "never", 0.0, worker=False)
        assert (undisturbed / "report.json").is_file(), process.stderr and process.stderr.read()
        while tally.num_kills < arguments.kills:
            disturbed(config, folder / f"run-{tally.runs}", undisturbed, draw, executors, tally)
            print(f"{tally.num_kills} kills, {tally.runs} runs, differences: {tally.differences}", flush=True)
    record = {
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "seed": arguments.seed,
        "executors": executors,
        "kills": dict(tally.kills) | {"a worker": tally.worker_kills},
        "runs": tally.runs,
        "resumes": tally.resumes,
        "differences": tally.differences,
        "seconds": time.perf_counter() - start,
    }
    arguments.out.write_text(json.dumps(record, indent=1) + "\n")
    print("| killed in | times |\n|---|---|")
    for stage in STAGES:
        print(f"| {stage} | {tally.kills[stage]} |")
    print(f"| a worker, in search | {tally.worker_kills} |")
    print(f"\n{tally.num_kills} kills in {tally.runs} runs; ended otherwise: {len(tally.differences)}")
    if tally.differences:
        raise SystemExit("\n".join(tally.differences))


if __name__ == "__main__":
    main()
