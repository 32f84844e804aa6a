"""Files from strangers: whatever is in them, a reader gives what it is for, or refuses in one line.

A few hundred inputs per reader by default, and `make fuzz` gives each of them many thousands. An input is bytes at
random, or a good file of which some bytes, lines or values were replaced.
"""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from secateur.assignments import parse_assignment, parse_list, parse_texts
from secateur.budget import parse_latencies
from secateur.config import build_config, read_yaml, to_yaml
from secateur.data import read_documents, read_rows
from secateur.errors import SecateurError
from secateur.evaluation.multiple_choice import read_questions
from secateur.evaluation.task_files import TaskFolder
from secateur.model.checkpoint_files import read_json, shapes_of, weight_files
from secateur.recovery.ingredients import StoredModel, open_ingredient
from secateur.report.recorded import read_recorded
from secateur.report.show import show_run
from secateur.runs.store import RunStore
from secateur.space.architecture import Architecture
from secateur.space.candidate import Candidate, Measurement

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "150"))
fuzzed = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)

BYTES = st.binary(max_size=400)
# What has broken readers before, anywhere: nesting, numbers without end, half characters, tags, aliases, paths, HTML.
NASTY = st.sampled_from(
    [
        b"[" * 5_000,
        b'{"a":' * 5_000,
        b"9" * 5_000,
        b"1e999",
        b"-0",
        b"NaN",
        b"Infinity",
        b"\xff\xfe\x00",
        b'"\\ud800"',
        b"\xe2\x80\xa8",
        b"!!python/object/apply:os.system ['true']",
        b"&a [*a, *a]",
        b"a: &a [1]\nb: *a\n",
        b"../../etc/passwd",
        b"<script>alert(1)</script>",
        b"\x00",
        b"null",
        b"[]",
        b"{}",
        b"\t",
    ]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@st.composite
def changed(draw: st.DrawFn, good: bytes) -> bytes:
    """A good file of which a piece was replaced, some times."""
    content = good
    for _ in range(draw(st.integers(1, 3))):
        begin = draw(st.integers(0, len(content)))
        end = min(len(content), begin + draw(st.integers(0, 40)))
        content = content[:begin] + draw(BYTES | NASTY) + content[end:]
    return content


def inputs(*good: bytes) -> st.SearchStrategy[bytes]:
    return BYTES | NASTY | JSON.map(lambda value: json.dumps(value).encode()) | st.one_of(*map(changed, good))


def refuses_or_reads(read: Callable[[], object]) -> None:
    """Hold a reader to its word; whatever else it raises is a fault."""
    try:
        read()
    except SecateurError as error:
        message = str(error)
        assert message, "it says why"
        assert "\n" not in " ".join(message.split())


CONFIG = to_yaml(build_config([])).encode()
CHAT = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
LINES = b"\n".join(
    json.dumps(each).encode()
    for each in ({"text": "one"}, CHAT, {"instruction": "a", "input": "", "output": "b"}, {"text": "\u2028"})
)
QUESTIONS = b"What is one?,1,2,3,4,A\nWhat is two?,1,2,3,4,B\n"
TASK = json.dumps({"query": "What?", "choices": ["a", "b"], "gold": 1}).encode()


@fuzzed
@given(content=inputs(CONFIG, b"search: {measurements: 40}\nbudget: {keep: 0.5}\n"))
def test_configurations(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(content)
    refuses_or_reads(lambda: build_config([read_yaml(path)]))


@fuzzed
@given(content=JSON)
def test_settings_handed_over_in_python(content: object) -> None:
    if isinstance(content, dict):
        refuses_or_reads(lambda: build_config([content]))


@fuzzed
@given(text=st.text(max_size=60) | st.from_regex(r"[a-z]{2,8}\.[a-z_]{2,12}=.{0,20}", fullmatch=True))
def test_what_is_typed(text: str) -> None:
    refuses_or_reads(lambda: build_config([parse_assignment(text)]))
    refuses_or_reads(lambda: parse_texts([text]))
    refuses_or_reads(lambda: parse_latencies([text]))
    refuses_or_reads(lambda: parse_list("--keep", text, float))


@fuzzed
@given(
    entry=st.sampled_from(
        ["keep", "max_params", "max_flops", "max_kv_cache_bytes", "max_drop", "max_decode_ms", "band"]
    ),
    value=st.text(max_size=12) | st.integers() | st.floats() | st.from_regex(r"-?[0-9.]{1,6}[kMGBT%]?", fullmatch=True),
)
def test_budgets(entry: str, value: object) -> None:
    refuses_or_reads(lambda: build_config([{"budget": {entry: value}}]))


@fuzzed
@given(content=inputs(LINES, b"one\n\ntwo\n<|endoftext|>\nthree"))
@pytest.mark.parametrize("suffix", [".txt", ".jsonl"])
def test_texts(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"documents{suffix}"
    path.write_bytes(content)
    refuses_or_reads(lambda: read_documents(str(path)))
    refuses_or_reads(lambda: read_rows(str(path)))


@fuzzed
@given(content=inputs(b'{"weight_map": {"a": "model.safetensors"}}'))
def test_configs_and_indices_of_checkpoints(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.safetensors.index.json"
    path.write_bytes(content)
    refuses_or_reads(lambda: read_json(path))
    refuses_or_reads(lambda: weight_files(tmp_path))


@fuzzed
@given(data=st.data())
def test_weights(save_model, tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "model" / "model.safetensors"
    if not path.is_file():
        shutil.copy(save_model(tmp_path / "model") / "model.safetensors", tmp_path / "good")
    path.write_bytes(data.draw(inputs((tmp_path / "good").read_bytes()[:6_000])))
    refuses_or_reads(lambda: shapes_of(path))


@fuzzed
@given(questions=inputs(QUESTIONS), examples=inputs(QUESTIONS))
def test_questions(tmp_path: Path, questions: bytes, examples: bytes) -> None:
    for folder, content in (("test", questions), ("dev", examples)):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / f"logic_{folder}.csv").write_bytes(content)
    refuses_or_reads(lambda: read_questions(str(tmp_path), 1))


@fuzzed
@given(content=inputs(TASK, TASK + b"\n" + TASK))
def test_tasks(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tasks").mkdir(exist_ok=True)
    (tmp_path / "tasks" / "own.jsonl").write_bytes(content)
    refuses_or_reads(lambda: TaskFolder(tmp_path / "tasks").read(["own"]))


ADAPTER = b'{"r": 2, "lora_alpha": 4, "alpha_pattern": {"layers.0.self_attn.q_proj": 8}, "peft_type": "LORA"}'
ADAPTED = "model.layers.0.self_attn.q_proj"
LOW_RANK = save(
    {
        f"base_model.model.{ADAPTED}.lora_A.weight": torch.ones(2, 32),
        f"base_model.model.{ADAPTED}.lora_B.weight": torch.ones(64, 2),
    }
)


def test_the_adapter_that_is_changed_below_is_one(save_model, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_bytes(ADAPTER)
    (tmp_path / "adapter_model.safetensors").write_bytes(LOW_RANK)
    base = StoredModel(save_model(tmp_path / "base", "llama"))
    changed = open_ingredient(tmp_path, base).tensor(f"{ADAPTED}.weight")
    assert torch.allclose(changed - base.tensor(f"{ADAPTED}.weight"), torch.full((64, 32), 8.0).double())


@fuzzed
@given(config=inputs(ADAPTER), weights=BYTES | changed(LOW_RANK) | st.just(LOW_RANK))
def test_adapters(save_model, tmp_path: Path, config: bytes, weights: bytes) -> None:
    folder = tmp_path / "base"
    base = StoredModel(folder if folder.is_dir() else save_model(folder, "llama"))
    (tmp_path / "adapter_config.json").write_bytes(config)
    (tmp_path / "adapter_model.safetensors").write_bytes(weights)

    def read() -> None:
        opened = open_ingredient(tmp_path, base)
        opened.tensor(f"{ADAPTED}.weight")

    refuses_or_reads(read)


def small_run(root: Path) -> dict[str, bytes]:
    """A run folder as it is after a search, by file."""
    root.mkdir()
    (root / "config.yaml").write_bytes(CONFIG)
    architecture = Architecture.from_widths((2, 8, 1, 4))
    candidate = Candidate(architecture=architecture, origin="uniform", round=0, parameter_reduction=0.5)
    measured = Measurement(architecture=architecture, protocol="p", status="measured", kl=0.1, loss=2.0, seconds=1.0)
    with RunStore(root / "run.db") as store:
        store.add_candidates([(architecture.key, 0, candidate.model_dump_json())])
        store.add_measurement(architecture.key, "p", measured.model_dump_json())
        store.end_stage("load", 1.0, {"model": "x"})
    return {path.name: path.read_bytes() for path in root.iterdir()}


@fuzzed
@given(data=st.data())
@pytest.mark.parametrize("name", ["run.db", "config.yaml", "report.json", "front.json"])
def test_run_folders(tmp_path: Path, name: str, data: st.DataObject) -> None:
    root = tmp_path / "run"
    good = small_run(tmp_path / "good") if not (tmp_path / "good").is_dir() else None
    if good is None:
        good = {path.name: path.read_bytes() for path in (tmp_path / "good").iterdir()}
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    for each, content in good.items():
        (root / each).write_bytes(content)
    (root / name).write_bytes(data.draw(inputs(good.get(name, b'{"rows": [], "choice": null}'))))
    refuses_or_reads(lambda: show_run(root, 5))
    refuses_or_reads(lambda: read_recorded(root))


@fuzzed
@given(record=JSON)
@pytest.mark.parametrize("table", ["candidates", "measurements", "stages"])
def test_records_in_a_database(tmp_path: Path, table: str, record: object) -> None:
    root = tmp_path / "run"
    shutil.rmtree(root, ignore_errors=True)
    small_run(root)
    text = json.dumps(record)
    with RunStore(root / "run.db") as store:
        if table == "candidates":
            store.add_candidates([("key", 1, text)])
        elif table == "measurements":
            store.add_measurement("key", "p", text)
        else:
            store.end_stage("round 1", 0.0, record)
            store.end_stage("prune", 0.0, record)
    refuses_or_reads(lambda: show_run(root, 5))
    refuses_or_reads(lambda: read_recorded(root))
