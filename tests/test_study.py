"""The study: its plans, its runs and its page."""

import json
from pathlib import Path

import pytest

from launch_scripts import train_image_video_sft
from olmo.config import parse_overrides
from olmo.data.loader import DataConfig
from olmo.data.mixture import MixtureConfig
from olmo.data.registry import check_split
from olmo.eval.study import read_lines, read_results
from olmo.models.loading import load_model_config, select_checkpoint
from scripts import study, study_report
from tests.scored import DENSE

PLANS = sorted((study.ROOT / "configs" / "study").glob("*.yaml"))
STTS = {"model_name": "temporal_video_olmo"}
VIT = "--model.vision_backbone.vit"


@pytest.mark.parametrize("file", PLANS, ids=lambda file: file.stem)
def test_every_run_of_a_plan_is_a_training(file, tmp_path):
    plan = study.read_plan(file)
    jobs = list(plan.jobs())
    assert len({job.key for job in jobs}) == len(jobs) >= len(plan.seeds)
    assert MixtureConfig.load(plan.mixture) and select_checkpoint(plan.start)
    assert check_split(plan.test, "test")
    for job in jobs:
        command = job.command(plan, tmp_path)
        args, rest = train_image_video_sft.build_parser().parse_known_args(command[2:])
        config = train_image_video_sft.build_config(args, parse_overrides(rest))
        assert config.model.budget.topk == job.topk and config.seed == job.seed
        assert config.data.seed - DataConfig.seed == job.seed  # another order of the data
        assert config.max_duration == job.steps


def plan_file(folder: Path, text: str) -> Path:
    file = folder / "small.yaml"
    common = "start: a, mixture: b, config: c, steps: 3, test: synthetic_video_qa, clips: 1"
    file.write_text(f"{{{common}, seeds: [0, 1], {text}}}")
    return file


def test_jobs_go_seed_by_seed(tmp_path):
    plan = study.read_plan(
        plan_file(tmp_path, "flags: [--x], runs: {a: {topk: [0.5, 0]}, b: {topk: [0.5], steps: 9}}")
    )
    jobs = list(plan.jobs())
    assert [job.key for job in jobs] == [
        f"{name}-seed{seed}" for seed in (0, 1) for name in ("a-0.5", "a-0", "b-0.5")
    ]
    assert [job.steps for job in jobs] == [3, 3, 9] * 2
    assert jobs[0].command(plan, Path("out"))[-2:] == [f"{VIT}.topk=0.5", "--x"]


def test_a_run_may_be_asked_in_several_ways(tmp_path):
    asked = "asked: [{}, {fps: 4}, {fps: 8, topk: 0.75}]"
    plan = study.read_plan(plan_file(tmp_path, f"runs: {{a: {{topk: [0.5], {asked}}}}}"))
    job = next(plan.jobs())
    assert job.lines == [
        ("a", 0.5, 0),
        ("a, 4 fps", 0.5, 0),
        ("a, trained at 50%, 8 fps", 0.75, 0),
    ]
    config = load_model_config(select_checkpoint(DENSE), STTS | job.asked[2].overrides)
    assert config.budget.topk == 0.75
    video = config.mm_preprocessor.video
    assert (video.max_frames, video.max_fps) == (64, [8.0])
    assert job.asked[0].overrides == {}


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("rums: {}", "rums"),
        ("runs: {}, tset: x", "tset"),
        ("runs: {a: {topk: [0.5], flag: [--x]}}", "runs.a.flag"),
        ("runs: {a: {topk: [0.5], flags: --x}}", "runs.a.flags"),
        ("runs: {a: {topk: 0.5}}", "runs.a.topk"),
        ("runs: {a: {flags: []}}", "topk"),
        ("runs: {a: {topk: [0.5], asked: [{frame: 3}]}}", "runs.a.asked[0].frame"),
        ("runs: {a: {topk: [0.5], asked: [{topk: 2}]}}", "topk must be in [0, 1)"),
        ("runs: {a: {topk: [-1]}}", "topk must be in [0, 1)"),
        ("runs: {a: {topk: [0.5], asked: [{}, {topk: 0.5}]}}", "asked twice: a at 0.5, seed 0"),
        ("runs: {a: {topk: [0.5], steps: 0}}", "steps must be at least 1"),
    ],
)
def test_a_wrong_plan_is_named(tmp_path, text, named, monkeypatch, capsys):
    file = plan_file(tmp_path, text)
    monkeypatch.setattr("sys.argv", ["study.py", str(file)])
    assert study.main() == 2
    error = capsys.readouterr().err
    assert str(file) in error and named in error


def line(run, topk, seed, answers, recall=1.0):
    return {
        **{"run": run, "topk": topk, "seed": seed, "steps": 3, "correct": answers},
        **{"test": "a", "clips": 2},
        **{"recall": recall, "kept": 1 - topk, "flops": 1 - topk / 2, "loss": 1.0},
        **{
            "seconds": {"training": 3500.0, "scoring": 100.0},
            "date": "2026-01-01",
            "commit": "abc",
        },
        **{"machine": "x86_64, 1 thread", "command": f"python {run} {topk} --seed={seed}"},
    }


TRAINING = """
import json, pathlib, sys
words = dict(word.partition("=")[::2] for word in sys.argv)
if "--fails" in words:
    sys.exit(3)
folder = pathlib.Path(words["--save_folder"])
if "--is_stopped" not in words:
    (folder / ("step" + words["--max_duration"])).mkdir(exist_ok=True)
step = {"train/CrossEntropyLoss": 0.5, "throughput/step_seconds": 2.0}
(folder / "metrics.jsonl").write_text((json.dumps(step) + "\\n") * 3)
"""


@pytest.fixture
def small(tmp_path, monkeypatch, capsys):
    """Runs the script on the text of a plan, with ``TRAINING`` for the training script: its exit
    code, lines and errors."""
    scripts = tmp_path / "launch_scripts"
    scripts.mkdir()
    (scripts / "train_image_video_sft.py").write_text(TRAINING)
    monkeypatch.setattr(study, "ROOT", tmp_path)
    (tmp_path / "c").write_text("a: 1")  # the file of settings
    figures = {"correct": {"brief": "10"}, "recall": 1.0, "kept": 0.5, "flops": 0.6}
    monkeypatch.setattr(study, "score", lambda *_: figures)

    def run(text, *more):
        folders = (f"--out={tmp_path / 'runs'}", f"--results={tmp_path}")
        argv = ["study.py", str(plan_file(tmp_path, text)), *folders, *more]
        monkeypatch.setattr("sys.argv", argv)
        code = study.main()
        return code, read_lines(tmp_path / "small.jsonl"), capsys.readouterr().err

    return run


def test_a_run_that_fails_costs_no_other_and_is_made_again(small):
    runs = "runs: {{a: {{topk: [0.5], flags: [{}]}}, b: {{topk: [0.5], steps: 9}}}}"
    code, lines, errors = small(runs.format("--fails"))
    assert code == 1 and "a-0.5-seed0: training ended before step 3 with exit code 3" in errors
    assert sorted((one["run"], one["seed"], one["steps"]) for one in lines) == [
        ("b", 0, 9),
        ("b", 1, 9),
    ]
    code, lines, errors = small(runs.format("--is_stopped"))
    assert code == 1 and len(lines) == 2 and "with exit code 0" in errors
    code, lines, _ = small(runs.format(""))
    assert code == 0 and len(lines) == 4 and lines[0]["loss"] == 0.5
    assert small(runs.format(""))[1] == lines


def test_a_plan_that_changed_is_made_again(small, tmp_path):
    assert len(small("runs: {a: {topk: [0.5]}}")[1]) == 2
    assert len(small("runs: {a: {topk: [0.5], flags: [--x]}}")[1]) == 4
    assert len(small("runs: {a: {topk: [0.5], flags: [--x]}}", "--seeds", "1", "7")[1]) == 5
    (tmp_path / "c").write_text("a: 2")
    code, lines, _ = small("runs: {a: {topk: [0.5], flags: [--x]}}")
    assert code == 0 and len(lines) == 7
    (found,) = read_results(tmp_path / "small.jsonl")
    assert [one["seed"] for one in found.lines] == [0, 1]  # nothing of the old settings


def test_what_was_trained_serves_other_questions(small, tmp_path):
    """The training script ends at once when its folder holds the last step."""
    small("runs: {a: {topk: [0.5]}}")
    folders = set((tmp_path / "runs").iterdir())
    lines = small("asked: [{fps: 4}], runs: {a: {topk: [0.5]}}")[1]
    assert [one["seconds"]["training"] for one in lines] == [6.0, 6.0, 0.0, 0.0]  # counts once
    assert set((tmp_path / "runs").iterdir()) == folders


def test_what_is_asked_for_and_is_not_there(small, tmp_path):
    assert "no run c" in small("runs: {a: {topk: [0.5]}}", "--only", "c")[2]
    results = tmp_path / "small.jsonl"
    whole = json.dumps(line("a", 0.5, 3, {}))
    results.write_text(whole)  # without the end of the line
    assert len(small("runs: {a: {topk: [0.5]}}")[1]) == 3
    for torn in ('{"ru', "[1, 2]", '{"run": "a"}'):
        results.write_text(f"{whole}\n{torn}")
        with pytest.raises(ValueError, match=r"small.jsonl, line 2: not a line of results"):
            small("runs: {a: {topk: [0.5]}}")


def test_a_set_that_is_not_one_of_clips_costs_no_training(tmp_path, monkeypatch, capsys):
    file = plan_file(tmp_path, "runs: {a: {topk: [0.5]}}")
    file.write_text(file.read_text().replace("test: synthetic_video_qa", "test: synthetic_text_qa"))
    monkeypatch.setattr("sys.argv", ["study.py", str(file), f"--results={tmp_path}"])
    monkeypatch.setattr(study, "make_all", None)
    assert study.main() == 2
    assert "synthetic_text_qa" in capsys.readouterr().err


def test_only_what_was_made_alike_is_compared(tmp_path):
    """Seed 1 was made with fewer steps; the rival was asked about other clips."""
    file = tmp_path / "a.jsonl"
    other = line("random", 0.5, 0, {"brief": "10"}) | {"clips": 5}
    old = line("a", 0.5, 1, {"brief": "11"}) | {"command": "python --max_duration=2"}
    lines = [old, other, line("a", 0.5, 0, {"brief": "10"})]
    file.write_text("".join(json.dumps(one) + "\n" for one in lines))
    found = read_results(file)
    assert [(one.name, len(one.lines)) for one in found] == [("random", 1), ("a", 1)]
    assert found[1].against(found[0]) == "other clips or config"


def test_the_page(tmp_path):
    pytest.importorskip("matplotlib")
    results = tmp_path / "study"
    results.mkdir()
    lines = [line("dense", 0.0, s, {"brief": "1111", "count": "1110"}) for s in (0, 1)]
    for topk, right in ((0.5, "1110"), (0.8, "1100")):
        lines += [line("scorer", topk, s, {"brief": "1111", "count": right}) for s in (0, 1)]
        lines += [line("random", topk, s, {"brief": "0001", "count": right}, 0.3) for s in (0, 1)]
    lines += [
        line(f"{name}, trained at 50%", 0.8, s, {"brief": brief, "count": "1111"})
        for name, brief in (("scorer", "1111"), ("random", "0011"))
        for s in (0, 1)
    ]
    lines.append(line("dense", 0.0, 1, {"brief": "1111", "count": "1111"}))  # made again: it counts
    (results / "main.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (results / "other.jsonl").write_text(json.dumps(line("no bias", 0.5, 0, lines[0]["correct"])))
    budgets = [
        line(name, 0.8, 0, {"brief": brief}) | {"test": "b"}
        for name, brief in (("scorer", "1111"), ("scorer, otherwise", "1110"))
    ]
    (results / "budgets.jsonl").write_text("\n".join(map(json.dumps, budgets)))
    (results / "intro.md").write_text("What this is.\n")
    page = study_report.report(results, tmp_path / "study.md")
    assert "What this is." in page and "(study/main.png)" in page
    assert (results / "main.png").stat().st_size > 10_000
    rows = [r.split("|")[1:-1] for r in page.splitlines() if r.startswith("| ")]
    assert "## Other" in page and any(row[0].strip() == "no bias 50%" for row in rows)
    first = next(r for r in rows if r[0].strip() == "dense")
    assert [c.strip() for c in first[1:4]] == ["2", "93.8 (87.5 to 100.0)", ""]
    stts = next(r for r in rows if r[0].strip() == "scorer 50%")
    assert stts[2].strip() == "87.5 (87.5 to 87.5)" and stts[3].strip().startswith("-6.2 (")
    assert stts[4].strip().startswith("+37.5 (") and stts[5:][0].strip() == "100.0"
    assert "14 trainings of 3 steps" in page and "14.0 hours" in page
    # trained at half: against random that was trained so; then trained at the share
    at_80 = [[c.strip() for c in r] for r in rows if r[0].strip() == "scorer 80%"]
    at_half, by_kind, there = at_80[:3]
    assert at_half[2] == "100.0 (100.0 to 100.0)" and at_half[4].startswith("+25.0 (")
    assert by_kind[1:] == ["100", "100"]
    assert there[2] == "75.0 (75.0 to 75.0)" and there[4].startswith("-25.0 (")
    # a plan with its own clips is compared within itself
    (changed,) = [[c.strip() for c in r] for r in rows if r[0].strip() == "scorer, otherwise 80%"]
    assert changed[3] == "" and changed[4].startswith("-25.0 (")


def test_no_results(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["study_report.py", "--results", str(tmp_path)])
    assert study_report.main() == 2
    assert "no results" in capsys.readouterr().err
