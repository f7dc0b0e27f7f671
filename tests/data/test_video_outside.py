"""Video files from outside: odd names, decoders that raise anything, and more work than allowed."""

import os
import pickle
import zlib
from contextlib import closing
from fractions import Fraction

import pytest

pytest.importorskip("av")

import av
import numpy as np
from PIL import Image, features

from olmo.data import video_container, video_file
from olmo.data.animation import is_video
from olmo.data.examples import decode_video
from olmo.data.frame_sampling import FrameSampling
from olmo.data.video_loading import Clip, VideoReadError, load_video
from olmo.files import write_json
from olmo.limits import Limits
from olmo.outside import OutsideError
from tests.data.video_media import H264, encode, frame_number, moving_picture, picture


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return encode(tmp_path_factory.mktemp("clip") / "a.mp4", list(range(40)), options=H264)


# --- names -------------------------------------------------------------------------------------

NAMES = [
    "12:30.mp4",
    "-x.mp4",
    "%03d.mp4",
    "a*b?[c].mp4",
    "two\nlines.mp4",
    "pipe:0",
    "data:a.mp4",
    "concat:a|b",
    "file:a.mp4",
    "subfile,,start,0,end,0,,:a.mp4",
    "http:/host/a.mp4",
    "a b #?&.mp4",
    os.fsdecode(b"\xff\xfe.mp4"),
]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_any_name_is_that_of_a_file(clip, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    os.makedirs(os.path.dirname(name) or ".", exist_ok=True)
    with open(name, "wb") as file:
        file.write(clip.read_bytes())
    assert frame_number(load_video(name, FrameSampling(1)).frames[0]) == 0


def test_a_broken_file_with_any_name_can_be_written_about(tmp_path):
    path = tmp_path / os.fsdecode(b"\xff.mp4")
    path.write_bytes(b"x" * 99)
    with pytest.raises(VideoReadError, match=r"\\udcff\.mp4: ") as caught:
        load_video(path, FrameSampling(1))
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.path) == (str(caught.value), caught.value.path)
    write_json(tmp_path / "metrics.json", {"error": str(again), "path": again.path})


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_title_and_a_name_of_a_stream_may_be_no_text(tmp_path, suffix):
    """Up to PyAV 18 that takes an argument, which later ones do not know."""
    path = tmp_path / f"a{suffix}"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        out.metadata["title"] = stream.metadata["handler_name"] = "0123456789"
        for number in range(4):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(picture(number), format="rgb24")))
        out.mux(stream.encode())
    assert path.read_bytes().count(b"0123456789") == 2
    path.write_bytes(
        path.read_bytes().replace(b"0123456789", b"\xff\xfe\x80 \xc3(\xe2\x28\xa1\xf0")
    )
    found = load_video(path, FrameSampling(4)).frames
    assert [frame_number(frame) for frame in found] == [0, 1, 2, 3]
    with closing(video_file.VideoFile(path)) as file:
        assert type(file.timeline.base) is Fraction


@pytest.mark.parametrize(
    "name", ["http://192.0.2.1/a.mp4", "pipe:0", "concat:a.mp4|b.mp4", "data:video/mp4;base64,AAAA"]
)
def test_a_protocol_is_no_file(name):
    with pytest.raises(VideoReadError, match="no such file"):
        load_video(name, FrameSampling(1))


def test_lists_of_other_files_are_refused(clip, tmp_path):
    lists = {
        "a.ffconcat": f"ffconcat version 1.0\nfile '{clip}'\n",
        "a.m3u8": f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{clip}\n#EXT-X-ENDLIST\n",
        "a.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nm=video 9 RTP/AVP 96\n",
    }
    for name, text in lists.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(VideoReadError):
            load_video(tmp_path / name, FrameSampling(1))


# --- what decoders raise -----------------------------------------------------------------------

RAISED = [
    RuntimeError("x"),
    NotImplementedError("x"),
    AttributeError("x"),
    SyntaxError("x"),
    zlib.error("x"),
    EOFError("x"),
    UnicodeDecodeError("utf-8", b"x", 0, 1, "x"),
    OverflowError("x"),
    MemoryError("x"),
    av.InvalidDataError(1, "x"),
]


def failing(error):
    def fail(*args, **kwargs):
        raise error

    return fail


@pytest.mark.parametrize("error", RAISED, ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("where", ["open", "demux", "decode", "convert", "close"])
def test_whatever_a_decoder_raises_names_the_file(clip, monkeypatch, where, error):
    owner, name = {
        "open": (video_container.av, "open"),
        "demux": (video_container.OpenVideo, "packets"),
        "decode": (video_file.VideoFile, "_decode"),
        "convert": (video_file, "display_matrix"),
        "close": (video_file.VideoFile, "close"),
    }[where]
    monkeypatch.setattr(owner, name, failing(error))
    with pytest.raises(VideoReadError, match=rf"a\.mp4: {type(error).__name__}: ") as caught:
        load_video(clip, FrameSampling(3))
    assert isinstance(caught.value, OutsideError) and isinstance(caught.value, OSError)


def test_our_own_mistakes_are_not_taken_for_damage(clip):
    with pytest.raises(ZeroDivisionError):
        load_video(clip, FrameSampling(3), transform=lambda frames: frames // (1 / 0))
    with pytest.raises(ValueError, match="needs a random generator") as caught:
        load_video(clip, FrameSampling(3, max_fps=(1.0, 2.0)), is_training=True)
    assert not isinstance(caught.value, OutsideError)


# --- the work that a file may cause ------------------------------------------------------------


def limited(path, sampling=None, clip=None, **limits):
    return load_video(path, sampling or FrameSampling(3), clip=clip, limits=Limits(**limits))


def test_limits_name_themselves(clip, tmp_path):
    assert limited(clip, max_pixels=64 * 64, max_frames_decoded=40).size == (64, 64)
    with pytest.raises(VideoReadError, match=r"64 x 64 pixels .* limits\.max_pixels=4095"):
        limited(clip, max_pixels=4095)
    with pytest.raises(VideoReadError, match=r"limits\.max_frames_decoded=5"):
        limited(clip, max_frames_decoded=5)
    with pytest.raises(VideoReadError, match=r"longer than limits\.max_seconds=1e-09"):
        limited(clip, max_seconds=1e-9)
    with pytest.raises(VideoReadError, match=r"3 frames of 64 x 64 .*limits\.max_output_pixels=9"):
        limited(clip, max_output_pixels=9999)
    assert len(limited(clip, clip=Clip(0.0, 0.3), max_frames_decoded=8).frames) == 3


def test_a_transform_counts_for_the_memory(clip):
    small = load_video(
        clip,
        FrameSampling(3),
        transform=lambda frames: frames[:, ::8, ::8],
        limits=Limits(max_output_pixels=3 * 64),
    )
    assert small.frames.shape == (3, 8, 8, 3)


def test_the_pass_over_the_packets_looks_at_the_clock(clip, monkeypatch):
    monkeypatch.setattr(video_file.VideoFile, "_decode", failing(AssertionError))
    with pytest.raises(VideoReadError, match=r"limits\.max_seconds"):
        limited(clip, max_seconds=1e-9)


def test_a_moving_picture_of_many_large_frames_ends_in_time(tmp_path):
    """250 KB of GIF that unfold to 50 pictures of 4000 x 4000."""
    frame = Image.new("P", (4000, 4000))
    frame.save(tmp_path / "one.gif")
    data = (tmp_path / "one.gif").read_bytes()
    at = data.index(b",\0\0\0\0")
    delay = b"\x21\xf9\x04\0\x0a\0\0\0"
    (tmp_path / "a.gif").write_bytes(data[:at] + (delay + data[at:-1]) * 50 + b";")
    with pytest.raises(VideoReadError, match=r"a\.gif: it takes longer than limits\.max_seconds"):
        limited(tmp_path / "a.gif", max_seconds=0.2)
    with pytest.raises(VideoReadError, match=r"4000 x 4000 pixels .*limits\.max_pixels"):
        limited(tmp_path / "a.gif", max_pixels=10**6)


def test_moving_webp_and_folders_are_limited(tmp_path):
    path = moving_picture(tmp_path / "a.webp")
    with pytest.raises(VideoReadError, match=r"limits\.max_pixels"):
        limited(path, max_pixels=99)
    with pytest.raises(VideoReadError, match=r"limits\.max_frames_decoded=5"):
        limited(path, max_frames_decoded=5)
    folder = tmp_path / "frames"
    folder.mkdir()
    for i in range(9):
        Image.new("RGB", (16, 16)).save(folder / f"{i}.png")
    with pytest.raises(OutsideError, match=r"0\.png: .*limits\.max_pixels=99"):
        limited(folder, clip=Clip(frame_rate=2.0), max_pixels=99)
    with pytest.raises(VideoReadError, match=r"frames: .*limits\.max_frames_decoded=2"):
        limited(folder, clip=Clip(frame_rate=2.0), max_frames_decoded=2)
    with pytest.raises(VideoReadError, match=r"frames: .*limits\.max_seconds"):
        limited(folder, clip=Clip(frame_rate=2.0), max_seconds=1e-9)


def test_the_limits_of_the_config_are_those_of_an_example(clip):
    from olmo.config import read_settings
    from olmo.models.registry import model_config_from_dict
    from tests.train.conftest import REPOSITORY

    model = model_config_from_dict(read_settings(REPOSITORY / "configs" / "tiny.yaml")["model"])
    preprocessor = model.build_preprocessor(model.build_tokenizer(), 2000)
    assert len(decode_video({"video": str(clip)}, preprocessor).frames) > 1
    preprocessor.config.limits.max_pixels = 99
    with pytest.raises(VideoReadError, match=r"limits\.max_pixels=99"):
        decode_video({"video": str(clip)}, preprocessor)


# --- what a user means by a file ---------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png"])
def test_a_moving_picture_is_a_video(tmp_path, suffix):
    path = moving_picture(tmp_path / f"a{suffix}")
    assert is_video(path)
    frames = load_video(path, FrameSampling(3)).frames
    assert [frame_number(f) for f in frames] == [0, 10, 19]
    renamed = path.rename(tmp_path / "a.jpg")  # the content decides
    assert is_video(renamed)
    Image.new("RGB", (8, 8)).save(path)
    assert not is_video(path)


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow cannot write AVIF")
def test_a_moving_avif_is_a_video(tmp_path):
    path, blank = tmp_path / "a.avif", Image.new("L", (64, 64))
    others = [Image.new("L", (64, 64), 20 * i) for i in range(1, 10)]
    blank.save(path, save_all=True, append_images=others, duration=100)
    assert is_video(path)
    frames = load_video(path, FrameSampling(4)).frames
    assert np.allclose(frames.mean((1, 2, 3)), [0, 60, 120, 180], atol=3)
    blank.save(path)
    assert not is_video(path)


def test_pictures_and_videos_by_name_where_the_content_does_not_tell(clip, tmp_path):
    assert is_video(clip) and is_video("gone.mp4") and is_video(tmp_path)
    assert not is_video("gone.webp") and not is_video("gone.GIF")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n123")
    assert not is_video(tmp_path / "broken.png")
    Image.new("RGB", (8, 8)).save(
        tmp_path / "pages.tif", save_all=True, append_images=[Image.new("RGB", (8, 8))]
    )
    assert not is_video(tmp_path / "pages.tif")
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "no_name", "JPEG")
    assert not is_video(tmp_path / "no_name")
    os.mkfifo(tmp_path / "pipe.mp4")
    assert is_video(tmp_path / "pipe.mp4")
