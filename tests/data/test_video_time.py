"""The rule of video time: frame ``i`` is on the screen until frame ``i + 1`` comes on."""

import json
from fractions import Fraction
from pathlib import Path

import pytest

pytest.importorskip("av")

import av
import numpy as np

from olmo.data import video_file
from olmo.data.frame_sampling import FrameSampling
from olmo.data.video_loading import Clip, VideoReadError, load_video, open_video
from tests.data.video_media import (
    H264,
    all_kinds,
    encode,
    frame_number,
    make_recipes,
    moving_picture,
    picture,
    turned,
    two_streams,
)

TIMING = json.loads(
    (Path(__file__).parents[1] / "fixtures" / "data" / "video_timing.json").read_text()
)
SAMPLING = FrameSampling(64, max_fps=(2.0,))
CASES = [(e, case) for e in TIMING["expected"] for case in e["cases"]]
IN_ORDER = ("b.avi", "vfr.avi", "bare.h264")
"""Their frames bear no time stamps, or those of decoding."""


@pytest.fixture(scope="session")
def recipes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("timing")
    make_recipes(TIMING["media"], folder)
    return folder


@pytest.fixture(scope="session")
def kinds(tmp_path_factory):
    return {path.name: path for path in all_kinds(tmp_path_factory.mktemp("kinds"))}


@pytest.fixture(params=["pyav", "torchcodec"])
def decoder(request):
    if request.param == "torchcodec":
        reason = "torchcodec is optional"
        pytest.importorskip("torchcodec", reason=reason, exc_type=(ImportError, RuntimeError))
    return request.param


def numbers(path, sampling=SAMPLING, **how):
    return [frame_number(f) for f in load_video(path, sampling, **how).frames]


@pytest.mark.parametrize(
    ("expected", "case"), CASES, ids=[f"{e['file']}-{case['clip']}" for e, case in CASES]
)
def test_reference_values(recipes, decoder, expected, case):
    path, clip = recipes / expected["file"], Clip(*(case["clip"] or ()))
    if "error" in case:
        with pytest.raises(VideoReadError, match="is not inside its"):
            load_video(path, SAMPLING, clip=clip, decoder=decoder)
        return
    video = load_video(path, SAMPLING, clip=clip, decoder=decoder)
    np.testing.assert_allclose(video.timestamps, case["times"], atol=0.003)
    if case["clip"] is None:
        assert video.duration == pytest.approx(expected["duration"], abs=0.003)
    either = {i: (a, b) for i, a, b in case.get("either", [])}
    shown = [frame_number(f) for f in video.frames]
    for i, (found, wanted) in enumerate(zip(shown, case["frames"], strict=True)):
        assert found == wanted or found in either.get(i, ())


def decoded(path):
    """Everything that comes out of the decoder, time stamps and pictures, and their unit."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = [(f.pts, f.to_ndarray(format="rgb24")) for f in container.decode(stream)]
        return frames, stream.time_base


@pytest.mark.slow
def test_every_kind_against_decoding_everything(kinds):
    """The slow, obvious way: all frames, sorted by their time stamps."""
    for name in set(kinds) - {*IN_ORDER, "joined.ts"}:
        frames, base = decoded(kinds[name])
        frames.sort(key=lambda one: one[0])
        begins = np.array([float((pts - frames[0][0]) * base) for pts, _ in frames])
        with open_video(kinds[name]) as reader:
            duration = reader.duration
        assert begins[-1] < duration < begins[-1] + 2.0, name
        rng = np.random.default_rng(len(name))
        for clip in [(0.0, duration), *np.sort(rng.uniform(0, duration, (4, 2)))]:
            sampling = FrameSampling(int(rng.integers(1, 9)))
            video = load_video(kinds[name], sampling, clip=Clip(*clip))
            for t, found in zip(video.timestamps + clip[0], video.frames, strict=True):
                at = max(int(np.searchsorted(begins, t + 1e-9, side="right")) - 1, 0)
                near = [at, max(at - 1, 0)] if abs(begins[at] - t) < 1e-5 else [at]
                assert any((found == frames[i][1]).all() for i in near), (name, t)


def test_a_still_stays_until_the_next_frame(kinds):
    """Frames 3 and 4 come on at 0.3 s and 2 s, whatever packets and headers say."""
    for name in kinds:
        if name.startswith("vfr"):
            assert numbers(kinds[name], FrameSampling(3), clip=Clip(0.35, 1.95)) == [3] * 3, name
            assert numbers(kinds[name], FrameSampling(1), clip=Clip(2.05, 9.0)) == [4], name
            with open_video(kinds[name]) as reader:
                assert reader.duration == pytest.approx(8.1, abs=0.002), name


def test_streams_without_time_stamps(kinds):
    """An AVI counts; a bare stream has the rate that it states."""
    assert numbers(kinds["b.avi"], FrameSampling(5)) == [0, 10, 20, 30, 39]
    assert numbers(kinds["bare.h264"], FrameSampling(5)) == [0, 10, 20, 30, 39]
    with open_video(kinds["bare.h264"]) as reader:
        assert reader.duration == pytest.approx(4.0)
    with open_video(kinds["bare.mjpeg"]) as reader:  # which states none: 25
        assert reader.duration == pytest.approx(1.6)


def test_joined_streams_show_both_halves(kinds):
    with open_video(kinds["joined.ts"]) as reader:
        assert reader.duration == pytest.approx(3.2, abs=0.05)
    assert numbers(kinds["joined.ts"], FrameSampling(9))[1:8] == [10, 20, 30, 0, 10, 20, 30]


def test_frames_before_the_first_whole_one_do_not_exist(tmp_path):
    """A broadcast that is recorded from the middle of a group of pictures on."""
    data = encode(tmp_path / "a.ts", list(range(40)), options={**H264, "g": "15"}).read_bytes()
    with av.open(str(tmp_path / "a.ts")) as container:
        at = [p.pos for p in container.demux(video=0) if p.pos is not None][4]
    (tmp_path / "cut.ts").write_bytes(data[at:])
    frames, _ = decoded(tmp_path / "cut.ts")
    first = frame_number(frames[0][1])
    video = load_video(tmp_path / "cut.ts", FrameSampling(1, "uniform"))
    assert frame_number(video.frames[0]) == first > 0
    assert video.duration == pytest.approx((40 - first) / 10)


def test_of_frames_with_one_time_stamp_the_last_is_shown(tmp_path):
    path = encode(tmp_path / "a.mkv", list(range(10)), tick=Fraction(1, 5000), codec="ffv1")
    assert numbers(path, FrameSampling(1, "uniform"))[0] in (1, 2)  # milliseconds: 0, 0, 0, 1, ...


TURNS = {
    "as it is": (1, 0, 0, 1),
    "quarter": (0, 1, -1, 0),
    "half": (-1, 0, 0, -1),
    "three quarters": (0, -1, 1, 0),
    "left is right": (-1, 0, 0, 1),
    "top is bottom": (1, 0, 0, -1),
    "diagonal": (0, 1, 1, 0),
    "other diagonal": (0, -1, -1, 0),
}


@pytest.mark.parametrize("turn", TURNS)
def test_upright_as_a_player_shows_it(tmp_path, decoder, turn):
    """The pixel at (x, y) is shown at (a x + c y, b x + d y)."""
    a, b, c, d = TURNS[turn]
    stored = np.zeros((32, 64, 3), np.uint8)
    stored[:8, :16] = 255  # top left
    with av.open(str(tmp_path / "a.mp4"), "w") as out:
        stream = out.add_stream("libx264", rate=10, options={"crf": "1"})
        stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv420p"
        out.mux(stream.encode(av.VideoFrame.from_ndarray(stored, format="rgb24")))
        out.mux(stream.encode(None))
    path = turned(tmp_path / "b.mp4", tmp_path / "a.mp4", a, b, c, d)
    video = load_video(path, FrameSampling(1), decoder=decoder)
    height, width = video.frames.shape[1:3]
    assert (width, height) == video.size == ((64, 32) if a else (32, 64))
    bright = video.frames[0, :: 1 if b + d > 0 else -1, :: 1 if a + c > 0 else -1, 0] > 127
    assert bright[0, 0] and 100 < bright.sum() < 160
    assert not bright[-1, 0] and not bright[0, -1]


@pytest.mark.parametrize("default", [0, 1])
def test_the_stream_flagged_as_default_is_shown(tmp_path, decoder, default):
    path = two_streams(tmp_path / "a.mkv", default)
    assert numbers(path, FrameSampling(1), decoder=decoder)[0] // 100 == default


def test_moving_webp(tmp_path):
    """FFmpeg cannot decode it."""
    path = moving_picture(tmp_path / "a.webp", n=20)
    video = load_video(path, SAMPLING)
    assert [frame_number(f) for f in video.frames] == [0, 5, 10, 15, 19]
    assert video.duration == 2.0 and video.size == (64, 64)
    assert numbers(path, FrameSampling(2), clip=Clip(1.25, 1.35)) == [12, 13]
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(VideoReadError, match=r"a\.webp"):
        load_video(path, SAMPLING)


# --- files that were cut off -------------------------------------------------------------------


def cut_off(path, source, share):
    """Only the first packets of a file are left."""
    with av.open(str(source)) as container:
        places = [p.pos for p in container.demux(video=0) if p.pos is not None and p.size]
    path.write_bytes(source.read_bytes()[: places[int(len(places) * share)]])
    return path


@pytest.mark.parametrize("name", ["vfr.mkv", "vfr.flv", "vfr.avi", "b.avi", "fast.mp4"])
@pytest.mark.parametrize("share", [0.4, 0.7])
def test_a_file_cut_off_is_noticed(kinds, tmp_path, name, share):
    path = cut_off(tmp_path / name, kinds[name], share)
    with pytest.raises(VideoReadError, match="truncated: frames end at"):
        load_video(path, FrameSampling(5))
    assert numbers(path, FrameSampling(1, "uniform"), clip=Clip(0.0, 0.2)) == [0]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi", ".ts", ".mov"])
@pytest.mark.parametrize("audio_s", [5.0, 0.3])
def test_sound_of_another_length_changes_nothing(tmp_path, suffix, audio_s):
    codec = "mpeg4" if suffix == ".avi" else "libx264"
    audio = {"audio_s": audio_s, "audio_codec": "mp2"} if suffix == ".avi" else {"audio_s": audio_s}
    path = encode(tmp_path / f"a{suffix}", list(range(30)), codec, **audio)
    video = load_video(path, FrameSampling(4))
    assert video.duration == pytest.approx(3.0, abs=0.002)
    assert [frame_number(f) for f in video.frames] == [0, 10, 20, 29]


def test_picture_helper():
    assert all(frame_number(picture(n)) == n for n in (0, 1, 255, 256, 40000))


def test_small_and_large_files_are_read_alike(recipes, kinds, monkeypatch):
    """Packets of a small file are kept in memory, those of a large one read again."""
    for path in [*sorted(recipes.iterdir()), *kinds.values()]:
        kept = load_video(path, SAMPLING).frames
        with monkeypatch.context() as patch:
            patch.setattr(video_file, "SMALL_FILE", 0)
            assert np.array_equal(load_video(path, SAMPLING).frames, kept), path.name
