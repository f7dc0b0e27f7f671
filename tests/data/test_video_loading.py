import json
import pickle
from fractions import Fraction
from pathlib import Path

import pytest

pytest.importorskip("av")

import av
import numpy as np
from PIL import Image

from olmo.data import video_packets
from olmo.data.frame_sampling import FrameSampling
from olmo.data.video_file import VideoFile
from olmo.data.video_loading import DECODERS, Clip, VideoReadError, load_video
from olmo.preprocessing.images import resize_frames

FIXTURES = Path(__file__).parents[1] / "fixtures" / "data"
REFERENCE = json.loads((FIXTURES / "video_loading.json").read_text())["cases"]
SAMPLERS = {
    "time uniform_last_frame max_fps=[2] max_frames=64": FrameSampling(64, max_fps=(2.0,)),
    "time uniform_last_frame max_fps=[2] max_frames=4": FrameSampling(4, max_fps=(2.0,)),
    "time fps max_frames=8": FrameSampling(8, "fps"),
}


def write_clip(path, n_frames=45, fps=10, width=64, height=48, gop=12, audio_s=0.0):
    """H.264 clip whose frame ``i`` is a grid of dark and bright blocks that spell ``i``."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=fps, options={"g": str(gop), "crf": "1"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        sound = out.add_stream("aac", rate=16000) if audio_s else None
        for i in range(n_frames):
            bits = np.array([i >> b & 1 for b in range(12)], dtype=np.uint8).reshape(3, 4)
            block = np.repeat(np.repeat(bits * 200 + 20, height // 3, 0), width // 4, 1)
            picture = np.repeat(block[..., None], 3, 2)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        out.mux(stream.encode())
        if sound is not None:
            silence = np.zeros((1, int(audio_s * 16000)), dtype=np.float32)
            frame = av.AudioFrame.from_ndarray(silence, format="fltp", layout="mono")
            frame.sample_rate, frame.time_base = 16000, Fraction(1, 16000)
            out.mux(sound.encode(frame))
            out.mux(sound.encode())
    return path


def frame_numbers(frames):
    n, h, w, _ = frames.shape
    blocks = frames[..., 0].reshape(n, 3, h // 3, 4, w // 4).mean((2, 4)).reshape(n, 12)
    return ((blocks > 120) * (1 << np.arange(12))).sum(1).tolist()


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4")


@pytest.fixture(scope="module")
def long_clip(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("clip") / "long.mp4", n_frames=600, gop=25)


@pytest.mark.parametrize("case", REFERENCE, ids=lambda c: f"{c['sampler']} {c['clip']}")
def test_reference_values(clip, case):
    start, end = case["clip"] or (None, None)
    video = load_video(clip, SAMPLERS[case["sampler"]], clip=Clip(start, end))
    np.testing.assert_allclose(video.timestamps, case["timestamps"], atol=1e-4)
    assert list(video.frames.shape) == case["shape"]
    assert video.frames.dtype == np.uint8
    assert frame_numbers(video.frames) == case["frame_number"]


def test_jumping_equals_decoding_everything(long_clip, monkeypatch):
    sampling = FrameSampling(7)
    jumped = load_video(long_clip, sampling, clip=Clip(11.3))
    monkeypatch.setattr(VideoFile, "_jump_pays", lambda reader: False)
    slow = load_video(long_clip, sampling, clip=Clip(11.3))
    assert frame_numbers(jumped.frames) == frame_numbers(slow.frames)
    np.testing.assert_array_equal(jumped.frames, slow.frames)


def test_jumps_do_not_decode_what_lies_between(long_clip, monkeypatch):
    decoded = []
    original = VideoFile._decode

    def counting(reader, packets):
        for frame in original(reader, packets):
            decoded.append(frame.pts)
            yield frame

    monkeypatch.setattr(VideoFile, "_decode", counting)
    load_video(long_clip, FrameSampling(4))
    assert len(decoded) < 150


@pytest.mark.parametrize("gop", [12, 60, 1000])
def test_frames_left_out_change_nothing(tmp_path, monkeypatch, gop):
    """Also where the wanted frame is the last one, and where it is one that could be left out."""
    path = write_clip(tmp_path / "a.mp4", n_frames=240, gop=gop)
    rng = np.random.default_rng(gop)
    clips = [Clip(a, a + b) for a, b in rng.uniform((0, 0.1), (20, 9), (12, 2))]
    clips += [Clip(), Clip(23.9), Clip(20.05)]
    fast = [frame_numbers(load_video(path, FrameSampling(3), clip=c).frames) for c in clips]
    wanted = []
    for c in clips:
        times = np.linspace(c.start or 0, min(c.end or 24.0, 24.0), 3)
        wanted.append([min(int(t * 10 + 1e-9), 239) for t in times])
    assert fast == wanted


def test_a_frame_that_does_not_come_gives_way_to_the_one_before(tmp_path, monkeypatch):
    """Also where that could be left out, or lies before the key frame that was jumped to."""
    path = write_clip(tmp_path / "a.mkv", n_frames=32)
    original = VideoFile._decode

    def without(numbers):
        def decode(reader, packets):
            frames, base = original(reader, packets), reader.timeline.base
            return (f for f in frames if round(f.pts * base * 10) not in numbers)

        return decode

    monkeypatch.setattr(VideoFile, "_decode", without({31}))
    assert frame_numbers(load_video(path, FrameSampling(2)).frames) == [0, 30]
    monkeypatch.setattr(VideoFile, "_decode", without(range(12, 20)))
    clip = Clip(1.55, 1.65)
    assert frame_numbers(load_video(path, FrameSampling(2), clip=clip).frames) == [11, 11]


def test_a_folder_of_pictures(tmp_path):
    for i in range(11):
        Image.new("RGB", (16, 9), (i * 20, 0, 0)).save(tmp_path / f"f{i}.png")
    video = load_video(tmp_path, FrameSampling(3), clip=Clip(1.0, 5.0, frame_rate=2.0))
    assert video.frames[:, 0, 0, 0].tolist() == [40, 120, 200]
    assert video.duration == 4.0 and video.size == (16, 9)
    with pytest.raises(VideoReadError, match=r"needs metadata\.frame_rate > 0, got None"):
        load_video(tmp_path, FrameSampling(3))
    Image.new("RGB", (17, 9)).save(tmp_path / "f11.png")
    with pytest.raises(VideoReadError, match=r"f11\.png is \(9, 17\), the first \(9, 16\)"):
        load_video(tmp_path, FrameSampling(3), clip=Clip(frame_rate=2.0))


def test_torchcodec_gives_the_same_frames(clip, long_clip):
    pytest.importorskip("torchcodec", reason="torchcodec is optional")
    for path, part in [(clip, Clip()), (long_clip, Clip(11.3)), (clip, Clip(1.0, 1.05))]:
        one, two = (load_video(path, FrameSampling(7), clip=part, decoder=d) for d in DECODERS)
        np.testing.assert_array_equal(one.frames, two.frames)
        assert (one.timestamps == two.timestamps).all() and one.size == two.size
    with pytest.raises(ValueError, match="decoder 'x' is not one of pyav, torchcodec"):
        load_video(clip, FrameSampling(4), decoder="x")


def test_one_key_frame_disables_jumping(tmp_path):
    path = write_clip(tmp_path / "one_gop.mp4", n_frames=300, gop=1000)
    video = load_video(path, FrameSampling(4))
    assert frame_numbers(video.frames) == [0, 100, 200, 299]


def test_stops_after_the_last_wanted_frame(long_clip, monkeypatch):
    monkeypatch.setattr(VideoFile, "_jump_pays", lambda reader: False)
    last = []
    original = VideoFile._decode

    def watching(reader, packets):
        for frame in original(reader, packets):
            last.append(float(frame.pts * reader.timeline.base))
            yield frame

    monkeypatch.setattr(VideoFile, "_decode", watching)
    load_video(long_clip, FrameSampling(4), clip=Clip(0.0, 2.0))
    assert max(last) == pytest.approx(2.0)


def test_transform_runs_on_every_frame(clip):
    video = load_video(clip, FrameSampling(4), transform=lambda f: resize_frames(f, (28, 28)))
    whole = load_video(clip, FrameSampling(4))
    np.testing.assert_array_equal(video.frames, resize_frames(whole.frames, (28, 28)))


def test_duration_and_same_frame_twice(clip):
    video = load_video(clip, FrameSampling(4), clip=Clip(1.0, 1.05))
    assert video.duration == pytest.approx(0.05)
    assert frame_numbers(video.frames) == [10, 10, 10, 10]


@pytest.mark.parametrize(("start", "end"), [(2.0, 2.0), (3.0, 1.0), (4.5, 9.0), (-1.0, 2.0)])
def test_clip_outside_the_video(clip, start, end):
    with pytest.raises(VideoReadError, match=r"clip .* is not inside its 4\.500 s"):
        load_video(clip, FrameSampling(4), clip=Clip(start, end))


def test_missing_file(tmp_path):
    with pytest.raises(VideoReadError, match=r"gone\.mp4: no such file"):
        load_video(tmp_path / "gone.mp4", FrameSampling(4))
    with pytest.raises(VideoReadError, match="a folder without pictures"):
        load_video(tmp_path, FrameSampling(4))


@pytest.mark.parametrize("name", ["notes.txt", "video.mp4", "page.webm"])
@pytest.mark.parametrize("content", [b"", b"just some words\n" * 50, bytes(range(256)) * 20])
def test_no_video_file(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(VideoReadError, match=name):
        load_video(path, FrameSampling(4))


def test_picture_and_sound_are_no_video(tmp_path):
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    with pytest.raises(VideoReadError, match="no video stream"):
        load_video(tmp_path / "a.png", FrameSampling(4))
    with av.open(str(tmp_path / "a.wav"), "w") as out:
        sound = out.add_stream("pcm_s16le", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1600), np.int16), format="s16")
        frame.sample_rate = 16000
        out.mux(sound.encode(frame))
    with pytest.raises(VideoReadError, match="no video stream"):
        load_video(tmp_path / "a.wav", FrameSampling(4))


@pytest.mark.parametrize("suffix", [".mkv", ".avi", ".mp4"])
@pytest.mark.parametrize("share", [0.05, 0.3, 0.5, 0.8])
def test_truncated_file(tmp_path, suffix, share):
    whole = write_clip(tmp_path / f"whole{suffix}", n_frames=200)
    assert frame_numbers(load_video(whole, FrameSampling(3)).frames) == [0, 100, 199]
    data = whole.read_bytes()
    path = tmp_path / f"cut{suffix}"
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(VideoReadError, match=rf"cut\{suffix}"):
        load_video(path, FrameSampling(3))


def test_lost_tail_is_not_filled_up(tmp_path):
    """Packets are missing at the end while the header promises 20 s."""
    whole = write_clip(tmp_path / "whole.mkv", n_frames=200)
    path = tmp_path / "cut.mkv"
    path.write_bytes(whole.read_bytes()[: whole.stat().st_size * 6 // 10])
    with pytest.raises(VideoReadError, match=r"truncated: frames end at 1.\.\d+ s of 20\.000 s"):
        load_video(path, FrameSampling(3))


def test_truncated_fast_start_mp4(tmp_path):
    whole = write_clip(tmp_path / "whole.mp4", n_frames=200)
    fast = tmp_path / "fast.mp4"
    with (
        av.open(str(whole)) as source,
        av.open(str(fast), "w", options={"movflags": "faststart"}) as out,
    ):
        stream = out.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                out.mux(packet)
    data = fast.read_bytes()
    fast.write_bytes(data[: len(data) * 6 // 10])
    with pytest.raises(VideoReadError, match=r"fast\.mp4"):
        load_video(fast, FrameSampling(64, max_fps=(2.0,)))
    early = load_video(fast, FrameSampling(4), clip=Clip(0.0, 3.0))
    assert frame_numbers(early.frames) == [0, 10, 20, 30]


@pytest.mark.parametrize("suffix", [".mkv", ".mp4", ".ts"])
def test_sound_longer_than_the_pictures_is_fine(tmp_path, suffix):
    path = write_clip(tmp_path / f"a{suffix}", n_frames=30, audio_s=5.0)
    video = load_video(path, FrameSampling(4))
    assert frame_numbers(video.frames)[0] == 0
    assert frame_numbers(video.frames)[-1] == 29


@pytest.mark.parametrize("audio_s", [20.0, 0.0])
def test_only_the_length_of_the_whole_file_is_known(tmp_path, monkeypatch, audio_s):
    """Sound that reaches the end tells a short picture track from a cut file."""
    monkeypatch.setattr(video_packets, "_stated_end", lambda video: (20.0, False))
    path = write_clip(tmp_path / "a.mkv", n_frames=30, audio_s=audio_s)
    if audio_s:
        assert frame_numbers(load_video(path, FrameSampling(3)).frames) == [0, 15, 29]
    else:
        with pytest.raises(VideoReadError, match="truncated"):
            load_video(path, FrameSampling(3))


def test_error_survives_pickling():
    error = pickle.loads(pickle.dumps(VideoReadError("a.mp4", "broken")))
    assert (error.path, error.reason) == ("a.mp4", "broken")
    assert isinstance(error, ValueError) and isinstance(error, OSError)
    assert str(error) == "cannot read video a.mp4: broken"
