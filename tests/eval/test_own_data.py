"""Evaluation on own data: tasks of files, how they are scored, and the script on the tiny model."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from olmo.config import ConfigError
from olmo.data.custom import CustomDataError, CustomDataset
from olmo.data.datasets.synthetic.video import make_clip
from olmo.eval.dry_run import describe_evaluation
from olmo.eval.evaluate import survey
from olmo.eval.own_data import load_scorer, open_dataset, own_metric, resolve_scored
from olmo.eval.prediction import labels
from olmo.eval.scoring import SCORERS, Score, score_example
from olmo.eval.scoring.score import OWN_DATA, BadScore, as_score, scorer
from olmo.eval.settings import EvalConfig, EvalSettings, plan_evaluation
from olmo.eval.store import HALF, run_key, sources
from olmo.eval.tasks import resolve_tasks
from olmo.train.config import InLoopConfig
from olmo.train.in_loop import EvaluationCallback
from tests.eval.fakes import TASK
from tests.eval.scripts import DENSE, EVALUATE, run
from tests.scored import DENSE_STEP

LINES = (
    {"question": "Which?", "options": ["red", "blue"], "answer": "red"},
    {"question": "How many?", "answer": "3"},
    {"question": "What happens?"},
    {"question": "Which colour?", "answer": "red"},
    {"question": "Which letter?", "answers": ["A", "A", "B"], "style": "video_short_answer"},
)
SCORER = "def rate(prediction, metadata):\n    return {value}\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Five clips, the last line but one being broken."""
    lines = []
    for i, line in enumerate(LINES):
        make_clip((tmp_path, 0, "full", "test", i))
        lines.append(json.dumps({"video": f"{i:05d}.mp4", **line}))
    lines.insert(4, '{"video": "absent.mp4", "question": "Q", "answer": "A"}')
    path = tmp_path / "mine.jsonl"
    path.write_text("\n".join(lines))
    return path


@pytest.fixture
def rule(tmp_path: Path) -> Iterator[Path]:
    """A file with the scorer ``rate``; a name of its own for each test, as a module has one."""
    path = tmp_path / f"rule_of_{tmp_path.name}.py"
    path.write_text(SCORER.format(value="1"))
    yield path
    SCORERS.pop(f"{path.name}:rate", None)  # other tests look at the whole table


def test_a_path_is_a_task(file: Path) -> None:
    task, known = resolve_tasks(None, f"{file},mvbench")
    assert (task.name, task.dataset, task.metric, task.prompt) == (
        "mine",
        str(file),
        OWN_DATA,
        None,
    )
    assert task.own and not known.own
    with pytest.raises(ValueError, match=r"mine\.jsonl has no split 'val': only a folder"):
        resolve_tasks(None, f"{file}:val")
    (folder,) = resolve_tasks(None, str(file.parent), "anls")
    assert folder.metric == "anls" and folder.own
    with pytest.raises(ValueError, match=r"absent.jsonl: no such file or folder of own data"):
        resolve_tasks(None, "absent.jsonl")
    other = file.parent / "more" / "mine.jsonl"
    other.parent.mkdir()
    other.write_bytes(file.read_bytes())
    with pytest.raises(ValueError, match=r"two tasks of the name 'mine'.*rename"):
        resolve_tasks(None, f"{file},{other}")
    for name in ("..jsonl", "...jsonl", ".hidden.jsonl"):
        (task,) = resolve_tasks(None, str(file.rename(file.with_name(name))))
        assert task.folder[0] == "_" and "/" not in task.folder
        file = file.with_name(name)
    taken = file.rename(file.parent / "mvbench.jsonl")
    with pytest.raises(ValueError, match="'mvbench' is the name of a task already"):
        resolve_tasks(None, str(taken))


def test_scores_by_category(file: Path) -> None:
    row = {"video": "00000.mp4", "question": "What?", "answer": "This.", "category": "a <b>"}
    file.write_text(f"{json.dumps(row)}\n{json.dumps(row | {'category': None})}")
    (task,) = resolve_tasks(None, str(file))
    dataset, rng = open_dataset(task), np.random.RandomState(0)
    found = [labels(task.categories, dataset.get(i, rng)["metadata"]) for i in range(2)]
    assert found == [["a <b>"], []]


def test_a_bad_line_costs_that_line(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    dataset = open_dataset(resolve_tasks(None, str(file))[0])
    assert len(dataset) == 6 and "line 5: no file" in caplog.text
    rng = np.random.RandomState(0)
    with pytest.raises(CustomDataError, match=r"mine.jsonl: line 5: no file .*absent.mp4"):
        dataset.get(4, rng)
    assert "answer" not in dataset.get(2, rng)["metadata"]
    assert dataset.get(5, rng)["metadata"]["answers"] == ["A", "A", "B"]
    with pytest.raises(CustomDataError, match=r"2 lines cannot be used:\n  line 3: no 'answer'"):
        CustomDataset.open(file)
    file.write_text("nothing\n\n[]")
    with pytest.raises(CustomDataError, match="2 lines cannot be used"):
        CustomDataset.open(file, evaluation=True)


@pytest.mark.parametrize(
    ("prediction", "metadata", "correct"),
    [
        ("B. blue", {"options": ["red", "blue"], "answer_idx": 1}, 1),
        ("There are three.", {"answer": "3"}, 1),
        ("-3", {"answer": "3"}, 0),
        ("1,400 people", {"answer": "1400.0"}, 1),
        ("3 or 4", {"answer": "3"}, 0),
        ("at 3:30", {"answer": "3"}, 0),
        ("The door.", {"answer": "door"}, 1),
        ("b", {"answers": ["a", "b"]}, 1),
        ("anything", {}, None),
    ],
)
def test_each_example_has_its_rule(prediction: str, metadata: dict, correct: float | None) -> None:
    assert score_example(prediction, metadata, OWN_DATA).correct == correct


def test_a_scorer_of_ones_own(file: Path, rule: Path) -> None:
    rule.write_text(SCORER.format(value='{"correct": len(metadata) / 4, "n": 2}'))
    name = load_scorer(f"{rule}:rate")
    score = score_example("x", {"answer": "y"}, name)
    assert (score.correct, score.reference, score.scores) == (0.25, "y", {"n": 2.0})
    (task,) = resolve_tasks(None, str(file), name)
    before = run_key(DENSE, task, {})
    rule.write_text(SCORER.format(value="1"))
    changed = run_key(DENSE, task, {})
    assert changed != before
    rule.write_text(f"import {rule.stem}_words\nfrom olmo.eval.scoring.text import clean_answer\n")
    beside = rule.with_name(f"{rule.stem}_words.py")
    keys = {before, changed, run_key(DENSE, task, {})}
    for words in ("WORDS = 1", "WORDS = 2"):  # what the file imports counts as well
        beside.write_text(words)
        keys.add(run_key(DENSE, task, {}))
    assert len(keys) == 5
    assert "text.py" in {file.name for file in sources(rule.stem)}
    assert as_score(Score(None), "x", {}) == Score(None)
    assert as_score(np.float32(0.5), "x", {}).correct == 0.5
    assert as_score(Score(1, "x", labels=(1, "a")), "x", {}).labels == ("1", "a")
    bad = (None, 2, "1", {"n": 1}, {"correct": 1, "n": "a"}, {"correct": 1, "n": 1e308})
    for found in (*bad, float("nan"), *(Score(1, x) for x in ({1}, "\ud800", float("inf")))):
        with pytest.raises(BadScore, match="expected"):
            as_score(found, "x", {})
    with pytest.raises(ConfigError, match=r"no function 'absent'"):
        load_scorer(f"{rule}:absent")
    with pytest.raises(ConfigError, match=r"expected FILE.py:FUNCTION, got 'rule'"):
        load_scorer("rule")
    with pytest.raises(ConfigError, match=r"metric: unknown 'anlz'"):
        own_metric("anlz", None)


@pytest.mark.parametrize(
    "body",
    ["1 / 0", "exit(0)", "raise GeneratorExit", "return Score(1, scores=None)", "return 10**400"],
)
def test_whatever_a_scorer_does_is_said_of_its_line(tmp_path: Path, body: str) -> None:
    file = tmp_path / "wild.py"
    code = (
        f"from olmo.eval.scoring import Score\ndef f(p, m):\n    m['options'].clear()\n    {body}"
    )
    file.write_text(code)
    spec = importlib.util.spec_from_file_location("wild", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    metadata = {"options": ["a"]}

    class Called:
        __call__ = staticmethod(module.f)

    try:
        scorer("called")(Called())
        with pytest.raises(ValueError, match="called: "):
            score_example("x", metadata, "called")
        scorer("wild")(module.f)
        with pytest.raises(ValueError, match="wild: ") as found:
            score_example("x", metadata, "wild")
    finally:
        for name in ("called", "wild"):
            SCORERS.pop(name, None)
    assert metadata == {"options": ["a"]}
    assert "return" in body or "(wild.py, line 4)" in str(found.value)


def test_packages_of_a_scorer_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_pkg").mkdir()
    (tmp_path / "own_start.py").write_text("from own_pkg import f\n")
    (tmp_path / "own_pkg" / "__init__.py").write_text("from .rule import f\nfrom . import more\n")
    for name in ("rule", "more"):
        (tmp_path / "own_pkg" / f"{name}.py").write_text("f = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module("own_start")
    names = {file.name for file in sources("own_start")}
    assert names == {"own_start.py", "__init__.py", "rule.py", "more.py"}


def test_all_files_of_a_user_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrapper may come from another module, and an import may hide from type checkers only."""
    (tmp_path / "own_help.py").write_text("def lenient(f):\n    return lambda p, m: f(p, m)\n")
    file = tmp_path / "own_deco.py"
    file.write_text(
        "from typing import TYPE_CHECKING\nfrom own_help import lenient\n"
        "if TYPE_CHECKING:\n    import own_types\nelse:\n    import own_else\n"
        "if not TYPE_CHECKING:\n    import own_not\n"
        "@lenient\ndef rate(p, m):\n    return 1.0\n"
    )
    for name in ("types", "else", "not"):
        (tmp_path / f"own_{name}.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("olmo.eval.store.LOADED", ["own_deco"])
    name = load_scorer(f"{file}:rate")
    assert {f.name for f in sources("own_deco")} == {
        *("own_deco.py", "own_help.py", "own_else.py", "own_not.py")
    }
    try:
        before = run_key(DENSE, replace(TASK, metric=name), {})
        file.write_text(file.read_text().replace("1.0", "0.5"))
        after = run_key(DENSE, replace(TASK, metric=name), {})
    finally:
        SCORERS.pop(name)
    assert before[:HALF] == after[:HALF] and before[HALF:] != after[HALF:]


def test_results_depend_on_the_code_that_scores_them() -> None:
    names = {file.name for file in sources(SCORERS["anls"].__module__)}
    assert {"score.py", "text.py"} <= names and not {"tasks.py", "tracking.py", "run.py"} & names
    assert {file.name for file in sources("olmo.eval.metrics")} == {"metrics.py", "prediction.py"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"metric": "anls", "tasks": "mvbench"}, "metric is for own data, and no task is a file"),
        ({"scorer": "{rule}:rate", "tasks": "mvbench"}, "scorer is for own data, and no task"),
        ({"metric": "anls", "scorer": "{rule}:rate"}, "either metric, a scorer's name, or scorer"),
        ({"metric": "anlz"}, "metric: unknown 'anlz'"),
        ({"scorer": "{rule}:absent"}, "no function 'absent'"),
    ],
)
def test_evaluation_and_training_refuse_the_same(
    file: Path, rule: Path, given: dict[str, str], message: str
) -> None:
    values = {"tasks": str(file)} | {k: v.format(rule=rule) for k, v in given.items()}
    with pytest.raises(ConfigError, match=message):
        plan_evaluation(EvalConfig(checkpoint=str(DENSE), **values))
    with pytest.raises(ConfigError, match=message):
        EvaluationCallback(InLoopConfig(eval_interval=1, **values))


def test_what_a_metric_refuses_is_said_before_answers_are_made(file: Path, rule: Path) -> None:
    """Of six lines one is broken, one has no answer, and one has options."""

    def dry_run(**given: str) -> tuple[str, list[str]]:
        config = EvalConfig(checkpoint=str(DENSE), tasks=str(file), **given)
        found = describe_evaluation(plan_evaluation(config))
        return found.text, [problem.reason for problem in found.problems]

    text, problems = dry_run()
    assert problems[0].startswith("1 examples left out, first: line 5: no file")
    assert len(problems) == 1 and " 5 " in text
    text, (problem,) = dry_run(metric="multiple_choice")
    assert problem.startswith("5 examples left out, first: ") and " 1 " in text
    (task,) = resolve_scored(None, str(file), "video_points", None)
    with pytest.raises(ValueError, match=r"video_points can score none of 5 examples, first mine"):
        survey(task, open_dataset(task), EvalSettings())
    with pytest.raises(ValueError, match="can score none of 5"):
        EvaluationCallback(InLoopConfig(eval_interval=1, tasks=str(file), metric="video_points"))
    rule.write_text("def rate(prediction):\n    return 1\n")
    with pytest.raises(ConfigError, match=r"rate takes no \(prediction, metadata\): too many pos"):
        dry_run(scorer=f"{rule}:rate")


def test_training_opens_the_file_at_its_start(file: Path, rule: Path) -> None:
    callback = EvaluationCallback(InLoopConfig(eval_interval=1, tasks=str(file)))
    assert len(callback.data["mine"]) == 6 and callback.tasks[0].metric == OWN_DATA
    for given in ({"metric": "anls"}, {"scorer": f"{rule}:rate"}):
        chosen = EvaluationCallback(InLoopConfig(eval_interval=1, tasks=f"{file},mvbench", **given))
        planned = plan_evaluation(
            EvalConfig(checkpoint=str(DENSE), tasks=f"{file},mvbench", **given)
        )
        assert chosen.tasks == planned.tasks
        assert [t.metric for t in chosen.tasks][1:] == ["em_start"] != [OWN_DATA]
        assert chosen.tasks[0].metric in (f"{rule.name}:rate", "anls")
    file.write_text("{}")
    with pytest.raises(CustomDataError, match=r"mine.jsonl: 1 lines cannot be used"):
        EvaluationCallback(InLoopConfig(eval_interval=1, tasks=str(file)))


@pytest.mark.slow
def test_the_script_on_own_data(file: Path) -> None:
    out = file.parent / "out"
    common = (EVALUATE, DENSE, f"--tasks={file}", f"--out={out}", "--max_new_tokens=8")
    text = run(*common, "--dry_run", code=1)
    assert "mine" in text and "line 5: no file" in text and not out.exists()
    text = run(*common, code=1)
    assert "1 of 6 examples left out, first 4:" in text and "line 5: no file" in text
    folder = out / DENSE_STEP.name / "mine"
    rows = json.loads((folder / "predictions.json").read_text())
    assert [row["correct"] is None for row in rows] == [False, False, True, False, False]
    rule = file.parent / "own_slow_rule.py"
    rule.write_text(SCORER.format(value='1 / (metadata["question"] != "How many?")'))
    text = run(*common, f"--scorer={rule}:rate", code=1)
    assert "2 of 6 examples left out" in text and "ZeroDivisionError" in text
    assert json.loads((folder / "metrics.json").read_text())["accuracy"] == 1
    run(EVALUATE, DENSE, "--tasks=absent.jsonl", "--dry_run", code=2)
