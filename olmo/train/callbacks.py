"""What a run shows and writes down: progress bar, ``metrics.jsonl``, ``summary.json``, W&B."""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm

from olmo.command_line import RunError
from olmo.files import write_json, write_text
from olmo.outside import OutsideError, foreign
from olmo.train.config import WandbConfig
from olmo.train.trainer import Callback, Trainer

log = logging.getLogger(__name__)

SHOWN = {
    "train/CrossEntropyLoss": ("loss", 3),
    "train/Accuracy": ("acc", 3),
    "train/AuxLoss": ("aux", 3),
    "throughput/tokens_per_second": ("tok/s", 0),
    "throughput/frames_per_second": ("frames/s", 0),
    "throughput/mfu": ("mfu", 2),
}
"""Name and decimals of the figures that are shown, the first ones before the others."""
BAR = 40
"""Columns that a progress bar needs without figures."""


class ProgressCallback(Callback):
    """A progress bar with the time left and as many figures as its terminal has room for; log
    lines, the first at once, where stderr is not a terminal."""

    def on_start(self, trainer: Trainer) -> None:
        self.first, self.last = trainer.state.step, trainer.last_step
        self.bar = tqdm(
            total=self.last,
            initial=self.first,
            bar_format="{n_fmt}/{total_fmt} {bar} {elapsed}<{remaining}{postfix}",
            dynamic_ncols=True,
            disable=None,
        )
        self.started = time.time()

    def on_step(self, trainer: Trainer, metrics: dict[str, float]) -> None:
        figures = [
            f"{short}={metrics[name]:.{digits}f}"
            for name, (short, digits) in SHOWN.items()
            if name in metrics
        ]
        step, done = trainer.state.step, trainer.state.step - self.first
        if self.bar.disable:
            if step % trainer.config.console_log_interval == 0 or step == self.last or done == 1:
                minutes = (time.time() - self.started) / done * (self.last - step) / 60
                text = " ".join(figures)
                log.info("step %d/%d %s eta=%.1fmin", step, self.last, text, minutes)
            return
        room = shutil.get_terminal_size().columns - BAR
        while figures and len(", ".join(figures)) > room:
            figures.pop()
        self.bar.set_postfix_str(", ".join(figures), refresh=False)
        self.bar.update(step - self.bar.n)

    def on_end(self, trainer: Trainer) -> None:
        self.bar.close()


class JsonlCallback(Callback):
    """Every step's metrics as a line of ``metrics.jsonl``; the last ones in ``summary.json``. What
    is not finite is null. Lines of steps that a resumed run does again are dropped first."""

    def on_start(self, trainer: Trainer) -> None:
        folder = Path(trainer.config.save_folder)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "metrics.jsonl"
        _drop_later_lines(path, trainer.state.step)
        self.file: TextIO = path.open("a")
        self.summary = folder / "summary.json"
        self.last: dict[str, Any] = {}

    def on_step(self, trainer: Trainer, metrics: dict[str, float]) -> None:
        finite = {k: v if math.isfinite(v) else None for k, v in metrics.items()}
        self.last = {"step": trainer.state.step, **finite}
        try:
            self.file.write(json.dumps({**self.last, **trainer.histograms}) + "\n")
            self.file.flush()
        except OSError as e:
            raise RunError(f"{self.file.name}: {e.strerror}") from e

    def on_end(self, trainer: Trainer) -> None:
        self.file.close()
        write_json(self.summary, self.last)


def check_wandb(mode: str | None) -> None:
    """``OutsideError`` if W&B would ask for a key: a batch job has nobody to answer. ``mode`` None
    is that of WANDB_MODE, else online."""
    import wandb  # imported late: slow, and needed only when configured

    mode = mode or os.environ.get("WANDB_MODE") or "online"
    if mode == "online" and not wandb.login(prompt=False):
        raise OutsideError(
            "wandb: no key is stored, so nothing can be logged online. Run `wandb login`, set "
            "WANDB_API_KEY, or give --wandb.mode=offline (`wandb sync` sends it later)"
        )


class WandbCallback(Callback):
    """Logs to Weights & Biases; ``wandb.mode=offline`` needs no network."""

    def __init__(self, settings: WandbConfig):
        self.settings = settings

    def on_start(self, trainer: Trainer) -> None:
        import wandb

        settings = self.settings
        resume = settings.allow_resume and trainer.state.wandb_id is not None
        with foreign(lambda reason: OutsideError(f"wandb does not start: {reason}")):
            self.run = wandb.init(
                project=settings.chosen_project,
                entity=settings.entity or os.environ.get("WANDB_ENTITY"),
                group=settings.group,
                name=settings.name or trainer.config.run_name,
                tags=settings.tags,
                mode=settings.mode,
                dir=trainer.config.save_folder,
                config=trainer.config.to_dict(),
                id=trainer.state.wandb_id if resume else None,
                resume="allow" if resume else None,
            )
        trainer.state.wandb_id = self.run.id

    def on_step(self, trainer: Trainer, metrics: dict[str, float]) -> None:
        import wandb

        shown: dict[str, Any] = dict(metrics)
        shown |= {name: wandb.Image(str(file)) for name, file in trainer.pictures.items()}
        for name, counts in trainer.histograms.items():
            edges = [k - 0.5 for k in range(len(counts) + 1)]
            shown[name] = wandb.Histogram(np_histogram=(counts, edges))
        if trainer.state.step % self.settings.log_interval == 0 or trainer.pictures:
            self.run.log(shown, step=trainer.state.step)

    def on_end(self, trainer: Trainer) -> None:
        self.run.finish(exit_code=0 if sys.exc_info()[0] is None else 1)


def _drop_later_lines(path: Path, step: int) -> None:
    if not path.is_file():
        return
    kept = []
    for line in path.read_text(errors="replace").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except (ValueError, LookupError, TypeError, RecursionError):
            log.warning("%s: dropped an unreadable line (a run was killed while writing)", path)
    write_text(path, "".join(line + "\n" for line in kept))
