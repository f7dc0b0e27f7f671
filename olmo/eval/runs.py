"""Folders of evaluation runs, read back and named so that each can be told from the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from olmo.eval.prediction import Prediction
from olmo.eval.store import METRICS_FILE, read_metrics, read_predictions
from olmo.eval.tasks import folder_name


@dataclass
class Run:
    """The results in one folder: metrics, folders and predictions by task name."""

    folder: Path
    metrics: dict[str, dict[str, Any]]
    label: str = ""
    folders: dict[str, Path] = field(default_factory=dict)
    read: dict[str, list[Prediction]] = field(default_factory=dict)

    def predictions(self, task: str) -> list[Prediction]:
        """Those of one task that its scorer took, read on first use."""
        if task not in self.read:
            every = read_predictions(self.task_folder(task))
            self.read[task] = [one for one in every if one.error is None]
        return self.read[task]

    def task_folder(self, task: str) -> Path:
        return self.folders.get(task, self.folder / folder_name(task))


def load_runs(paths: Sequence[str | Path]) -> list[Run]:
    """Runs of these folders. A folder of runs, or of a training run with ``eval`` in it, stands for
    all of them, dense ones first, then by method and share; ``LABEL=FOLDER`` names one.

    Raises ``FileNotFoundError`` for a folder without results, ``ValueError`` for broken files, a
    label of several runs, and runs that would have the same name.
    """
    runs = []
    for given in map(str, paths):
        label, _, path = given.partition("=") if not Path(given).exists() else ("", "", given)
        found = _runs_in(Path(path or given))
        if label and len(found) > 1:
            raise ValueError(f"{path} holds {len(found)} runs: the label {label!r} is for one")
        found[0].label = label
        runs += found
    _name(runs)
    return runs


def _runs_in(folder: Path) -> list[Run]:
    """The runs of one folder, sorted."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder")
    if (folder / METRICS_FILE).exists():
        run = folder.resolve().parent
        raise ValueError(f"{folder} is the folder of one task; give that of its run, {run}")
    for parent in (folder, folder / "eval"):
        below = sorted(p for p in parent.iterdir() if p.is_dir()) if parent.is_dir() else []
        if found := [run for run in map(_load, [parent, *below]) if run.metrics]:
            return sorted(found, key=_rank)
    raise FileNotFoundError(f"{folder}: no {METRICS_FILE} of a task in it, nor in its eval")


def _load(folder: Path) -> Run:
    run = Run(folder, {})
    for path in sorted(folder.glob(f"*/{METRICS_FILE}")):
        metrics = read_metrics(path)
        task = metrics["task"]
        if task in run.metrics:
            both = f"{run.folders[task]} and {path.parent}"
            raise ValueError(f"results of one task, {task}, in two folders: {both}")
        run.metrics[task], run.folders[task] = metrics, path.parent
    return run


# --- names and order ---------------------------------------------------------------------------


def _name(runs: Sequence[Run]) -> None:
    """Labels from the settings; where those are the same, with a part of the path."""
    frames = {_model(run).get("max_frames") for run in runs}
    unnamed = [run for run in runs if not run.label]
    for run in unnamed:
        run.label = _settings_label(_model(run), len(frames) > 1)
    labels = [run.label for run in runs]
    for label in dict.fromkeys(run.label for run in unnamed):
        if labels.count(label) > 1:
            same = [run for run in unnamed if run.label == label]
            for run, part in zip(same, telling_parts([r.folder for r in same]), strict=True):
                run.label = f"{label} ({part})"
    labels = [run.label for run in runs]
    for run in runs:
        if labels.count(run.label) > 1:
            same_name = " and ".join(str(r.folder) for r in runs if r.label == run.label)
            raise ValueError(f"two runs are called {run.label!r}: {same_name}; label them apart")


def telling_parts(folders: Sequence[Path]) -> list[str]:
    """Of each folder the shortest part of its path that tells it from the others: the last of its
    names that differs in all of them, else as many of the last names as it takes. Of one folder
    twice it is the name."""
    paths = [folder.resolve().parts[::-1] for folder in folders]
    names = [list(level) for level in zip(*paths, strict=False)]
    depths = range(1, max(map(len, paths)) + 1)
    tails = [["/".join(path[:depth][::-1]) for path in paths] for depth in depths]
    apart = [parts for parts in (*names, *tails) if len(set(parts)) == len(folders)]
    return apart[0] if apart else tails[0]


def _rank(run: Run) -> tuple[str, float, int]:
    """Where a run stands in a table: dense first; the learned method before the others."""
    model = _model(run)
    method = str(model.get("prune_method")) if _share(model) else ""
    order = {"": "0", "scorer": "1"}.get(method, f"2{method}")
    return order, _share(model), int(model.get("max_frames") or 0)


def _model(run: Run) -> dict[str, Any]:
    return next(iter(run.metrics.values())).get("model") or {}


def _share(model: dict[str, Any]) -> float:
    """Share of the tokens that is removed."""
    return float(model.get("topk") or 0) if model.get("prune", True) else 0.0


def _settings_label(model: dict[str, Any], with_frames: bool) -> str:
    topk = _share(model)
    label = f"{model.get('prune_method')} {100 * topk:g}%" if topk else "dense"
    return f"{label}, {model.get('max_frames')} frames" if with_frames else label
