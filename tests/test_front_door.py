"""``from olmo import load_model`` and ``scripts/predict.py``, from both kinds of folders."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("transformers.models.molmo2")

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import pipeline

import olmo
from olmo import load_model
from olmo.data.datasets.synthetic.video import SyntheticVideoQA, clip_path
from olmo.hf_model.export import ExportOptions, export_checkpoint
from olmo.hf_model.lite_answer import STAGES
from olmo.hf_model.processor_files import write_processor_files
from olmo.models.hf_layout.config import to_hf
from olmo.models.loading import load_model as load_native
from olmo.models.weights import CheckpointError
from tests.data.video_media import moving_picture
from tests.eval.scripts import script_module
from tests.scored import CLIP_TOKENS

ROOT = Path(__file__).parents[1]
DENSE = ROOT / "checkpoints" / "tiny-dense"
QUESTION, STYLE = "Which letter or digit moves?", "video_short_answer"


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    data = SyntheticVideoQA("test", 1, root=tmp_path_factory.mktemp("data"))
    return clip_path(data.folder, 0)


@pytest.fixture(scope="module")
def dense():
    return load_model(DENSE, dtype=torch.float32, device="cpu")


@pytest.fixture(scope="module")
def folder(scored_checkpoint, tmp_path_factory):
    """A pruned model as a Hugging Face folder."""
    path = tmp_path_factory.mktemp("lite")
    model, processor = load_model(scored_checkpoint)
    model.save_pretrained(path)
    processor.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def predict():
    return script_module("predict")


def ask(model, clip, **options):
    return model.answer(QUESTION, [clip], style=STYLE, max_new_tokens=12, **options)


def test_the_three_lines_of_the_manual(clip, dense):
    model, processor = dense
    text = model.generate_from_video(str(clip), QUESTION, topk=0.5, max_new_tokens=12)
    assert isinstance(text, str) and text
    assert model.get_processor() is processor
    image = Image.new("RGB", (90, 40), "red")
    answer = model.answer("Which colour?", images=[image], max_new_tokens=4)
    assert answer.n_tokens_before > 0 and answer.n_tokens_after == answer.n_tokens_before
    assert model.generate_from_image(image, "Which colour?", max_new_tokens=4) == answer.text
    batch = processor(text=QUESTION, videos=clip)
    assert model(**batch).logits.shape[:2] == batch["input_ids"].shape


def test_a_dense_checkpoint_prunes_when_told(clip, dense):
    model, _ = dense
    whole, same, half = ask(model, clip), ask(model, clip, topk=0.0), ask(model, clip, topk=0.5)
    assert whole.n_tokens_after == whole.n_tokens_before == half.n_tokens_before
    assert (same.text, same.n_tokens_after) == (whole.text, whole.n_tokens_after)
    assert half.n_tokens_after == half.n_tokens_before - CLIP_TOKENS // 2
    assert ask(model, clip).text == whole.text
    assert not any("scorer" in name for name in model.state_dict())
    assert set(half.seconds) == set(STAGES) and all(s > 0 for s in half.seconds.values())


def test_two_frames(clip, dense):
    model, _ = dense
    assert ask(model, clip, max_frames=2).n_tokens_before < ask(model, clip).n_tokens_before


@pytest.mark.parametrize("name", ["olmo.load_model", "auto", "pipeline"])
def test_a_hugging_face_folder(scored_checkpoint, folder, clip, name):
    """All ways in give the same answer, with the same tokens removed."""
    from_native, _ = load_model(scored_checkpoint)
    expected = ask(from_native, clip)
    assert expected.n_tokens_after == expected.n_tokens_before - CLIP_TOKENS // 2
    words = f"{STYLE}: {QUESTION}\nReply with a short answer."
    if name == "pipeline":
        pipe = pipeline("image-text-to-text", model=str(folder))
        video = {"type": "video", "path": str(clip)}
        chat = [{"role": "user", "content": [video, {"type": "text", "text": words}]}]
        (out,) = pipe(text=chat, max_new_tokens=12, return_full_text=False)
        assert out["generated_text"] == expected.text
        batch = pipe([chat, chat], max_new_tokens=12, batch_size=1)
        assert [o[0]["generated_text"][-1]["content"] for o in batch] == [expected.text] * 2
        return
    if name == "auto":
        model = type(from_native).from_pretrained(folder)
        assert model.processor is None
    else:
        model, _ = load_model(folder)
        assert not model.training and model.config.topk == 0.5
    answer = model.answer(words, [clip], max_new_tokens=12)
    assert answer.text == expected.text
    assert answer.n_tokens_after == expected.n_tokens_after


def test_overrides_of_a_folder(folder, clip):
    model, processor = load_model(
        folder,
        {"mm_preprocessor": {"video": {"max_frames": 4}}},
        topk=0.25,
        prune_method="random",
    )
    answer = ask(model, clip)
    assert answer.n_tokens_after == answer.n_tokens_before - 4 * 64 // 4
    assert processor.config.video.max_frames == 4


def test_several_inputs_and_a_batch(dense, clip):
    model, processor = dense
    image = Image.new("RGB", (60, 60), "blue")
    answer = model.answer("Compare.", [clip, clip], [image], topk=0.5, max_new_tokens=3)
    assert answer.n_tokens_before - answer.n_tokens_after == CLIP_TOKENS
    one = model.answer("What?", videos=str(clip), max_new_tokens=3)
    assert one.text == model.answer("What?", videos=[clip], max_new_tokens=3).text
    batch = processor(text=["What?", "Which of the two?"], videos=[[clip], [clip, clip]])
    out = model.generate(**batch, topk=0.5, max_new_tokens=3)
    assert out.shape[0] == 2 and torch.equal(
        out[:, : batch["input_ids"].shape[1]], batch["input_ids"]
    )


def test_predict_prints_answer_tokens_and_times(predict, clip, capsys, dense):
    options = ["--checkpoint", str(DENSE), "--topk", "0.5", "--style", STYLE, "--device", "cpu"]
    assert predict.main([str(clip), QUESTION, *options]) == 0
    lines = capsys.readouterr().out.splitlines()
    expected = ask(dense[0], clip, topk=0.5)
    assert lines[0] == expected.text
    before, after = expected.n_tokens_before, expected.n_tokens_after
    assert lines[1] == f"tokens: {before} before pruning (evs), {after} after"
    assert [part.split()[0] for part in lines[2].removeprefix("seconds: ").split(", ")] == [
        *STAGES,
        "total",
    ]


def test_predict_takes_an_image(predict, tmp_path, capsys):
    Image.new("RGB", (60, 60), "green").save(tmp_path / "p.png")
    arguments = [str(tmp_path / "p.png"), "Which colour?", "--checkpoint", str(DENSE)]
    assert predict.main([*arguments, "--max_new_tokens", "3"]) == 0
    assert "before pruning" in capsys.readouterr().out


def test_predict_takes_a_moving_picture_for_a_video(predict, dense, tmp_path, capsys):
    path = moving_picture(tmp_path / "p.gif", n=30)
    arguments = [str(path), "What?", "--checkpoint", str(DENSE), "--device", "cpu"]
    assert predict.main([*arguments, "--max_new_tokens", "1"]) == 0
    as_video = dense[0].answer("What?", videos=[path], max_new_tokens=1)
    assert f"tokens: {as_video.n_tokens_before} before" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing.mp4", "?", "--checkpoint", str(DENSE)], "nothing.mp4: no such file"),
        ([None, "?", "--checkpoint", "nowhere"], "nowhere: no such checkpoint folder"),
        ([None, "?", "--checkpoint", str(DENSE), "--topk", "2"], "in [0, 1): got 2.0"),
        ([None, "?", "--checkpoint", str(DENSE), "--prune_method", "x"], "prune_method 'x'"),
        ([None, "?", "--checkpoint", str(DENSE), "--max_frames", "0"], "at least 1"),
        ([None, "?", "--checkpoint", str(DENSE), "--device", "gpu"], "device 'gpu' is none of"),
        ([None, "?", "--checkpoint", str(DENSE), "--device", "cuda:99"], "'cuda:99': torch finds"),
        (
            [None, "?", "--checkpoint", str(DENSE), "--style", "video_short_anser"],
            "unknown style 'video_short_anser'; did you mean 'video_short_answer'?",
        ),
        (
            [None, "?", "--checkpoint", str(DENSE), "--prune_method", "scorer", "--topk", ".5"],
            "has no token scorer. Choose a prune_method without training: easy, evs,",
        ),
    ],
)
def test_predict_says_what_is_wrong(predict, clip, capsys, arguments, message):
    assert predict.main([a or str(clip) for a in arguments]) == 2
    assert message in capsys.readouterr().err


def test_an_unknown_style(dense, clip):
    model, processor = dense
    with pytest.raises(ValueError, match="unknown style 'pointin'; did you mean 'pointing'"):
        model.answer("?", [clip], style="pointin")
    chat = [{"role": "user", "content": "?"}]
    with pytest.raises(ValueError, match="unknown style 'zzzz'; known: "):
        processor.apply_chat_template(chat, style="zzzz")


def test_no_scorer_to_prune_with():
    """A dense checkpoint does not get random weights for one, in any form."""
    with pytest.raises(CheckpointError, match="without training: easy, evs, heuristic, random"):
        load_model(DENSE, prune_method="scorer")


def damaged(folder, tmp_path, change):
    """A copy of ``folder`` with its weights changed in place."""
    for file in folder.iterdir():
        if file.suffix == ".json":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    return tmp_path


def test_damaged_folders(folder, tmp_path):
    key = "model.transformer.blocks.1.mlp.ff_out.weight"
    lacking = damaged(folder, tmp_path, lambda w: w.pop(key))
    with pytest.raises(CheckpointError, match=f"1 missing keys, first {key!r}"):
        load_model(lacking)
    other = damaged(folder, tmp_path, lambda w: w.update({key: torch.zeros(3, 4)}))
    with pytest.raises(CheckpointError, match=rf"{key!r} has shape \(3, 4\)"):
        load_model(other)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"prune_methd": "x"}))
    with pytest.raises(ValueError, match=r"config.json: unknown key 'prune_methd'"):
        load_model(tmp_path)


def test_a_published_folder(folder, tmp_path, clip):
    """Their names, their config, the pruning keys in ``vit_config``, stock processor files."""
    model, processor = load_model(folder)
    native = model.config.to_native()
    data = to_hf(native, "remote")
    data["vit_config"] |= {"topk": 0.5, "prune_at": 1, "prune_method": "scorer"}
    (tmp_path / "config.json").write_text(json.dumps(data))
    native.mm_preprocessor = processor.config
    write_processor_files(native, processor.native_tokenizer, tmp_path)
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"] = weights["model.transformer.wte.embedding"].clone()
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    again, _ = load_model(tmp_path)
    before, after = ask(model, clip), ask(again, clip)
    assert (after.text, after.n_tokens_after) == (before.text, before.n_tokens_after)


@pytest.mark.parametrize("layout", ["transformers", "remote"])
def test_a_dense_export(layout, tmp_path, clip, dense):
    """A folder for stock transformers, read back: dense, and pruned on demand."""
    export_checkpoint(DENSE, tmp_path / "out", ExportOptions(layout=layout))
    model, processor = load_model(tmp_path / "out")
    assert processor.tokenizer.get_vocab() == dense[1].tokenizer.get_vocab()
    for topk in (None, 0.5):
        given, again = ask(dense[0], clip, topk=topk), ask(model, clip, topk=topk)
        assert (again.text, again.n_tokens_after) == (given.text, given.n_tokens_after)


def test_native_readers_take_the_folder(folder):
    native, config = load_native(folder)
    model, processor = load_model(folder)
    assert all(torch.equal(v, model.model.state_dict()[k]) for k, v in native.state_dict().items())
    assert config.vision_backbone.vit == model.model.config.vision_backbone.vit
    assert config.mm_preprocessor.video.max_frames == processor.config.video.max_frames == 16
    assert config.data_formatter == processor.formatter.config


@pytest.mark.slow
def test_importing_the_package_registers_the_model():
    code = (
        "import olmo.hf_model, transformers as t; c = t.AutoConfig.for_model('molmo2_lite'); "
        "print(t.AutoModelForImageTextToText._model_mapping[type(c)].__name__)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "Molmo2LiteForConditionalGeneration"


def test_importing_olmo_costs_nothing():
    code = "import olmo, sys; print(any(m in sys.modules for m in ('torch', 'transformers')))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"
    assert set(olmo.__all__) <= set(dir(olmo))
    assert all(getattr(olmo, name) for name in olmo.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        olmo.nothing  # noqa: B018


@pytest.mark.parametrize(
    ("argument", "values"),
    [
        ("video", [["a.mp4", "b.mp4"], ["a.mp4"], None, 3, [], b"x", {}, "", "no.mp4"]),
        ("video", [np.zeros((2, 3)), np.zeros((2, 8, 8, 3)), np.zeros((0, 8, 8, 3), np.uint8)]),
        ("question", ["", "  ", None, 3, ["a"], b"x"]),
        ("topk", ["half", "0.5", float("nan"), float("inf"), 1.0, -0.1, True, False, [0.5], {}]),
        ("max_new_tokens", [0, -1, "x", 2.5, True, None]),
        ("max_frames", [0, -3, "8", 2.5, True]),
        ("style", ["x", None, 3]),
        ("options", ["ab", [1, 2], 3]),
    ],
)
def test_wrong_arguments_of_a_question(dense, clip, argument, values):
    for value in values:
        arguments = {"video": str(clip), "question": "?", "max_new_tokens": 2} | {argument: value}
        with pytest.raises((ValueError, OSError), match=f"(?i){argument}|prompt|text|files"):
            dense[0].generate_from_video(**arguments)


@pytest.mark.parametrize(
    ("argument", "values"),
    [
        ("path", [None, 3, [], "", b"x", "/nonexistent"]),
        ("device", ["gpu", "mps", "cuda:99", 3.5, [], "meta", ""]),
        ("dtype", ["half", "float32", torch.int32, 5]),
        ("overrides", [3, {"llm": 3}, {"vision_backbone": 3}, {"vision_backbone": {"vit": 3}}]),
        ("overrides", [{"mm_preprocessor": [1]}, {"x": 1}, {"llm": {"d_model": -5}}]),
        ("topk", ["half", "0.5", float("nan"), 1.0, -1, True, [0.5]]),
        ("tokp", [0.5]),
    ],
)
def test_wrong_arguments_of_load_model(argument, values):
    for value in values:
        with pytest.raises((ValueError, OSError)) as raised:
            load_model(**{"path": DENSE, "device": "cpu"} | {argument: value})
        assert "object has no attribute" not in str(raised.value)


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"eos_token_id": "x"}', '{"max_new_tokens": -1}', "\x00"]
)
def test_a_wrong_generation_config(folder, tmp_path, text):
    damaged(folder, tmp_path, lambda weights: None)
    (tmp_path / "generation_config.json").write_text(text)
    with pytest.raises(ValueError, match=r"generation_config\.json"):
        load_model(tmp_path)


@pytest.mark.parametrize("path", [3, "", "/nonexistent", "./nonexistent"])
def test_from_pretrained_of_nothing(path):
    for kind in (olmo.Molmo2LiteConfig, olmo.Molmo2LiteProcessor):
        with pytest.raises((ValueError, OSError), match=r"path: expected|no such folder"):
            kind.from_pretrained(path)
    with pytest.raises((ValueError, OSError), match=r"path: expected|no such folder"):
        olmo.Molmo2LiteForConditionalGeneration.from_pretrained(path)
