"""How much memory does a run take, as a multiple of the model's own bytes? Peak per stage, and its growth with size.

    OMP_NUM_THREADS=1 python benchmarks/memory.py [--head-dims 10,18,30] [--stored float32] [--set FIELD=VALUE ...]

Random Llamas in the proportions of one with 3B parameters (28 layers, 24 query and 8 KV heads, an FFN of 8/3 of the
hidden size), saved in shards, each pruned end to end in a process of its own; `--head-dims 128` is the 3B model itself.
The vocabulary is the demo's and the token counts are small, so that layers are what fills memory. Every 20 ms
/proc/PID/smaps_rollup of that process and of those it starts (the export is checked in another) is read; a page that
several share counts once. First it prunes a model of next to nothing: what is there after that is libraries, and is
taken off; so is what checking that export took. Memory that is freed goes back to the kernel above 128 KiB
(MALLOC_MMAP_THRESHOLD_), as it does by itself above 32 MiB: tensors of a large model are larger than that.

`anonymous` is what the kernel cannot drop; `resident` counts pages of files that are mapped too, which it drops where
memory is short. Both are divided by the model's bytes in the type that is computed in. `growth` is the difference of
peaks between neighbouring sizes over the difference of bytes: nothing that is constant is in it.

Writes benchmarks/results/memory.json.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from secateur.assignments import parse_assignment, parse_list
from secateur.cli.terminal import quiet_libraries
from secateur.config import build_config, resolve
from secateur.demo import decoder_path
from secateur.model.loading import DTYPES
from secateur.pipeline import run_pipeline
from secateur.runs.progress import Event, StageStarted

RESULTS = Path(__file__).parent / "results"
LAYERS, QUERY_HEADS, KV_HEADS = 28, 24, 8
SMALLEST_HEAD = 2
SECONDS_BETWEEN_SAMPLES = 0.02
ENVIRONMENT = {"MALLOC_MMAP_THRESHOLD_": str(1 << 17)}
SETTINGS: dict[str, dict[str, Any]] = {
    "data": {
        "sources": ["demo"],
        "sequence_length": 64,
        "calibration_tokens": 1_024,
        "selection_tokens": 256,
        "evaluation_tokens": 256,
    },
    "evaluation": {"batch_tokens": 64, "cache_bytes": 1 << 20},
    "search": {
        "measurements": 50,  # the fewest of which half are made after reconstruction
        "rounds": 2,
        "reconstructed_tokens": 256,
        "finalists": 2,
        "least_improvement": 0.0,
    },
    "budget": {"keep": 0.8},
}


def save_random(folder: Path, head_dim: int, stored: str) -> int:
    """Write a random model in shards; give its number of parameters."""
    tokenizer = AutoTokenizer.from_pretrained(decoder_path())
    hidden_size = QUERY_HEADS * head_dim
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=hidden_size * 8 // 3,
        num_hidden_layers=LAYERS,
        num_attention_heads=QUERY_HEADS,
        num_key_value_heads=KV_HEADS,
        head_dim=head_dim,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(0)
    torch.set_default_dtype(DTYPES[stored])
    model = LlamaForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    model.save_pretrained(folder, max_shard_size="100MB" if head_dim < 100 else "1GB")
    tokenizer.save_pretrained(folder)
    return sum(parameter.numel() for parameter in model.parameters())


def run_both(folder: Path, settings: Sequence[str]) -> None:
    """Prune the model of next to nothing and then the one that counts, saying what is begun."""

    def say(event: Event) -> None:
        if isinstance(event, StageStarted):
            print(event.stage, flush=True)

    for name in ("small", "large"):
        assignments = [parse_assignment(text) for text in settings]
        config = resolve(build_config([SETTINGS, {"model": {"name": str(folder / name)}}, *assignments]))
        print(f"begin {name}", flush=True)
        time.sleep(20 * SECONDS_BETWEEN_SAMPLES)  # what is resident now is to be seen
        run_pipeline(config, folder / f"run-{name}", say)
    print("end", flush=True)


def resident_bytes(pid: int) -> tuple[int, int]:
    """Give anonymous and all resident memory of a process, of shared pages its share; zeros when it is gone."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0, 0
    found = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss")}
    return found.get("Pss_Anon", 0), found.get("Pss", 0)


def children(pid: int) -> list[int]:
    """Give the processes that a process has started and that are still there."""
    found = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += [int(child) for child in path.read_text().split()]
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def peaks(folder: Path, settings: Sequence[str]) -> dict[str, dict[str, int]]:
    """Run in another process; give the peak bytes per stage of the model that counts, without libraries."""
    command = [sys.executable, __file__, "--child", str(folder), *(f"--set={text}" for text in settings)]
    with (folder / "stages").open("w+") as stages:
        process = subprocess.Popen(command, stdout=stages, env=os.environ | ENVIRONMENT)
        base, check = (0, 0), (0, 0)
        most: dict[str, dict[str, int]] = defaultdict(lambda: {"anonymous": 0, "resident": 0})
        while process.poll() is None:
            said = (folder / "stages").read_text().split("\n")[:-1]
            own = resident_bytes(process.pid)
            others = [resident_bytes(child) for child in children(process.pid)]
            others_sum = (sum(each[0] for each in others), sum(each[1] for each in others))
            if "begin large" not in said:
                check = max(check[0], others_sum[0]), max(check[1], others_sum[1])
            elif said[-1] == "begin large":
                base = own
            else:
                for place, kind in enumerate(("anonymous", "resident")):
                    used = own[place] - base[place] + max(0, others_sum[place] - check[place])
                    most[said[-1]][kind] = max(most[said[-1]][kind], used)
            time.sleep(SECONDS_BETWEEN_SAMPLES)
    if process.returncode:
        raise SystemExit(f"the run in {folder} ended with {process.returncode}")
    most.pop("end", None)
    return dict(most)


def measured(head_dim: int, stored: str, settings: Sequence[str]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=os.environ.get("SECATEUR_BENCHMARK_FOLDER")) as name:
        folder = Path(name)
        save_random(folder / "small", SMALLEST_HEAD, stored)
        parameters = save_random(folder / "large", head_dim, stored)
        start = time.perf_counter()
        found = peaks(folder, settings)
        computed = json.loads((folder / "run-large" / "report.json").read_text())
        num_bytes = 4 * parameters  # float32 on a CPU
        for stage in found.values():
            for kind in ("anonymous", "resident"):
                stage[f"{kind}_ratio"] = round(stage[kind] / num_bytes, 3)
        return {
            "head_dim": head_dim,
            "hidden_size": QUERY_HEADS * head_dim,
            "parameters": parameters,
            "bytes": num_bytes,
            "kept": computed["keep"],
            "seconds": round(time.perf_counter() - start),
            "stages": found,
            "peak": {kind: max(stage[kind] for stage in found.values()) for kind in ("anonymous", "resident")},
        }


def with_growth(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    for smaller, larger in pairwise(rows):
        more = larger["bytes"] - smaller["bytes"]
        larger["growth"] = {
            kind: round((larger["peak"][kind] - smaller["peak"][kind]) / more, 3) for kind in ("anonymous", "resident")
        }
    return rows


def table_of(rows: list[dict[str, Any]]) -> Table:
    table = Table("parameters", "memory", *rows[0]["stages"], "peak", "growth")
    for row in rows:
        for kind in ("anonymous", "resident"):
            stages = [f"{stage[f'{kind}_ratio']:.2f}" for stage in row["stages"].values()]
            growth = f"{row['growth'][kind]:.2f}" if "growth" in row else ""
            table.add_row(f"{row['parameters']:,}", kind, *stages, f"{row['peak'][kind] / row['bytes']:.2f}", growth)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--head-dims", default="10,18,30", help="24 of them are the hidden size; even")
    parser.add_argument("--stored", default="float32", choices=list(DTYPES), help="type of the checkpoint")
    parser.add_argument("--set", action="append", default=[], dest="settings", metavar="FIELD=VALUE")
    parser.add_argument("--name", default="memory", help="of the results")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    quiet_libraries()
    if arguments.child:
        run_both(arguments.child, arguments.settings)
        return
    console = Console(width=140)
    rows = []
    for head_dim in parse_list("--head-dims", arguments.head_dims, int):
        rows.append(measured(head_dim, arguments.stored, arguments.settings))
        console.print(table_of(with_growth(rows)))
    record = {
        "command": f"OMP_NUM_THREADS={torch.get_num_threads()} python benchmarks/memory.py {' '.join(sys.argv[1:])}",
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "torch": torch.__version__,
        "stored": arguments.stored,
        "environment": ENVIRONMENT,
        "settings": SETTINGS,
        "rows": rows,
    }
    (RESULTS / f"{arguments.name}.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
