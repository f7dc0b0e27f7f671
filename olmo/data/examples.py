"""From a data set's dict to the arrays of one token row: read, decode, preprocess."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from olmo.data.frame_sampling import FrameSampling
from olmo.data.mixture import Mixture
from olmo.data.registry import MissingDataError
from olmo.data.stream import MixtureStream, example_rng
from olmo.data.video_loading import Clip, VideoReadError, load_video
from olmo.preprocessing.image_files import ImageReadError
from olmo.preprocessing.images import resize_frames
from olmo.preprocessing.multimodal import ExamplePreprocessor
from olmo.preprocessing.prompts import Rng
from olmo.types import VideoFrames

log = logging.getLogger(__name__)

BAD_EXAMPLE = Exception
"""What an example raises that cannot be read or formatted: no single one may end a run, whatever
is odd about it. ``skip_reason`` tells what is wrong with the example from what may be a bug."""


def decode_video(
    example: dict[str, Any], preprocessor: ExamplePreprocessor, rng: Rng | None = None
) -> VideoFrames:
    """The frames of an example with a video, in the size that the model sees; training draws the
    frame rate with ``rng``."""
    config = preprocessor.config.video
    return load_video(
        example["video"],
        FrameSampling.from_config(config),
        rng,
        rng is not None,
        Clip.of(example.get("metadata", {})),
        transform=lambda frames: resize_frames(frames, preprocessor.image_size),
        decoder=config.decoder,
        limits=preprocessor.config.limits,
    )


def prepare(
    example: dict[str, Any], preprocessor: ExamplePreprocessor, rng: Rng | None = None
) -> dict[str, Any]:
    """Decode the video of a raw example, if it has one, and preprocess it: for training with all
    choices drawn by ``rng``, or without one for evaluation, which draws nothing and leaves the
    last answer out.

    Raises ``OutsideError`` for a file that cannot be used (it names the file), else what the data
    set or the preprocessor says.
    """
    video = None
    if "video" in example:
        video = decode_video(example, preprocessor, rng)
    return preprocessor(example, video, rng, for_inference=rng is None)


def describe_error(error: BaseException) -> str:
    """One line, with the type where the message alone says little."""
    if isinstance(error, MissingDataError):
        return error.brief()
    text = " ".join(str(error).split())
    is_clear = isinstance(error, (ValueError, OSError)) and text
    return text if is_clear else f"{type(error).__name__}: {text}"


def skip_reason(error: Exception) -> str:
    """Why an example is left out, in one line. What neither our checks nor the system has raised
    goes to the log with its traceback as well."""
    if not isinstance(error, (ValueError, OSError)):
        log.error(
            "unexpected %s, perhaps a bug of this program", type(error).__name__, exc_info=error
        )
    return describe_error(error)


class Skipped(NamedTuple):
    """An example that was left out: ``thing`` is the file that cannot be read, which many examples
    may share, else the example; ``text`` names the example, its place and the reason."""

    thing: str
    text: str


@dataclass
class ExampleSource:
    """Stream ids to preprocessed examples."""

    mixture: Mixture
    preprocessor: ExamplePreprocessor
    seed: int
    shuffle: bool = True
    stream: MixtureStream = field(init=False)

    def __post_init__(self) -> None:
        self.stream = MixtureStream(self.mixture, self.seed, self.shuffle)
        FrameSampling.from_config(self.preprocessor.config.video)  # wrong settings end a run here

    def raw(self, example_id: int) -> tuple[dict[str, Any], np.random.RandomState]:
        """The example as its data set gives it, and the generator of its further choices."""
        ref = self.stream[example_id]
        rng = example_rng(self.seed, ref.index, ref.epoch)
        return self.mixture.example(ref.dataset, ref.index, rng), rng

    def load(self, example_id: int) -> dict[str, Any]:
        example, rng = self.raw(example_id)
        return prepare(example, self.preprocessor, rng)

    def skipped(self, example_id: int, error: Exception) -> Skipped:
        """What is said of an example that cannot be used; the same in every epoch."""
        ref = self.stream[example_id]
        example = f"{ref.dataset} {ref.index}"
        where = getattr(self.mixture.datasets[ref.dataset], "where", None)
        place = f" ({where(ref.index)})" if where else ""
        thing = example
        if isinstance(error, VideoReadError):
            thing = f"video {error.path}"
        elif isinstance(error, ImageReadError) and error.is_file:
            thing = f"image {error.name}"
        return Skipped(thing, f"{example}{place}: {skip_reason(error)}")
