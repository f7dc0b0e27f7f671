"""The config of the pruned model in Hugging Face form."""

import json
import re

import pytest

pytest.importorskip("transformers.models.molmo2")

from transformers import AutoConfig

import olmo
from olmo.config import Config, ConfigError
from olmo.hf_model.lite import Molmo2LiteConfig
from olmo.models.hf_layout.config import to_hf
from olmo.models.loading import load_model_config
from olmo.models.molmo2.molmo2 import Molmo2Config
from olmo.models.registry import model_config_from_dict
from olmo.models.temporal_video_olmo.temporal_video_olmo import TemporalVideoOlmoConfig
from olmo.nn.image_vit import VitConfig
from olmo.nn.temporal_image_vit import TemporalVitConfig
from tests.hf_model.conftest import native_model, save_native
from tests.hf_model.lite_models import OLMO, UNTIED
from tests.models.conftest import PRUNING, config_dict

CHANGES = {
    "prune_at": 2,
    "topk": 0.3,
    "prune_method": "easy",
    "layout": "packed",
    "refill": True,
    "rescale_bias_min": 0.25,
    "prune_from_frame": 1,
    "bias_rescale": "frame",
    "random_seed": 3,
}


def native(*changes, **vit):
    return model_config_from_dict(config_dict(PRUNING, {"vision_backbone": {"vit": vit}}, *changes))


def inference_view(config):
    """What decides a model's output, with one spelling for each meaning."""
    llm, backbone = config.llm, config.vision_backbone
    data = config.to_dict()
    del data["llm"], data["vision_backbone"], data["mm_preprocessor"]
    vit = {k: v for k, v in backbone.vit.to_dict().items() if k != "image_num_layers"}
    return data | {
        "vit": vit,
        "layers": backbone.read_layers(),
        "video_pooling": backbone.video_pooling,
        "ids": llm.special_ids(),
        "rope": [llm.yarn_of_layer(i) for i in range(llm.n_layers)],
        "sizes": (llm.kv_heads, llm.head_size, llm.n_embeddings, llm.additional_vocab_size),
        "same": [
            getattr(llm, name)
            for name in (
                *("d_model", "n_heads", "n_layers", "mlp_hidden_size", "rope_theta"),
                *("attention_layer_norm_type", "norm_after", "layer_norm_eps"),
                *("weight_tying", "max_sequence_length"),
            )
        ],
    }


@pytest.mark.parametrize(
    "config",
    [
        native(),
        native(**CHANGES),
        native(OLMO),
        native(UNTIED, {"bi_directional_attn": None, "pruned_position_ids": "original"}),
        native({"llm": {"fix_pad_tokenizer": True, "embedding_size": 44}}),
    ],
    ids=["default", "changed", "olmo3", "untied", "padded"],
)
def test_native_and_back_through_a_file(config, tmp_path):
    Molmo2LiteConfig.from_native(config).save_pretrained(tmp_path)
    again = AutoConfig.from_pretrained(tmp_path)
    assert type(again) is Molmo2LiteConfig
    assert inference_view(again.to_native()) == inference_view(config)


def test_fields_stand_in_config_json(tmp_path):
    Molmo2LiteConfig.from_native(native(**CHANGES)).save_pretrained(tmp_path)
    data = json.loads((tmp_path / "config.json").read_text())
    assert data["model_type"] == "molmo2_lite"
    assert {key: data[key] for key in CHANGES} == CHANGES


def test_every_field_of_stts_has_its_default():
    config = Molmo2LiteConfig()
    ours = {f for f in TemporalVitConfig.__dataclass_fields__} - set(VitConfig.__dataclass_fields__)
    assert {key: getattr(config, key) for key in ours} == {
        key: getattr(TemporalVitConfig(), key) for key in ours
    }


@pytest.mark.parametrize("section", ["vit_config", "top"])
def test_a_published_config_with_pruning_keys(section):
    data = to_hf(native(), "remote") | {"model_type": "molmo2"}
    place = data if section == "top" else data["vit_config"]
    place |= {"topk": 0.25, "prune_at": 2}
    config = Molmo2LiteConfig.from_dict(data)
    assert (config.topk, config.prune_at) == (0.25, 2)
    vit = config.to_native().vision_backbone.vit
    assert (vit.topk, vit.prune_at, vit.image_emb_dim) == (0.25, 2, 16)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"topk": 1.5}, "topk is the share to remove, in [0, 1): got 1.5"),
        ({"prune_method": "magic"}, "'magic' is not one of"),
        ({"prune_methd": "easy"}, "unknown key 'prune_methd'"),
        ({"layout": "dense"}, "'dense' is not one of"),
        ({"refill": True}, "refill=True needs layout=packed"),
    ],
)
def test_bad_values_are_named(change, message, tmp_path):
    Molmo2LiteConfig.from_native(native()).save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    for reader in (Molmo2LiteConfig, AutoConfig):
        with pytest.raises(ConfigError, match=f"{file}: .*{re.escape(message)}"):
            reader.from_pretrained(tmp_path)


def test_what_the_form_cannot_say_is_refused():
    with pytest.raises(ValueError, match="pooling_attention_mask=False has no place"):
        Molmo2LiteConfig.from_native(native({"vision_backbone": {"pooling_attention_mask": False}}))


def test_a_config_is_parsed_once(tmp_path, monkeypatch):
    """Once from its file, and once more for transformers' form of a pruning model."""
    folder = save_native(native_model(), tmp_path / "run" / "step1")
    parsed = []
    from_dict = Config.from_dict.__func__

    def counted(cls, data, path=""):
        parsed.append(cls)
        return from_dict(cls, data, path)

    monkeypatch.setattr(Molmo2Config, "from_dict", classmethod(counted))
    load_model_config(folder)
    assert parsed == [Molmo2Config]
    parsed.clear()
    olmo.load_model(tmp_path / "run", device="cpu")
    assert parsed == [TemporalVideoOlmoConfig] * 2
