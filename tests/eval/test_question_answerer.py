"""Single questions about a video, images or nothing, as a harness asks them."""

import numpy as np
import pytest
import torch
from PIL import Image

from olmo.data.video_loading import VideoReadError
from olmo.eval.answer import media_fields
from olmo.eval.loading import load_answerer
from tests.eval.miniatures import CLIP, PICTURE
from tests.eval.scripts import DENSE

IMAGE = Image.new("RGB", (40, 30), "red")


@pytest.mark.parametrize(
    ("media", "fields"),
    [
        ([], {}),
        (["a.mp4"], {"video": "a.mp4"}),
        (["clip"], {"video": "clip"}),  # no suffix: a video
        (["a.JPG"], {"image": "a.JPG"}),
        (["a.png", "b.webp"], {"image": ["a.png", "b.webp"]}),
        ([IMAGE], {"image": IMAGE}),
    ],
)
def test_media(media, fields):
    assert media_fields(media) == fields


@pytest.mark.parametrize("media", [["a.mp4", "b.mp4"], ["a.mp4", "b.png"]])
def test_several_videos_are_refused(media):
    with pytest.raises(ValueError, match="one video, or images"):
        media_fields(media)


@pytest.fixture(scope="module")
def answerer():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield load_answerer(DENSE)
    torch.set_num_threads(threads)


def test_answers(answerer, tmp_path):
    video, image = tmp_path / "a.mp4", tmp_path / "a.jpg"
    video.write_bytes(CLIP)
    image.write_bytes(PICTURE)
    question = "Which colour?"
    lengths = {}
    media = {"text": [], "video": [str(video)], "image": [str(image)], "images": [IMAGE] * 2}
    for kind, given in media.items():
        answer = answerer.answer(question, given, 8)
        assert answer.text == answer.text.strip() and 0 <= answer.n_new_tokens <= 8
        lengths[kind] = answer.n_prompt_tokens
    assert lengths["text"] < lengths["image"] < lengths["images"]
    assert lengths["text"] < lengths["video"]
    with pytest.raises(VideoReadError, match=r"none\.mp4"):
        answerer.answer(question, [str(tmp_path / "none.mp4")])


def test_an_answer_ends_before_a_stop_string(answerer, tmp_path):
    frames = np.zeros((8, 32, 32, 3), dtype=np.uint8)
    image = Image.fromarray(frames[0])
    whole = answerer.answer("Which colour?", [image], 8).text
    assert len(whole) > 1
    assert answerer.answer("Which colour?", [image], 8, until=[whole[1:]]).text == whole[:1].strip()
    assert answerer.answer("Which colour?", [image], 8, until=["", "zzz"]).text == whole
    ends = ["<|im_end|>", "<|endoftext|>"]  # these end an answer as tokens
    assert answerer.answer("Which colour?", [image], 8, until=ends).text == whole
