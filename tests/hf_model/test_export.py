"""Exported folders: what stock transformers computes from them, and what comes back."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers.models.molmo2")

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoModelForImageTextToText, Molmo2ForConditionalGeneration

from olmo.hf_model.export import ExportOptions, export_checkpoint, export_lite
from olmo.models.loading import CheckpointError, load_model
from olmo.models.molmo2.molmo2 import Molmo2
from olmo.types import SUBSEGMENTS_PER_EXAMPLE
from scripts.convert_to_hf import main as convert_main
from scripts.export_unsharded import export as export_unsharded
from tests.hf_model.conftest import FORMS, batch_of, moved, native_model, same_weights, save_native
from tests.models.conftest import FIXTURES, PRUNING, Row, collate, image_row, text_row, video_row
from tests.models.test_transformers_parity import BATCHES, transformers_inputs

LAYOUTS = ("transformers", "remote")
Pair = tuple[Molmo2, Path]


@pytest.fixture(scope="module", params=[(f, x) for f in FORMS for x in LAYOUTS], ids="-".join)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """A native model and its export."""
    form, layout = request.param
    folder = tmp_path_factory.mktemp("export")
    model = native_model(FORMS[form])
    native = save_native(model, folder / "native")
    return model, export_checkpoint(native, folder / "hf", ExportOptions(layout))


@pytest.fixture(scope="module")
def stock(exported: Pair) -> Molmo2ForConditionalGeneration:
    """The export in transformers' own class, without remote code."""
    model, info = AutoModelForImageTextToText.from_pretrained(
        exported[1], output_loading_info=True, dtype=torch.float32
    )
    assert type(model) is Molmo2ForConditionalGeneration
    assert not info["missing_keys"] and not info["unexpected_keys"], info
    return model.eval()


def two_images(seed: int) -> Row:
    """Two images in one prompt."""
    first, second = image_row(seed), image_row(seed + 1)
    n_patches = first["images"].shape[0] * first["images"].shape[1]
    pooling = second["token_pooling"]
    second["token_pooling"] = torch.where(pooling >= 0, pooling + n_patches, -1)
    return {key: torch.cat((first[key], second[key])) for key in first}


ROWS = BATCHES | {"images": (two_images(0), image_row(5))}


@pytest.mark.parametrize("kind", ROWS)
def test_logits(exported: Pair, stock: Molmo2ForConditionalGeneration, kind: str) -> None:
    inputs = transformers_inputs(collate(*ROWS[kind]), kind.removesuffix("s"))
    batch = batch_of(*ROWS[kind])
    with torch.no_grad():
        ours = exported[0](**batch).logits
        theirs = stock(**inputs | {"input_ids": moved(inputs["input_ids"])}).logits
    valid = batch["input_ids"] >= 0
    # measured 5.4e-6, of logits up to 4.5
    torch.testing.assert_close(ours[valid], theirs[valid], atol=1e-5, rtol=0)


def test_packed_text(exported: Pair, stock: Molmo2ForConditionalGeneration) -> None:
    """Two texts in one row against each by itself."""
    rows = [text_row(n, n)["input_ids"] for n in (12, 7)]
    row = {
        "input_ids": torch.cat(rows)[None],
        "position_ids": torch.cat([torch.arange(len(r)) for r in rows])[None],
        "subsegment_ids": torch.cat(
            [torch.full((len(r),), i * SUBSEGMENTS_PER_EXAMPLE) for i, r in enumerate(rows)]
        )[None],
    }
    with torch.no_grad():
        ours = exported[0](**row).logits[0]
        theirs = torch.cat([stock(r[None]).logits[0] for r in rows])
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)  # measured 2e-6


@pytest.mark.parametrize("kind", ["image", "video", "text"])
def test_greedy_tokens(exported: Pair, stock: Molmo2ForConditionalGeneration, kind: str) -> None:
    """A padded batch of ours against single rows of theirs."""
    rows = {
        "image": (image_row(0), image_row(5)),
        "video": (video_row(3, 3), video_row(1, 5)),
        "text": (text_row(12, 6), text_row(7, 7)),
    }[kind]
    ours = exported[0].generate(batch_of(*rows), 8, stop_ids=[N_STOP])
    for i, row in enumerate(rows):
        inputs = transformers_inputs(collate(row), kind)
        ids = moved(inputs["input_ids"])
        out = stock.generate(
            **inputs | {"input_ids": ids}, max_new_tokens=8, do_sample=False, eos_token_id=N_STOP
        )
        theirs = out[0, ids.shape[1] :].tolist()
        assert ours.token_ids[i].tolist()[: len(theirs)] == theirs


N_STOP = 3
"""Any text token: generation ends there on both sides."""


def test_round_trip(exported: Pair) -> None:
    model, folder = exported
    again, config = load_model(folder)
    assert same_weights(again, model)
    old, new = model.config, config
    assert new.vision_backbone.read_layers() == old.vision_backbone.read_layers()
    assert new.llm.weight_tying == old.llm.weight_tying
    assert new.llm.special_ids() == old.llm.special_ids()
    ours, theirs = new.build_tokenizer(), old.build_tokenizer()
    text = "A red circle <im_patch> |<EXTRA_TOKENS_0>| 12.5"
    assert ours.encode(text) == theirs.encode(text) and ours.ids == theirs.ids
    yarn = [[c.llm.yarn_of_layer(i) for i in range(2)] for c in (old, new)]
    assert yarn[0] == yarn[1]
    batch = batch_of(video_row(2, 1))
    with torch.no_grad():
        assert torch.equal(again(**batch).logits, model(**batch).logits)


@pytest.mark.parametrize("form", FORMS)
def test_from_one_layout_to_the_other(form: str, tmp_path: Path) -> None:
    """Several files, and a Hugging Face folder as the source."""
    model = native_model(FORMS[form])
    native = save_native(model, tmp_path / "native")
    remote = export_checkpoint(native, tmp_path / "a", ExportOptions("remote", max_file_bytes=9000))
    files = sorted(p.name for p in remote.glob("*.safetensors"))
    assert len(files) > 3 and files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    index = json.loads((remote / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == set(files)
    total = sum(p.numel() for p in model.parameters())
    head = model.transformer.wte.embedding.numel() if model.config.llm.weight_tying else 0
    assert index["metadata"]["total_size"] == 4 * (total + head)
    other = export_checkpoint(remote, tmp_path / "b", ExportOptions("transformers"))
    assert same_weights(load_model(other)[0], model)
    theirs = AutoModelForImageTextToText.from_pretrained(remote)
    assert theirs.lm_head.weight.shape == (520, 24)


@pytest.mark.parametrize("original_format", [True, False])
def test_folder_that_transformers_saved(
    exported: Pair, tmp_path: Path, original_format: bool
) -> None:
    """Its remote form cuts the embedding in two equal halves; only the rows in all count."""
    model, folder = exported
    theirs = Molmo2ForConditionalGeneration.from_pretrained(folder)
    theirs.save_pretrained(tmp_path, save_original_format=original_format)
    assert same_weights(load_model(tmp_path)[0], model)


def test_dtype(tmp_path: Path) -> None:
    model = native_model()
    native = save_native(model, tmp_path / "native")
    folder = export_checkpoint(native, tmp_path / "hf", ExportOptions(dtype=torch.bfloat16))
    assert json.loads((folder / "config.json").read_text())["dtype"] == "bfloat16"
    theirs = AutoModelForImageTextToText.from_pretrained(folder)
    assert {p.dtype for p in theirs.parameters()} == {torch.bfloat16}
    ours = load_model(folder)[0].state_dict()
    assert all(
        torch.equal(v, ours[k].float())
        for k, v in ((k, v.bfloat16().float()) for k, v in model.state_dict().items())
    )


def test_float16_is_for_files_alone(tmp_path: Path) -> None:
    """Stored as it was, computed in float32, unless the user asks for float16."""
    native = save_native(native_model().half(), tmp_path / "native")
    folder = export_checkpoint(native, tmp_path / "hf")
    assert {v.dtype for v in load_file(folder / "model.safetensors").values()} == {torch.float16}
    assert AutoModelForImageTextToText.from_pretrained(folder).dtype == torch.float32
    asked = export_checkpoint(native, tmp_path / "asked", ExportOptions(dtype=torch.float16))
    assert AutoModelForImageTextToText.from_pretrained(asked).dtype == torch.float16


def test_pruning_model(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Refused, unless the dense model in it is asked for; then the scorer is left out."""
    model = native_model(PRUNING)
    native = save_native(model, tmp_path / "native")
    with pytest.raises(ValueError, match=r"vit\.prune: .* --dense .* --lite"):
        export_checkpoint(native, tmp_path / "hf")
    assert not (tmp_path / "hf").exists() and not (tmp_path / "hf-tmp").exists()
    with caplog.at_level(logging.WARNING):
        folder = export_checkpoint(native, tmp_path / "hf", ExportOptions(dense=True))
    assert "token scorer" in caplog.text
    dense, config = load_model(folder)
    assert config.model_name == "video_olmo"
    want = {k: v for k, v in model.state_dict().items() if "temporal_token_scorer" not in k}
    state = dense.state_dict()
    assert state.keys() == want.keys() and all(torch.equal(state[k], want[k]) for k in want)
    AutoModelForImageTextToText.from_pretrained(folder)


def test_lite_form(tmp_path: Path) -> None:
    """The scorer and the fields of STTS go and come back; a dense model has no such form."""
    vit = {"vision_backbone": {"vit": {"topk": 0.25}}}
    model = native_model(PRUNING, vit)
    native = save_native(model, tmp_path / "native")
    folder = export_lite(native, tmp_path / "lite")
    again, config = load_model(folder)
    assert same_weights(again, model) and config.budget.topk == 0.25
    assert config.vision_backbone.vit == model.config.vision_backbone.vit
    assert config.vision_backbone.read_layers() == model.config.vision_backbone.read_layers()
    batch = batch_of(video_row(3, 1))
    with torch.no_grad():
        assert torch.equal(again(**batch).logits, model(**batch).logits)
    dense = save_native(native_model(), tmp_path / "dense")
    with pytest.raises(ValueError, match=r"'video_olmo' is dense"):
        export_lite(dense, tmp_path / "other")


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"bi_directional_attn": None}, "bi_directional_attn is None"),
        ({"bi_directional_attn": "within_image"}, "bi_directional_attn is 'within_image'"),
        ({"vision_backbone": {"pooling_attention_mask": False}}, "pooling_attention_mask is False"),
    ],
)
def test_what_transformers_cannot_compute(change: dict[str, Any], key: str, tmp_path: Path) -> None:
    native = save_native(native_model(change), tmp_path / "native")
    with pytest.raises(ValueError, match=key):
        export_checkpoint(native, tmp_path / "hf")


def test_sharded_native_checkpoint(tmp_path: Path) -> None:
    """Two shards of another code base become a folder that transformers loads."""
    step = Path(shutil.copytree(FIXTURES / "molmo2_tiny_dcp" / "step10", tmp_path / "step10"))
    words = Tokenizer(WordLevel({"<|im_end|>": 0, "a": 1}, unk_token="a"))
    words.save(str(tmp_path / "tokenizer.json"))
    text = (step / "config.yaml").read_text()
    text = text.replace("tiny-tokenizer-not-included", str(tmp_path))
    (step / "config.yaml").write_text(text)
    model, _ = load_model(tmp_path)
    folder = export_checkpoint(tmp_path, tmp_path / "hf")
    assert same_weights(load_model(folder)[0], model)
    theirs = AutoModelForImageTextToText.from_pretrained(folder).eval()
    ids = torch.arange(1, 20)[None]
    with torch.no_grad():
        # measured 0
        torch.testing.assert_close(model(ids).logits, theirs(ids).logits, atol=1e-5, rtol=0)


def test_script(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    native = save_native(native_model(), tmp_path / "native")
    command = ["convert_to_hf.py", str(native), str(tmp_path / "hf")]
    monkeypatch.setattr("sys.argv", [*command, "--dtype", "float16", "--layout", "remote"])
    assert convert_main() == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "hf")
    state = load_file(tmp_path / "hf" / "model.safetensors")
    assert state["model.transformer.ln_f.weight"].dtype == torch.float16
    monkeypatch.setattr("sys.argv", command)
    assert convert_main() == 2


def test_folder_to_native_file(tmp_path: Path) -> None:
    """The way back: a Hugging Face folder as ``config.yaml`` and ``model.safetensors``."""
    model = native_model()
    folder = export_checkpoint(save_native(model, tmp_path / "native"), tmp_path / "hf")
    step = export_unsharded(folder, tmp_path / "out", torch.float32)
    again, config = load_model(tmp_path / "out")
    assert same_weights(again, model) and (step / "config.yaml").is_file()
    assert config.llm.tokenizer.identifier == str(folder)


def test_a_deeper_vit_than_the_config_says(tmp_path: Path) -> None:
    """The connector's layers are counted from the end: the export would read others."""
    model = native_model()
    native = save_native(model, tmp_path / "native")
    file, depth = native / "model.safetensors", model.config.vision_backbone.vit.image_num_layers
    block = f"vision_backbone.image_vit.transformer.resblocks.{depth}.attention_norm.weight"
    save_file(load_file(file) | {block: torch.ones(1)}, file)
    with pytest.raises(CheckpointError, match=f"has {depth} blocks by its config"):
        export_checkpoint(native, tmp_path / "hf")
    assert not (tmp_path / "hf").exists()


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    native = save_native(native_model(), tmp_path / "native")
    with pytest.raises(ValueError, match="not an empty folder"):
        export_checkpoint(native, native)
    (tmp_path / "empty").mkdir()
    export_checkpoint(native, tmp_path / "empty")
    with pytest.raises(ValueError, match="layout 'gguf' is not one of transformers, remote"):
        ExportOptions("gguf")
