"""Answers of a model to the examples of a data set, or to a single question.

``exact`` generation runs one example per forward pass. Floating-point results depend on the shape
of a batch (and on the CPU on the number of threads), so this alone makes an answer independent of
the batch size, of the other examples and of the number of processes. ``batched`` runs several at
once, examples of similar length together; a near-tie between two tokens may then fall otherwise.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

from olmo.data.animation import is_video
from olmo.data.examples import BAD_EXAMPLE, describe_error, prepare, skip_reason
from olmo.data.registry import Dataset
from olmo.data.stream import example_rng
from olmo.device import device_seconds
from olmo.distributed import get_rank, get_world_size, is_main
from olmo.eval.lockstep import Lockstep
from olmo.eval.prediction import Answered, Asked, Prediction, Skipped
from olmo.eval.tasks import MC
from olmo.tokenizer import MolmoTokenizer
from olmo.types import HOST_INPUTS

if TYPE_CHECKING:
    from olmo.models.molmo2.molmo2 import Molmo2, Molmo2Config
    from olmo.preprocessing.collator import Collator
    from olmo.preprocessing.multimodal import ExamplePreprocessor

Generation = Literal["exact", "batched"]

LENGTH_WINDOW = 8
"""``batched``: so many batches are loaded together and cut by length."""


@dataclass
class Pass:
    """Examples of one forward pass, with their collated ``inputs``."""

    inputs: dict[str, Any]
    asked: list[Asked]


@dataclass(frozen=True)
class Questions:
    """The examples ``indices`` of ``dataset``, to be answered with at most ``max_new_tokens``.

    A process loads ``batch_size`` of them at once. An example's random numbers depend on ``seed``
    and its index alone. ``prompt``: style that replaces that of the examples.
    """

    name: str
    dataset: Dataset
    indices: Sequence[int]
    max_new_tokens: int
    seed: int = 0
    batch_size: int = 1
    generation: Generation = "exact"
    prompt: str | None = None

    @property
    def rows_per_pass(self) -> int:
        return self.batch_size if self.generation == "batched" else 1

    @property
    def chunk(self) -> int:
        """Examples that are loaded together."""
        return self.batch_size * (LENGTH_WINDOW if self.rows_per_pass > 1 else 1)


@dataclass
class ExampleLoader(torch.utils.data.Dataset[list[Pass | Skipped]]):
    """Item ``j`` holds the ``j``-th chunk of ``questions``."""

    questions: Questions
    preprocessor: ExamplePreprocessor
    collator: Collator
    tokenizer: MolmoTokenizer

    def __len__(self) -> int:
        return -(-len(self.questions.indices) // self.questions.chunk)

    def __getitem__(self, j: int) -> list[Pass | Skipped]:
        questions, chunk = self.questions, self.questions.chunk
        loaded: list[Pass | Skipped] = []
        found = []
        for index in questions.indices[j * chunk : (j + 1) * chunk]:
            try:
                found.append(self._load(index))
            except BAD_EXAMPLE as e:
                loaded.append(Skipped(index, skip_reason(e)))
        n = questions.rows_per_pass
        if n > 1:
            found.sort(key=lambda pair: (pair[1].n_tokens, pair[1].index))
        for i in range(0, len(found), n):
            arrays, asked = zip(*found[i : i + n], strict=True)
            loaded.append(Pass(collated(self.collator, arrays), list(asked)))
        return loaded

    def _load(self, index: int) -> tuple[dict[str, Any], Asked]:
        start, questions = time.perf_counter(), self.questions
        example = raw_example(questions.dataset, index, questions.seed)
        question = example.get("question")
        if questions.prompt is not None:
            example |= {"style": questions.prompt}
        arrays = prepare(example, self.preprocessor)
        ids = [int(i) for i in arrays["input_tokens"]]
        metadata = arrays.get("metadata") or {}
        question = question or metadata.get("question")
        question = question or self.tokenizer.decode(ids, truncate_at_eos=False)
        return arrays, Asked(index, metadata, question, len(ids), time.perf_counter() - start)


@dataclass(frozen=True)
class Reply:
    """The answer to a single question, and how many tokens went in (after pruning) and came
    out."""

    text: str
    n_prompt_tokens: int
    n_new_tokens: int


@dataclass
class Answerer:
    """A model that answers: the one that ``load`` gives, which is called when it is needed. A
    ``sharded`` one is spread over the ranks, and every rank has to call ``answers``."""

    load: Callable[[], Molmo2]
    config: Molmo2Config
    device: torch.device
    sharded: bool = False

    def __post_init__(self) -> None:
        self.tokenizer = self.config.build_tokenizer()
        self.preprocessor = self.config.build_preprocessor(self.tokenizer)
        self.collator = self.config.build_collator()

    @cached_property
    def model(self) -> Molmo2:
        return self.load()

    @cached_property
    def lockstep(self) -> Lockstep | None:
        if not self.sharded:
            return None
        idle = self.preprocessor({"question": "", "style": "demo"}, for_inference=True)
        return Lockstep(self.model, on_device(self.collator([idle]), self.device), self.device)

    def answers(
        self, questions: Questions, num_workers: int = 0, shared: bool = False
    ) -> Iterator[Answered | Skipped]:
        """Answer the ``questions`` one after the other; ``shared``: this rank's part of them. The
        model is in evaluation mode meanwhile."""
        was_training = self.model.training
        self.model.eval()
        more = self.lockstep.anyone if self.lockstep is not None else bool
        try:
            for one in self._loaded(questions, num_workers, shared):
                if isinstance(one, Skipped):
                    yield one
                else:
                    more(True)
                    yield from self._answer(one, questions.max_new_tokens)
            while more(False):
                yield from self._answer(None, questions.max_new_tokens)
        finally:
            self.model.train(was_training)

    def again(
        self,
        questions: Questions,
        earlier: Mapping[int, Prediction],
        num_workers: int = 0,
        shared: bool = False,
    ) -> Iterator[Answered | Skipped]:
        """The same from ``earlier`` answers, to be scored anew; no model is needed."""
        for one in self._loaded(questions, num_workers, shared):
            if isinstance(one, Skipped):
                yield one
                continue
            for asked in one.asked:
                was = earlier[asked.index]
                yield Answered(asked, was.prediction, was.n_tokens_after, was.seconds, was.pruning)

    def _loaded(
        self, questions: Questions, num_workers: int, shared: bool
    ) -> Iterator[Pass | Skipped]:
        loader = ExampleLoader(questions, self.preprocessor, self.collator, self.tokenizer)
        own = range(len(loader))[get_rank() :: get_world_size()] if shared else range(len(loader))
        batches = DataLoader(
            loader, batch_size=None, sampler=own, num_workers=num_workers, collate_fn=_as_is
        )
        silent = not is_main() or len(questions.indices) < 2
        for chunk in tqdm(batches, desc=questions.name, unit="batch", disable=silent):
            yield from chunk

    def _answer(self, group: Pass | None, limit: int) -> Iterator[Answered | Skipped]:
        inputs = None if group is None else on_device(group.inputs, self.device)
        stops = [self.tokenizer.eos_id]
        try:
            with torch.no_grad(), self._watch_vision() as vision:
                start = time.perf_counter()
                if self.lockstep is not None:
                    out: Any = self.lockstep.generate(inputs, limit, stops)
                else:
                    assert inputs is not None
                    out = self.model.generate(inputs, limit, stops)
                total = time.perf_counter() - start
        except (ValueError, torch.OutOfMemoryError) as e:
            if group is None or (self.lockstep is not None and not self.lockstep.in_step):
                raise  # the other ranks are inside a collective: nothing to be saved
            yield from (Skipped(asked.index, describe_error(e)) for asked in group.asked)
            return
        if group is None or out is None:
            return
        stages = {**vision.seconds, **out.timings, "total": total}
        seconds = {stage: round(value / len(group.asked), 6) for stage, value in stages.items()}
        answers = zip(
            group.asked, out.token_ids.tolist(), out.n_prompt_tokens.tolist(), strict=True
        )
        for asked, ids, n_tokens in answers:
            text = self.tokenizer.decode(self.tokenizer.before_end(ids), truncate_at_eos=False)
            times = {"load": round(asked.load, 6), **seconds}
            pruning = vision.stats if len(group.asked) == 1 else {}  # those are the whole pass's
            yield Answered(asked, text.strip(), n_tokens, times, pruning)

    @contextmanager
    def _watch_vision(self) -> Iterator[VisionWatch]:
        """Seconds in the vision backbone, and its figures about pruning."""
        watch = VisionWatch(self.device)
        backbone = getattr(self.model, "vision_backbone", None)
        if backbone is None:
            yield watch
            return
        hooks = (
            backbone.register_forward_pre_hook(watch.begin),
            backbone.register_forward_hook(watch.end),
        )
        try:
            yield watch
        finally:
            for hook in hooks:
                hook.remove()

    def answer(
        self,
        question: str,
        media: Sequence[Any] = (),
        max_new_tokens: int = 256,
        until: Sequence[str] = (),
        style: str = MC,
    ) -> Reply:
        """Answer ``question`` about ``media``: the path of one video, or images (paths or PIL).

        The question is ordinary text. The answer is cut before the first of ``until``; a control
        token among them ends it as a token, not as characters. Raises ``ValueError`` for other
        media and for a prompt that is too long, ``VideoReadError`` for a broken video.
        """
        example = {"question": question, "style": style, **media_fields(media)}
        arrays = prepare(example, self.preprocessor)
        inputs = on_device(collated(self.collator, [arrays]), self.device)
        tokens = {stop: self.tokenizer.control_id(stop) for stop in filter(None, until)}
        ends = [self.tokenizer.eos_id, *(i for i in tokens.values() if i is not None)]
        out = self.model.generate(inputs, max_new_tokens, ends)
        ids = self.tokenizer.before_end(out.token_ids[0].tolist(), ends)
        text = self.tokenizer.decode(ids, truncate_at_eos=False)
        for stop in (stop for stop, token in tokens.items() if token is None):
            text = text.partition(stop)[0]
        return Reply(text.strip(), int(out.n_prompt_tokens[0]), len(ids))


@dataclass
class VisionWatch:
    """Forward hooks of the vision backbone."""

    device: torch.device
    seconds: dict[str, float] = field(default_factory=dict)
    stats: dict[str, float] = field(default_factory=dict)
    started: float = 0.0

    def begin(self, *_: object) -> None:
        self.started = device_seconds(self.device)

    def end(self, module: object, inputs: object, output: Any) -> None:
        self.seconds["vision"] = device_seconds(self.device) - self.started
        stats = getattr(output, "stats", None) or {}
        self.stats = {k.removeprefix("stts/"): round(float(v), 6) for k, v in stats.items()}


def media_fields(media: Sequence[Any]) -> dict[str, Any]:
    """The fields of an example with these media; a moving picture counts as a video."""
    videos = [m for m in media if isinstance(m, (str, Path)) and is_video(m)]
    if not media:
        return {}
    if len(videos) == len(media) == 1:
        return {"video": str(videos[0])}
    if videos:
        raise ValueError(f"{len(videos)} videos among {len(media)} media: one video, or images")
    return {"image": media[0] if len(media) == 1 else list(media)}


def raw_example(dataset: Dataset, index: int, seed: int) -> dict[str, Any]:
    """Example ``index`` as an evaluation with ``seed`` sees it."""
    return dataset.get(index, example_rng(seed, index, epoch=0))


def collated(collator: Collator, arrays: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Inputs of a model, a row each."""
    return {k: v for k, v in collator(list(arrays)).items() if k != "metadata"}


def collate_examples(
    config: Molmo2Config, dataset: Dataset, indices: Sequence[int], seed: int
) -> dict[str, Any]:
    """Collated prompts of these evaluation examples, one row each."""
    preprocessor = config.build_preprocessor(config.build_tokenizer())
    arrays = [prepare(raw_example(dataset, i, seed), preprocessor) for i in indices]
    return collated(config.build_collator(), arrays)


def on_device(inputs: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """``inputs`` with the tensors that the model computes on moved to ``device``."""
    return {
        k: v.to(device) if torch.is_tensor(v) and k not in HOST_INPUTS else v
        for k, v in inputs.items()
    }


def _as_is(batch: Any) -> Any:
    """A collate function that changes nothing."""
    return batch
