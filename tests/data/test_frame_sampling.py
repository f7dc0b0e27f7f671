import json
from pathlib import Path

import numpy as np
import pytest

from olmo.config import ConfigError
from olmo.data import frame_sampling
from olmo.data.frame_sampling import FrameSampling, sample_times
from olmo.preprocessing.video import VideoPreprocessorConfig

FIXTURES = Path(__file__).parents[1] / "fixtures" / "data"
REFERENCE = json.loads((FIXTURES / "frame_sampling.json").read_text())["time_sampler"]


@pytest.mark.parametrize("mode", ["uniform_last_frame", "uniform", "fps"])
def test_reference_values(mode):
    rows = [r for r in REFERENCE if r["mode"] == mode]
    assert rows
    for r in rows:
        fps = r.get("max_fps")
        fps = None if fps is None else tuple(np.atleast_1d(fps).tolist())
        times = sample_times(FrameSampling(r["max_frames"], mode, fps), r["duration"])
        assert len(times) == r["n"], r
        if "times" in r:
            np.testing.assert_allclose(times, r["times"], atol=1e-6)
        else:
            np.testing.assert_allclose(times[:3], r["first3"], atol=1e-6)
            np.testing.assert_allclose(times[-3:], r["last3"], atol=1e-6)
            np.testing.assert_allclose(times.sum(), r["sum"], rtol=1e-6)


@pytest.mark.parametrize(
    ("duration", "expected"),
    [
        (0.1, [0, 0.1]),
        (1.1, [0, 1, 1.1]),
        (2, [0, 1, 2]),
        (2.001, [0, 1, 2, 2.001]),
        (3, [0, 1, 2, 3]),
        (6, [0, 2, 4, 6]),
    ],
)
def test_max_fps_keeps_the_last_moment(duration, expected):
    times = sample_times(FrameSampling(4, max_fps=(1.0,)), duration)
    np.testing.assert_allclose(times, expected)


def test_never_more_than_max_frames():
    for n in (1, 2, 7, 64):
        for duration in np.linspace(0.01, 40, 173):
            for fps in (0.3, 2.0, 29.97):
                times = sample_times(FrameSampling(n, max_fps=(fps,)), duration)
                assert 1 <= len(times) <= n
                assert (np.diff(times) > 0).all()
                assert times[0] == 0 and times[-1] <= duration


def test_training_draws_a_rate_and_evaluation_takes_the_first():
    sampling = FrameSampling(64, max_fps=(1.0, 4.0))
    assert len(sample_times(sampling, 5.0)) == 6
    lengths = {len(sample_times(sampling, 5.0, np.random.default_rng(s), True)) for s in range(20)}
    assert lengths == {6, 21}
    with pytest.raises(ValueError, match="random generator"):
        sample_times(sampling, 5.0, None, True)


def test_bad_settings():
    with pytest.raises(ValueError, match="uniform_randomized"):
        FrameSampling(4, "uniform_randomized")
    with pytest.raises(ValueError, match="max_fps"):
        FrameSampling(4, "uniform", (2.0,))
    with pytest.raises(ValueError, match="positive rates"):
        FrameSampling(4, max_fps=())
    with pytest.raises(ValueError, match="positive duration"):
        sample_times(FrameSampling(4), 0.0)
    with pytest.raises(ConfigError, match=r"frame_sample_mode: 'unifrom' is not one of"):
        VideoPreprocessorConfig.from_dict({"frame_sample_mode": "unifrom"})


def test_from_config(caplog):
    config = VideoPreprocessorConfig(max_frames=8, max_fps=[2.0])
    assert FrameSampling.from_config(config) == FrameSampling(8, "uniform_last_frame", (2.0,))
    assert not caplog.records
    frame_sampling._say_ignored.cache_clear()
    for _ in range(2):
        FrameSampling.from_config(VideoPreprocessorConfig(time_sampling=False))
    assert caplog.text.count("time_sampling=False is ignored") == 1
