"""What happens beside training every so many steps, on every rank: evaluation and pictures."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from olmo.data.examples import BAD_EXAMPLE, ExampleSource, decode_video, describe_error
from olmo.data.loader import LaneDataset
from olmo.distributed import is_main
from olmo.eval.evaluate import TaskResult, evaluate_task, survey
from olmo.eval.own_data import open_dataset, resolve_scored
from olmo.eval.report import Problem, find_problems
from olmo.eval.report_html import write_pages
from olmo.eval.settings import EvalSettings
from olmo.eval.store import write_result
from olmo.models.parallel import whole_copy
from olmo.nn.vision_backbone import VisionOutput
from olmo.train.config import InLoopConfig
from olmo.train.trainer import Callback, Trainer
from olmo.types import VideoFrames
from olmo.viewer.cells import CellEdges
from olmo.viewer.kept import KeptVideo, cells_of
from olmo.viewer.picture import pruning_picture

log = logging.getLogger(__name__)

EVAL_SETTINGS = ("max_examples", "max_new_tokens", "seed")
"""Numbers among a result's metrics that say how it was found."""
CLIP_SEARCH = 256
"""Examples of the stream among which a clip for the pictures is looked for."""


def _due(trainer: Trainer, interval: int) -> bool:
    step = trainer.state.step
    return step % interval == 0 or step == trainer.config.last_step


class EvaluationCallback(Callback):
    """Generates and scores answers to ``in_loop.tasks`` and adds the figures to the step's metrics.

    Files go to ``RUN/eval/step{N}/TASK``. Answers need decisions that differ between ranks, so
    each rank works with a whole copy of a sharded model, which goes away afterwards.
    """

    def __init__(self, config: InLoopConfig):
        self.interval = config.eval_interval
        self.tasks = resolve_scored(None, config.tasks, config.metric, config.scorer)
        self.settings = EvalSettings(
            device_batch_size=config.device_batch_size, max_examples=config.max_examples
        )
        # own data are checked now, not after hours of training
        self.data = {task.name: open_dataset(task) for task in self.tasks if task.own}
        for task in self.tasks:
            if task.own:
                survey(task, self.data[task.name], self.settings)

    def on_start(self, trainer: Trainer) -> None:
        for task in self.tasks:
            if not task.own:
                self.data[task.name] = open_dataset(task)

    def on_step(self, trainer: Trainer, metrics: dict[str, float]) -> None:
        if not _due(trainer, self.interval):
            return
        config, device = trainer.config, trainer.device
        bf16 = config.precision == "amp_bf16"
        half = torch.bfloat16 if bf16 and device.type == "cuda" else None
        model = whole_copy(trainer.model, half)
        folder = Path(config.save_folder) / "eval" / f"step{trainer.state.step}"
        found: list[dict[str, Any]] = []
        problems: list[Problem] = []
        try:
            for task in self.tasks:
                try:
                    with (
                        torch.autocast(device.type, torch.bfloat16, enabled=bf16),
                        torch.compiler.set_stance("force_eager"),  # each length is a shape
                    ):
                        result = evaluate_task(
                            *(model, config.model, task, self.settings, device),
                            dataset=self.data[task.name],
                        )
                    if is_main():
                        timed = result.metrics | {"timing": result.timing}
                        write_result(folder / task.folder, timed, result.predictions)
                except (OSError, ValueError) as e:  # the training goes on
                    problems.append(Problem(task.name, describe_error(e)))
                    continue
                found.append(result.metrics | {"timing": result.timing})
                problems += find_problems(result.metrics)
                metrics |= _figures(result, trainer.state.step)
        finally:
            trainer.model.train()
        if is_main():
            for problem in problems:
                log.warning("%s: %s", problem.task, problem.reason)
            try:
                write_pages(folder, found, problems)
            except OSError as e:
                log.warning("no report of step %d: %s", trainer.state.step, describe_error(e))


def _figures(result: TaskResult, step: int) -> dict[str, float]:
    """The numbers of a result, for the step's metrics and the log."""
    name = result.task.name
    figures = {
        k: float(v)
        for k, v in result.metrics.items()
        if isinstance(v, (int, float)) and type(v) is not bool and k not in EVAL_SETTINGS
    }
    text = ", ".join(f"{k} {v:.4g}" for k, v in figures.items())
    log.info("step %d, %s: %s", step, name, text)
    return {f"eval/{name}/{k}": v for k, v in figures.items()}


class PictureCallback(Callback):
    """Draws which cells of one clip are kept: ``RUN/pictures/step{N}.png``.

    The clip is the first video of the training stream. Its forward pass runs on every rank.
    """

    def __init__(self, interval: int):
        self.interval = interval
        self.batch: dict[str, Tensor] | None = None

    def on_start(self, trainer: Trainer) -> None:
        dataset = trainer.loader.dataset
        assert isinstance(dataset, LaneDataset)
        found = first_clip(dataset.source)
        if found is None:
            log.warning("no video among %d examples: no pictures of kept tokens", CLIP_SEARCH)
            return
        self.clip, arrays = found
        batch = trainer.config.model.build_collator()([arrays])
        self.batch = {k: v for k, v in batch.items() if isinstance(v, Tensor)}

    def on_step(self, trainer: Trainer, metrics: dict[str, float]) -> None:
        if self.batch is None or not _due(trainer, self.interval):
            return
        trainer.model.eval()
        try:
            with torch.no_grad():
                out = trainer.forward(self.batch)
        finally:
            trainer.model.train()
        assert out.vision is not None
        if is_main():
            folder = Path(trainer.config.save_folder) / "pictures"
            folder.mkdir(parents=True, exist_ok=True)
            self._draw(trainer, out.vision, folder / f"step{trainer.state.step}.png")

    def _draw(self, trainer: Trainer, vision: VisionOutput, file: Path) -> None:
        edges = CellEdges.of_video(trainer.config.model)
        kept = KeptVideo(self.clip, edges, *cells_of(vision, len(self.clip.frames)))
        title = f"{trainer.config.run_name}, step {trainer.state.step}"
        pruning_picture(kept, title).save(file)
        trainer.pictures["stts/kept_tokens"] = file


def first_clip(source: ExampleSource) -> tuple[VideoFrames, dict[str, Any]] | None:
    """The first video of the stream that can be read, with its preprocessed example."""
    preprocessor = source.preprocessor
    for i in range(CLIP_SEARCH):
        try:
            example, rng = source.raw(i)
            if "video" in example:
                video = decode_video(example, preprocessor)
                return video, preprocessor(example, video, rng)
        except BAD_EXAMPLE:
            continue  # the loader says so when it comes to this example
    return None
