"""Questions of one's own: the same answers as the evaluation's, one by one or from a file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from rim_bench.data.datasets import evaluation_data
from rim_bench.data.task import load_task
from rim_bench.engine.trained_model import TrainedModel, load_trained
from rim_bench.evaluate.ask import ask, read_questions, reply_text
from rim_bench.evaluate.predict import Predictor
from rim_bench.storage.run_folder import Run, Store
from rim_bench.util.errors import UsageError

Call = Callable[..., tuple[int, str, str]]
GATE = Path(__file__).resolve().parents[2] / "results" / "gate"


@pytest.fixture(scope="module")
def run() -> Run:
    return next(r for r in Store(GATE).runs()[0] if r.spec.method.name == "rim")


@pytest.fixture(scope="module")
def trained(run: Run) -> TrainedModel:
    return load_trained(run)


@pytest.fixture(scope="module")
def questions() -> list[str]:
    return [e.question for e in evaluation_data(load_task("chain")).examples[495:505]]


def test_the_answers_are_those_of_the_evaluation_whatever_the_batch(
    run: Run, trained: TrainedModel, questions: list[str]
) -> None:
    answerer = Predictor(trained, probe=True)
    alone = list(ask(answerer, questions, max_tokens=40))
    together = list(ask(answerer, questions, max_tokens=40, batch_size=4))
    assert [r.output for r in alone] == [r.output for r in together] and [r.batch_size for r in together] == [4] * 8 + [
        2
    ] * 2
    evaluated = Store(GATE.parent / "embedded").find(run.id)  # the same run, with its stored answers
    key = next(k for k, e in evaluated.evaluations().items() if e.effort is None and e.settings.votes is None)
    items = {item.id: item for item in evaluated.read_items(key)}
    for example, reply in zip(evaluation_data(load_task("chain")).examples[495:505], alone, strict=True):
        item = items[example.id]
        assert (reply.output, reply.answer, reply.passes) == (item.output, item.answer, item.passes)
        assert list(reply.blocks) == [block.answer for block in item.blocks] and reply.latent_positions == 16


def test_a_reply_for_people_says_the_answer_its_blocks_and_its_cost(
    trained: TrainedModel, questions: list[str]
) -> None:
    (reply,) = ask(Predictor(trained, probe=True), questions[:1], max_tokens=40)
    lines = reply_text(reply).split("\n")
    assert lines[0] == f"answer: {reply.answer}" and lines[1:5] == [
        f"after block {k}: {b}" for k, b in enumerate(reply.blocks, 1)
    ]
    assert "16 latent positions, 3 generated, 3 passes" in lines[-1]
    (cut,) = ask(Predictor(trained), questions[:1], max_tokens=1)
    assert cut.capped and cut.answer is None and "no answer could be read" in reply_text(cut)
    assert "it was cut at the greatest number of tokens" in reply_text(cut)


def test_a_question_that_is_too_long_is_not_asked_and_its_neighbours_are(
    trained: TrainedModel, questions: list[str]
) -> None:
    replies = list(ask(Predictor(trained), [questions[0], "1+" * 3000, questions[1]], max_tokens=40, batch_size=3))
    assert [r.overlong for r in replies] == [False, True, False] and replies[1].answer is None
    assert "no positions" in reply_text(replies[1]) and replies[2].answer is not None


def test_a_file_of_questions_is_lines_or_json_lines() -> None:
    assert read_questions(b"a\n\n b?\n", "f") == ["a", " b?"]
    assert read_questions(b'\xef\xbb\xbf{"question": "a\\nb"}\n\n{"question": "c", "id": 1}', "f") == ["a\nb", "c"]
    for data, sentence in (
        (b"\n \n", "f holds no question"),
        (b"\xff\xfe", "f is no text in UTF-8"),
        (b'{"question": 3}', "f line 1 has no `question` that is a text"),
        (b'{"question": "a"}\n{"text": "b"}', "f line 2 has no `question`"),
        (b'{"question": "a"}\n{', "f line 2"),
    ):
        with pytest.raises(UsageError, match=sentence):
            read_questions(data, "f")


def test_the_command_answers_and_refuses(call: Call, run: Run, questions: list[str], tmp_path: Path) -> None:
    file = tmp_path / "q.txt"
    file.write_text("\n".join(questions[:3]))
    code, out, _ = call("ask", run.id, "--file", str(file), "--show-blocks", "-o", str(GATE))
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and [r["question"] for r in rows] == questions[:3] and all(len(r["blocks"]) == 4 for r in rows)
    code, out, _ = call("ask", run.id, questions[0], "-o", str(GATE), "--effort", "2")
    assert code == 0 and out.startswith(f"answer: {rows[0]['answer']}") and "8 latent positions" in out
    for arguments, sentence in (
        ((), "give a question, or a --file of them"),
        (("a?", "--file", str(file)), "give a question or --file, not both"),
        (("How many apples has Tom?",), "text that its tokenizer never saw"),
        ((" ",), "question 1 is empty"),
        (("--file", str(tmp_path)), "is a folder"),
    ):
        code, out, err = call("ask", run.id, *arguments, "-o", str(GATE))
        assert (code, out) == (2, "") and sentence in err
