"""``scripts/predict.py`` on many inputs: files of questions, resuming, what cannot be answered."""

import json
from pathlib import Path

import pytest

pytest.importorskip("transformers.models.molmo2")

from PIL import Image

from olmo.data.custom import CustomDataError, CustomDataset
from olmo.data.custom_line import record_of
from olmo.data.datasets.synthetic.video import SyntheticVideoQA, clip_path
from olmo.eval import answer_file
from olmo.eval.loading import load_answerer
from olmo.eval.prediction import Answered
from tests.eval.scripts import script_module
from tests.scored import CLIP_TOKENS, DENSE_STEP

ROOT = Path(__file__).parents[1]
DENSE = ROOT / "checkpoints" / "tiny-dense"
QUESTION, STYLE = "Which letter or digit moves?", "video_short_answer"
FLAGS = ["--checkpoint", str(DENSE), "--device", "cpu", "--max_new_tokens", "4"]


@pytest.fixture(scope="module")
def predict():
    return script_module("predict")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two clips, one that is none, and a picture."""
    path = tmp_path_factory.mktemp("media")
    data = SyntheticVideoQA("test", 2, root=path)
    for i, name in enumerate("ab"):
        (path / f"{name}.mp4").write_bytes(clip_path(data.folder, i).read_bytes())
    (path / "broken.mp4").write_bytes(b"no video")
    Image.new("RGB", (60, 60), "green").save(path / "p.png")
    return path


VIDEO = {"video": "a.mp4", "question": QUESTION, "style": STYLE, "id": "first"}
CHAT = {
    "messages": [
        {
            "role": "user",
            "content": [{"type": "image", "image": "p.png"}, {"type": "text", "text": "Colour?"}],
        }
    ]
}
CHOICE = {"video": "b.mp4", "question": "Which?", "options": ["red", "blue"]}
BROKEN = {"video": "broken.mp4", "question": "?"}
LLAVA = [{"from": "human", "value": "Colour?"}]
GONE = {"image": ["gone.png", "p.png"], "question": "?"}


def ask(predict, folder, lines, out, *flags):
    """Exit code, and the rows of the file."""
    file = folder / "questions.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    code = predict.main(["--input", str(file), "--out", str(out), *FLAGS, *flags])
    text = out.read_text() if out.exists() else ""
    return code, [json.loads(line) for line in text.splitlines()]


def same(rows):
    """What does not depend on the clock."""
    return [{k: v for k, v in row.items() if k not in ("seconds", "stages")} for row in rows]


def test_a_file_of_questions(predict, folder, tmp_path):
    lines = [VIDEO, BROKEN, CHAT, GONE, CHOICE]
    code, rows = ask(predict, folder, lines, tmp_path / "new" / "out.jsonl", "--topk", "0.5")
    assert code == 1
    assert [(row["file"], row["line"]) for row in rows] == [
        ("questions.jsonl", i) for i in range(1, 6)
    ]
    assert rows[0]["id"] == "first" and "id" not in rows[2]
    assert "broken.mp4" in rows[1]["error"] and "gone.png" in rows[3]["error"]
    for i in (0, 2, 4):
        assert isinstance(rows[i]["answer"], str) and rows[i]["seconds"] > 0
        pruned = rows[i]["tokens_before"] - rows[i]["tokens_after"]
        assert pruned == (0 if i == 2 else CLIP_TOKENS // 2)
    alone = load_answerer(DENSE, {"vision_backbone": {"vit": {"topk": 0.5}}})
    expected = alone.answer(QUESTION, [folder / "a.mp4"], 4, style=STYLE)
    assert rows[0]["answer"] == expected.text
    assert rows[0]["tokens_after"] == expected.n_prompt_tokens


def test_a_killed_run_goes_on(predict, folder, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out.jsonl"
    _, rows = ask(predict, folder, [VIDEO, CHAT, BROKEN], out)
    whole = out.read_text().splitlines(keepends=True)
    out.write_text(whole[0] + whole[1][:40])
    answered = []

    def watched(found):
        if isinstance(found, Answered):
            answered.append(found.index)
        return answer_row(found)

    answer_row = answer_file.answer_row
    monkeypatch.setattr(answer_file, "answer_row", watched)
    code, again = ask(predict, folder, [VIDEO, CHAT, BROKEN], out)
    assert code == 1 and answered == [1] and same(again) == same(rows)
    assert "1 of 3 inputs are answered already" in capsys.readouterr().out
    changed = {**VIDEO, "question": "What colour?"}
    _, other = ask(predict, folder, [changed, CHAT, BROKEN], out)
    assert answered == [1, 0]
    assert sorted(row["line"] for row in other) == [1, 2, 3]
    assert ask(predict, folder, [changed, CHAT], tmp_path / "two.jsonl")[0] == 0
    assert ask(predict, folder, [changed, CHAT], tmp_path / "two.jsonl")[0] == 0
    assert answered == [1, 0, 0, 1]


@pytest.mark.parametrize(
    ("lines", "flags", "message"),
    [
        ([VIDEO], ["--topk", "0.5"], "was written with another checkpoint or other settings"),
        ([], [], "it is empty"),
        ([{"video": "a.mp4"}], [], "no 'question'"),
        ([{"question": "?"}], [], "expected either 'video' or 'image'"),
        ([{**VIDEO, "anser": "?"}], [], "unknown key 'anser'"),
    ],
)
def test_what_is_refused(predict, folder, tmp_path, capsys, lines, flags, message):
    out = tmp_path / "out.jsonl"
    _, rows = ask(predict, folder, [VIDEO], out)
    code, after = ask(predict, folder, lines, out, *flags)
    assert code == 2 and message in capsys.readouterr().err and after == rows


@pytest.mark.parametrize("text", ["notes", "a\nb\n", '{"a": 1}\n', "[1]\n"])
def test_a_file_of_something_else_stays(predict, folder, tmp_path, capsys, text):
    out = tmp_path / "notes.txt"
    out.write_text(text)
    file = folder / "questions.jsonl"
    file.write_text(json.dumps(VIDEO))
    assert predict.main(["--input", str(file), "--out", str(out), *FLAGS]) == 2
    assert "is no file of answers: name another file" in capsys.readouterr().err
    assert out.read_text() == text


def test_answers_to_other_questions_stay(predict, folder, tmp_path, capsys):
    out = tmp_path / "out.jsonl"
    _, rows = ask(predict, folder, [CHAT, CHAT], out)
    code, after = ask(predict, folder, [CHAT], out)
    assert code == 2 and after == rows
    assert "answer to another input, 'questions.jsonl' line 2" in capsys.readouterr().err


def test_batches(predict, folder, tmp_path):
    lines = [VIDEO, CHAT, BROKEN, CHOICE]
    _, one = ask(predict, folder, lines, tmp_path / "one.jsonl")
    code, three = ask(predict, folder, lines, tmp_path / "three.jsonl", "--batch_size", "3")
    assert code == 1 and sorted(row["line"] for row in three) == [1, 2, 3, 4]
    tokens = {row["line"]: row.get("tokens_before") for row in one}
    assert {row["line"]: row.get("tokens_before") for row in three} == tokens


def test_videos_one_after_the_other(predict, folder, tmp_path, capsys):
    files = [str(folder / name) for name in ("a.mp4", "broken.mp4", "p.png")]
    out = tmp_path / "out.jsonl"
    assert predict.main([*files, QUESTION, *FLAGS, "--dtype", "bfloat16", "--out", str(out)]) == 1
    text, err = capsys.readouterr()
    assert text.index(f"{files[0]}:\n") < text.index(f"{files[2]}:\n")
    assert text.count("tokens: ") == 2 and "broken.mp4" in err
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(row["file"], row["line"]) for row in rows] == [(f, i + 1) for i, f in enumerate(files)]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["a.mp4"], "give VIDEO and QUESTION, or --input"),
        ([], "give VIDEO and QUESTION, or --input"),
        (["--input", "q.jsonl"], "--input needs --out"),
        (["a.mp4", "?", "--input", "q.jsonl", "--out", "x"], "takes no VIDEO"),
        (["a.mp4", "?", "--dtype", "float16"], "invalid choice: 'float16'"),
        (["a.mp4", "?", "--batch_size", "0"], "must be at least 1"),
    ],
)
def test_wrong_command_lines(predict, capsys, flags, message):
    with pytest.raises(SystemExit):
        predict.parse_args([*flags, "--checkpoint", "x"])
    assert message in capsys.readouterr().err


def test_null_is_no_pruning(predict):
    args = predict.parse_args(["a.mp4", "?", "--checkpoint", "x", "--topk", "null"])
    assert predict.overrides_of(args) == {"vision_backbone": {"vit": {"topk": 0.0}}}


def test_out_is_not_in_the_checkpoint(predict, folder, tmp_path, capsys):
    out = DENSE_STEP / "out.jsonl"
    assert ask(predict, folder, [VIDEO], out) == (2, [])
    assert "is inside of the checkpoint" in capsys.readouterr().err


def test_lines_that_only_ask(folder):
    asked = [VIDEO, CHOICE, CHAT, {"image": "p.png", "conversations": LLAVA}]
    for line in asked:
        record_of(line, "x", answered=False)
        with pytest.raises(CustomDataError, match=r"answer|assistant"):
            record_of(line, "x")
    for turns in (3, [], [3], [{"role": "user"}]):
        with pytest.raises(CustomDataError, match="messages"):
            record_of({"messages": turns}, "x", answered=False)
    file = folder / "asked.jsonl"
    file.write_text("\n".join(map(json.dumps, asked)))
    for example in map(CustomDataset.open(file, evaluation=True).get, range(4), [None] * 4):
        assert not {"answer", "answers", "answer_idx"} & example["metadata"].keys()
    file.write_text(json.dumps(BROKEN | {"video": "gone.mp4"}))
    assert len(CustomDataset.open(file, questions=True)) == 1
    with pytest.raises(CustomDataError, match=r"no 'answer'"):
        CustomDataset.open(file)
