"""The script that shows pruning: files it writes, settings it takes, errors it gives."""

import json
import re
from itertools import pairwise
from pathlib import Path

import pytest

pytest.importorskip("av")

import av
import numpy as np
import torch
from PIL import Image

from olmo.models.loading import load_model
from olmo.preprocessing.images import patchify, resize_frames
from olmo.preprocessing.video import video_token_pooling
from olmo.token_budget import n_removed_tokens
from olmo.types import MultimodalType
from olmo.viewer.kept import kept_cells
from scripts import visualize_pruning
from scripts.visualize_pruning import main

DENSE = Path(__file__).parents[2] / "checkpoints" / "tiny-dense"


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """4 s, 10 frames per second, a square that moves over a still background."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    background = np.random.default_rng(0).integers(60, 120, (6, 8, 3), dtype=np.uint8)
    background = np.asarray(Image.fromarray(background).resize((160, 120)))
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
        for i in range(40):
            frame = background.copy()
            frame[20:60, 3 * i : 3 * i + 40] = (230, 60, 40)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        out.mux(stream.encode())
    return path


PIXELS = ["--prune_method=easy", "--frame_size=96", "--patch_size=8"]
SHIPPED = ["--checkpoint", str(DENSE), "--prune_method=easy", "--prune_at=1"]


def test_a_picture_without_a_checkpoint(clip, tmp_path, capsys):
    out = tmp_path / "new" / "out.png"
    assert main([str(clip), "--out", str(out), *PIXELS, "--topk=0.7", "--max_frames=5"]) == 0
    with Image.open(out) as picture:
        assert picture.width > 700 and picture.height > 400
    text = capsys.readouterr().out
    removed = n_removed_tokens(5, 16, 0.7)
    assert f"5 frames of 16 cells, topk 0.7: {removed} of 80 visual tokens removed" in text


def test_overrides_of_a_checkpoint(clip, tmp_path, capsys):
    out = tmp_path / "out.html"
    more = ["--topk=0.25", "--max_frames=4", "--model.vision_backbone.vit.prune_from_frame=1"]
    assert main([str(clip), "--out", str(out), *SHIPPED, *more]) == 0
    removed = n_removed_tokens(4, 64, 0.25, 1)
    assert f"4 frames of 64 cells, topk 0.25: {removed} of 256" in capsys.readouterr().out
    page = out.read_text()
    data = json.loads(re.search(r'id="data">(.*?)</script>', page)[1])
    assert (data["frames"], data["topk"], data["pruneFromFrame"]) == (4, 0.25, 1)
    assert "prune_method easy on ViT block 1 of" in page


def test_the_script_shows_what_the_checkpoint_does(clip):
    """A whole model loaded the usual way keeps the same cells."""
    args, overrides = visualize_pruning.parse_args([str(clip), "--out=x.png", *SHIPPED])
    scored = visualize_pruning.score(args, overrides)
    vit = {"prune_method": "easy", "prune_at": 1, "topk": 0.5}
    changes = {"model_name": "temporal_video_olmo", "vision_backbone": {"vit": vit}}
    model, config = load_model(DENSE, changes)
    patches = patchify(resize_frames(scored.video.frames, (128, 128)), 8)
    pooling = video_token_pooling(config.mm_preprocessor.video, len(patches), 16, 16)
    batch = {
        "images": torch.from_numpy(patches)[None],
        "token_pooling": torch.from_numpy(pooling)[None],
        "num_images": torch.tensor([[len(patches)]]),
        "multimodal_type": torch.tensor([[int(MultimodalType.VIDEO)]]),
    }
    keep, scores = kept_cells(model, batch)
    np.testing.assert_array_equal(scored.kept().keep, keep)
    assert scored.scores.shape == scores.shape


def test_a_video_of_the_frames(clip, tmp_path):
    out = tmp_path / "out.mp4"
    flags = [*SHIPPED, "--max_frames=6", "--fps=4", "--width=101", "--heat=rank"]
    assert main([str(clip), "--out", str(out), *flags]) == 0
    with av.open(str(out)) as container:
        stream = container.streams.video[0]
        assert stream.average_rate == 4 and stream.codec_context.name == "h264"
        frames = [f.to_ndarray(format="rgb24") for f in container.decode(stream)]
        assert container.duration == pytest.approx(6 / 4 * av.time_base, abs=1e4)
    assert len(frames) == 6
    assert all(side % 2 == 0 for side in frames[0].shape[:2])
    assert all(np.abs(a.astype(int) - b).mean() > 1 for a, b in pairwise(frames))


@pytest.mark.parametrize("suffix", [".png", ".mp4", ".html"])
def test_one_frame_and_nothing_to_remove(clip, tmp_path, capsys, suffix):
    out = tmp_path / f"out{suffix}"
    for flag in ("--max_frames=1", "--topk=0"):
        assert main([str(clip), "--out", str(out), *PIXELS, flag, "--clip_end=1"]) == 0
        assert ": 0 of " in capsys.readouterr().out and out.stat().st_size > 1000


def test_files_that_are_no_video(clip, tmp_path, capsys):
    (tmp_path / "notes.mp4").write_text("words")
    (tmp_path / "empty").mkdir()
    for video, flags, message in (
        (tmp_path / "gone.mp4", PIXELS, r"gone\.mp4: no such file"),
        (tmp_path / "notes.mp4", PIXELS, r"cannot read video .*notes\.mp4"),
        (clip, [*PIXELS, "--clip_start=9"], r"clip 9\.0 s to the end is not inside its 4\.000 s"),
        (clip, ["--checkpoint", str(tmp_path / "no")], "no such checkpoint folder"),
        (clip, ["--checkpoint", str(tmp_path / "empty")], "neither a checkpoint"),
        (clip, ["--checkpoint", str(DENSE), "--prune_method=scorer"], "has no token scorer"),
        (clip, [], "prune_method=scorer needs the weights of a checkpoint"),
        (clip, [*PIXELS, "--topk=1"], r"topk is the share to remove, in \[0, 1\): got 1\.0"),
        (clip, [*PIXELS, "--patch_size=7"], "96x96 is not divisible by the patch size 7"),
        (clip, [*SHIPPED, "--prune_at=9"], "prune_at=9: blocks 0 to 4 are built"),
        (clip, [*SHIPPED, "--model.vision_backbone.vit.tpok=1"], "unknown key .* 'topk'"),
        (clip, [*PIXELS, "--device=abacus"], "device 'abacus' is none of torch's"),
        (clip, ["--prune_method=best"], "prune_method 'best' is not one of easy, evs, heuristic"),
    ):
        assert main([str(video), "--out", str(tmp_path / "out.png"), *flags]) == 2
        text = capsys.readouterr().err
        assert re.search(message, text) and text.count("\n") == 1, text
    assert not (tmp_path / "out.png").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--out=x.gif", *PIXELS], "unknown extension '.gif', give .png, .mp4, .html"),
        (["--out=x", *PIXELS], "unknown extension ''"),
        ([*PIXELS], "the following arguments are required: --out"),
        (["--out=x.png", *PIXELS, "--prune_at=2"], "--prune_at needs --checkpoint"),
        (["--out=x.png", *PIXELS, "--model.a=1"], "--model.* needs --checkpoint"),
        (["--out=x.png", *SHIPPED, "--pool=2"], "--pool is for raw pixels"),
        (["--out=x.png", *PIXELS, "--topc=0.5"], "unknown argument '--topc=0.5'"),
        (["--out=x.png", *PIXELS, "--frame_size=1x2x3"], "expected H or HxW"),
        (["--out=x.png", *PIXELS, "--max_frames=0"], "must be at least 1, got 0"),
        (["--out=x.mp4", *PIXELS, "--fps=0"], "--fps must be above 0"),
    ],
)
def test_wrong_flags(clip, capsys, flags, message):
    with pytest.raises(SystemExit) as stop:
        main([str(clip), *flags])
    assert stop.value.code == 2 and message in capsys.readouterr().err


def test_help_names_every_method_and_form(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    for word in (
        *("easy", "evs", "heuristic", "random", "scorer"),
        ".png",
        ".mp4",
        ".html",
        "--model.KEY=VALUE",
        "--new_ref_threshold",
    ):
        assert word in text
