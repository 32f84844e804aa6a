"""Tasks from local files, run by lm-eval on a tiny model, against likelihoods computed by hand."""

import json
import math
import socket
from pathlib import Path

import pytest
import torch

from secateur.errors import ConfigError, DataError
from secateur.evaluation.task_files import TaskFolder, ask
from secateur.evaluation.tasks import TaskScore, mmlu_means, run_tasks
from secateur.evaluation.text import NamedModel

SHARED = Path(__file__).parents[4] / "shared"


def write_lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def folder(tmp_path):
    """Questions in words of the tiny tokenizer, one file per form, and two subjects of MMLU."""
    words = [f"w{3 + 5 * number % 90}" for number in range(60)]
    write_lines(
        tmp_path / "pick.jsonl",
        [{"query": f"{words[k]} {words[k + 1]}", "choices": words[k + 2 : k + 5], "gold": k % 3} for k in range(20)],
    )
    write_lines(
        tmp_path / "schema.jsonl",
        [
            {"context_options": [f"w3 {words[k]}", f"w3 {words[k + 1]}"], "continuation": "w9 w10", "gold": k % 2}
            for k in range(20)
        ],
    )
    write_lines(
        tmp_path / "last.jsonl", [{"context": f"w3 {words[k]}", "continuation": words[k + 1]} for k in range(9)]
    )
    for subject, answers in (("birds", "ABCD"), ("trees", "BA")):
        for part in ("dev", "test"):
            (tmp_path / "mmlu" / part).mkdir(parents=True, exist_ok=True)
            rows = [f"w{10 + place},w3,w4,w5,w6,{answer}\n" for place, answer in enumerate(answers)]
            (tmp_path / "mmlu" / part / f"{subject}_{part}.csv").write_text("".join(rows))
    return tmp_path


@pytest.fixture
def named(make_model, tokenizer):
    pytest.importorskip("lm_eval", reason="lm-evaluation-harness is missing: pip install 'secateur[tasks]'")
    return NamedModel("tiny", make_model(), tokenizer)


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*_args, **_kwargs):
        raise AssertionError("the network was touched")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


def log_likelihood(named, context, continuation):
    """Of a continuation behind a context, and whether every token of it is the likeliest."""
    start = named.tokenizer(context)["input_ids"]
    answer = named.tokenizer(continuation)["input_ids"]
    logs = named.model(input_ids=torch.tensor([start + answer])).logits[0].log_softmax(-1)
    rows = logs[len(start) - 1 : -1]
    picked = rows[torch.arange(len(answer)), torch.tensor(answer)]
    return float(picked.sum()), bool((rows.argmax(-1) == torch.tensor(answer)).all())


def score_of(outcome, task, metric):
    return next(each for each in outcome.scores if (each.task, each.metric) == (task, metric))


def test_every_form_has_the_accuracy_of_its_likelihoods(folder, named, no_network):
    outcome = run_tasks(named, ["pick", "schema", "last"], folder)
    rows = {
        name: [json.loads(line) for line in (folder / f"{name}.jsonl").open()] for name in ("pick", "schema", "last")
    }

    def right(scores, gold):
        return scores.index(max(scores)) == gold

    picked = [[log_likelihood(named, row["query"], each)[0] for each in row["choices"]] for row in rows["pick"]]
    expected = [right(scores, row["gold"]) for scores, row in zip(picked, rows["pick"], strict=True)]
    score = score_of(outcome, "pick", "acc")
    assert 0 < score.value < 1
    assert score.value == pytest.approx(sum(expected) / 20)
    assert score.stderr == pytest.approx(math.sqrt(score.value * (1 - score.value) / 19))
    assert (score.num_questions, score.shots) == (20, 0)
    torch.testing.assert_close(torch.tensor(outcome.likelihoods["pick"]), torch.tensor(picked), atol=1e-4, rtol=0)

    expected = [
        right([log_likelihood(named, each, row["continuation"])[0] for each in row["context_options"]], row["gold"])
        for row in rows["schema"]
    ]
    assert score_of(outcome, "schema", "acc").value == pytest.approx(sum(expected) / 20)

    last = [log_likelihood(named, row["context"], row["continuation"]) for row in rows["last"]]
    mean = sum(score for score, _ in last) / len(last)
    assert score_of(outcome, "last", "perplexity").value == pytest.approx(math.exp(-mean), rel=1e-4)
    assert score_of(outcome, "last", "acc").value == pytest.approx(sum(best for _, best in last) / len(last))


def test_mmlu_has_both_means_over_its_subjects(folder, named, no_network):
    outcome = run_tasks(named, ["mmlu"], folder, shots=1)
    birds, trees = (score_of(outcome, f"mmlu_{subject}", "acc") for subject in ("birds", "trees"))
    assert (birds.num_questions, trees.num_questions, birds.shots) == (4, 2, 1)
    micro, macro = (score_of(outcome, "mmlu", f"acc, mean of {what}") for what in ("questions", "subjects"))
    assert micro.value == pytest.approx((4 * birds.value + 2 * trees.value) / 6)
    assert macro.value == pytest.approx((birds.value + trees.value) / 2)


def test_means_have_the_errors_of_sums():
    subjects = [
        TaskScore(model="m", task=f"mmlu_{name}", metric="acc", value=value, stderr=error, num_questions=count, shots=5)
        for name, value, error, count in (("a", 0.2, 0.03, 300), ("b", 0.6, 0.04, 100))
    ]
    macro, micro = mmlu_means(subjects)
    assert (macro.value, macro.stderr) == (pytest.approx(0.4), pytest.approx(0.025))
    assert (micro.value, micro.stderr) == (pytest.approx(0.3), pytest.approx(math.hypot(0.75 * 0.03, 0.25 * 0.04)))
    assert mmlu_means(subjects[:1]) == []


def test_without_names_all_tasks_of_the_folder_are_run_up_to_the_limit(folder, named, no_network):
    outcome = run_tasks(named, [], folder, shots=0, limit=2)
    assert {each.task for each in outcome.scores} == {"pick", "schema", "last", "mmlu", "mmlu_birds", "mmlu_trees"}
    assert {each.num_questions for each in outcome.scores if each.task != "mmlu"} == {2}


def test_what_is_cut_off_is_counted(tmp_path, named):
    write_lines(tmp_path / "long.jsonl", [{"query": "w3 " * 80, "choices": ["w4", "w5"], "gold": 0}])
    (note,) = run_tasks(named, ["long"], tmp_path).notes
    assert "2 of 2 prompts with an answer were longer than the model's 64 tokens" in note


def test_a_question_is_asked_for_its_answer():
    assert ask({"query": "Question: why?\n"}) == "Question: why?\nAnswer:"
    assert ask({"query": "Passage: this.\nQuestion: why?"}) == "Passage: this.\nQuestion: why?\nAnswer:"
    assert ask({"query": "The best way is to"}) == "The best way is to"


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("{", "line 1: not JSON"),
        ('{"query": "a", "choices": ["b", "c"], "gold": 2}', "line 1: not a question"),
        ('{"query": "a", "choices": ["b", "c"], "gold": 1}\n{"context": "a", "continuation": "b"}', "line 2: not a"),
        ("\n\n", "holds no question"),
    ],
)
def test_lines_that_ask_nothing_are_named(tmp_path, text, word):
    (tmp_path / "bad.jsonl").write_text(text)
    with pytest.raises(DataError, match=word):
        TaskFolder(tmp_path).read(["bad"])


@pytest.mark.slow
def test_a_name_that_nobody_knows_is_refused_with_the_nearest(folder, named):
    """lm-eval reads all of its own task files to say so."""
    with pytest.raises(ConfigError, match=r"lm-eval has no task 'pikc', nor does --task-data .*did you mean 'pick'"):
        run_tasks(named, ["pikc"], folder)


def test_a_folder_without_the_task_or_any_is_refused(folder, tmp_path):
    with pytest.raises(DataError, match=r"has no task 'pikc'; known: .*did you mean 'pick'"):
        TaskFolder(folder).read(["pikc"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no tasks"):
        TaskFolder(tmp_path / "empty")


@pytest.mark.slow
def test_a_task_of_lm_evals_own_needs_the_hub(named, monkeypatch):
    """Which tests never have."""
    with pytest.raises(DataError, match=r"the data of arc_easy cannot be loaded .*give local files with --task-data"):
        run_tasks(named, ["arc_easy"], None)


@pytest.mark.shared
def test_real_questions_are_answered_as_by_our_own_reading_of_mmlu(no_network):
    pytest.importorskip("lm_eval")
    if not (SHARED / "data" / "mmlu").is_dir():
        pytest.skip("the shared questions and model are not beside this repository (../shared)")
    from secateur.data import Role
    from secateur.evaluation.multiple_choice import ChoiceSet, read_questions
    from secateur.model.loading import load_causal_model, load_dense
    from secateur.model.walk import DecoderWalk

    name = str(SHARED / "models" / "stories260K")
    model, tokenizer, _ = load_causal_model(name, "cpu")
    tasks = ["arc_easy", "mmlu_marketing", "mmlu_miscellaneous"]
    outcome = run_tasks(NamedModel("stories", model, tokenizer), tasks, SHARED / "data", shots=0, limit=30)
    assert score_of(outcome, "arc_easy", "acc").num_questions == 30
    dense = load_dense(name, "cpu")
    walk = DecoderWalk(dense.model, dense.family)
    compared = 0
    for subject in ("marketing", "miscellaneous"):
        own = [each for each in read_questions(str(SHARED / "data" / "mmlu"), 0) if each.subject == subject][:30]
        seen = outcome.likelihoods[f"mmlu_{subject}"]
        for role in Role.SELECTION, Role.EVALUATION:
            places = [place for place, each in enumerate(own) if each.role is role]
            for place in places:
                # One by one, to leave out those that are cut: lm-eval loses the BOS there, we do not.
                one = ChoiceSet.build([own[place]], tokenizer, 512, 8, walk.device)
                if not one.num_shortened:
                    ours = float(one.right(walk, walk.last_states(one.batches)))
                    theirs = seen[place].index(max(seen[place])) == own[place].answer
                    assert ours == theirs, own[place].prompt
                    compared += 1
    assert compared >= 40
