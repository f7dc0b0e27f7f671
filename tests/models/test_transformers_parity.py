"""The dense model against transformers' own classes, with the weights renamed.

Both sides have the same tiny random weights. The measured differences stand beside the
tolerances.
"""

from __future__ import annotations

import re

import pytest

pytest.importorskip("transformers.models.molmo2")

import torch
from einops import rearrange
from torch import Tensor
from transformers import (
    Molmo2Config,
    Molmo2ForConditionalGeneration,
    Qwen3Config,
    Qwen3ForCausalLM,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from olmo.models.molmo2.molmo2 import Molmo2
from olmo.nn.image_vit import VisionTransformer
from olmo.nn.llm import LlmConfig
from olmo.tokenizer import BIDIRECTIONAL_TOKENS
from tests.models.conftest import (
    IDS,
    OLMO3,
    Row,
    build,
    collate,
    image_row,
    text_row,
    video_row,
)

FORMS = {"qwen3": {}, "olmo3": {"llm": OLMO3}}
RENAMES = [
    (r"^transformer\.blocks\.", "model.language_model.layers."),
    (r"^transformer\.ln_f", "model.language_model.norm"),
    (r"\.attn_out", ".self_attn.o_proj"),
    (r"\.([qk]_norm)", r".self_attn.\1"),
    (r"\.attn_norm", ".input_layernorm"),
    (r"\.ff_norm", ".post_attention_layernorm"),
    (r"^(model\.language_model.*)\.ff_out", r"\1.mlp.down_proj"),
    (r"^transformer\.ff_out", "lm_head"),
    (r"^vision_backbone\.image_vit\.", "model.vision_tower."),
    (r"\.transformer\.resblocks\.", ".layers."),
    (r"\.attention\.w([qkvo])", r".self_attn.\1_proj"),
    (r"\.feed_forward\.w([12])", r".mlp.fc\1"),
    (r"\.attention_norm", ".layer_norm1"),
    (r"\.ffn_norm", ".layer_norm2"),
    (r"^vision_backbone\.", "model.multi_modal_projector."),
    (r"(image_pooling_2d)\.w([qkvo])", r"\1.\2_proj"),
    (r"image_projector\.w1", "image_projector.gate_proj"),
    (r"image_projector\.w2", "image_projector.down_proj"),
    (r"image_projector\.w3", "image_projector.up_proj"),
]


def renamed(state: dict[str, Tensor], llm: LlmConfig) -> dict[str, Tensor]:
    """Native state dict -> names of transformers' Molmo2."""
    out = {}
    table = state["transformer.wte.embedding"]
    out["model.language_model.embed_tokens.weight"] = torch.cat(
        (table, state["transformer.wte.new_embedding"])
    )
    out["lm_head.weight"] = table
    for key, value in state.items():
        if key.startswith("transformer.wte."):
            continue
        for pattern, replacement in RENAMES:
            key = re.sub(pattern, replacement, key)
        if key.endswith(".att_proj.weight"):
            h = llm.head_size
            parts = value.split([llm.n_heads * h, llm.kv_heads * h, llm.kv_heads * h])
            for name, part in zip("qkv", parts, strict=True):
                out[key.replace("att_proj", f"self_attn.{name}_proj")] = part
        elif key.endswith(".ff_proj.weight"):
            up, gate = value.chunk(2)
            out[key.replace("ff_proj", "mlp.up_proj")] = up
            out[key.replace("ff_proj", "mlp.gate_proj")] = gate
        else:
            out[key] = value
    return out


def text_config(llm: LlmConfig) -> dict:
    rope = {"rope_type": "default", "rope_theta": llm.rope_theta}
    if llm.rope_type == "yarn":
        rope |= {
            "rope_type": "yarn",
            "factor": llm.rope_factor,
            "original_max_position_embeddings": llm.rope_original_max_position_embeddings,
        }
    return {
        "hidden_size": llm.d_model,
        "num_attention_heads": llm.n_heads,
        "num_key_value_heads": llm.kv_heads,
        "head_dim": llm.head_size,
        "vocab_size": llm.n_embeddings,
        "num_hidden_layers": llm.n_layers,
        "intermediate_size": llm.mlp_hidden_size // 2,
        "max_position_embeddings": llm.max_sequence_length,
        "rms_norm_eps": llm.layer_norm_eps,
        "rope_parameters": rope,
        "attention_bias": False,
        "tie_word_embeddings": False,
    }


def transformers_model(model: Molmo2) -> Molmo2ForConditionalGeneration:
    llm, vit = model.config.llm, model.config.vision_backbone.vit
    layers = model.config.vision_backbone.read_layers()
    shared = {
        "hidden_size": vit.image_emb_dim,
        "num_attention_heads": vit.image_num_heads,
        "num_key_value_heads": vit.image_num_heads,
        "head_dim": vit.image_head_dim,
    }
    text = text_config(llm) | {
        "additional_vocab_size": llm.additional_vocab_size,
        "qk_norm_type": llm.attention_layer_norm_type,
        "norm_after": llm.norm_after,
    }
    if llm.full_attention_layers is not None:
        text["rope_scaling_layers"] = list(llm.full_attention_layers)
    config = Molmo2Config(
        text_config=text,
        vision_config={
            **shared,
            "intermediate_size": vit.image_mlp_dim,
            "num_hidden_layers": max(layers) + 1,
            "image_size": list(vit.image_default_input_size),
            "patch_size": vit.image_patch_size,
        },
        adapter_config={
            **shared,
            "vision_feature_layer": list(layers),
            "intermediate_size": llm.mlp_hidden_size // 2,
            "text_hidden_size": llm.d_model,
        },
        image_patch_id=IDS["<im_patch>"],
    )
    out = Molmo2ForConditionalGeneration(config)
    out.load_state_dict(renamed(model.state_dict(), llm))
    return out.eval()


def transformers_inputs(batch: Row, kind: str) -> dict[str, Tensor]:
    """The same batch in transformers' form: flat crops and indices over all of them."""
    ids = batch["input_ids"]
    visual = torch.tensor([IDS[t] for t in BIDIRECTIONAL_TOKENS])
    out = {
        "input_ids": ids.clamp(min=0),
        "attention_mask": (ids >= 0).long(),
        "mm_token_type_ids": torch.isin(ids, visual).long(),
    }
    if kind == "text":
        return out
    pooling, images = batch["token_pooling"], batch["images"]
    rows = torch.arange(len(ids))[:, None, None] * images.shape[1] * images.shape[2]
    pooling = torch.where(pooling >= 0, pooling + rows, -1)[(pooling >= 0).any(-1)]
    pixels = images.flatten(0, 1).float() / 255 * 2 - 1
    if kind == "video":
        grids = torch.tensor([[n, 3, 3] for n in batch["num_images"].flatten() if n > 0])
        return out | {
            "pixel_values_videos": pixels,
            "video_token_pooling": pooling,
            "video_grids": grids,
        }
    counts = (batch["input_ids"] == IDS["<im_patch>"]).sum(1)
    grids = torch.tensor([[n, 1, 0, 0] for n in counts if n > 0])
    return out | {"pixel_values": pixels, "image_token_pooling": pooling, "image_grids": grids}


BATCHES = {
    "image": (image_row(0), text_row(12, 1), image_row(2)),
    "video": (video_row(3, 3), text_row(50, 4), video_row(1, 5)),
    "text": (text_row(12, 6), text_row(7, 7)),
}


@pytest.mark.parametrize("kind", BATCHES)
@pytest.mark.parametrize("form", FORMS)
def test_molmo2_logits(form: str, kind: str) -> None:
    """Bidirectional attention between visual tokens, padded rows, a row of plain text."""
    model, batch = build(FORMS[form]), collate(*BATCHES[kind])
    other = transformers_model(model)
    with torch.no_grad():
        ours = model(**batch).logits
        theirs = other(**transformers_inputs(batch, kind)).logits
    valid = batch["input_ids"] >= 0
    # measured 2e-6, of logits up to 5
    torch.testing.assert_close(ours[valid], theirs[valid], atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["image", "video"])
def test_bidirectional_attention_is_tested(kind: str) -> None:
    """The batches above tell the two mask modes apart."""
    batch = collate(*BATCHES[kind])
    with torch.no_grad():
        both, causal = (
            build({"bi_directional_attn": mode})(**batch).logits for mode in ("image_tokens", None)
        )
    assert (both - causal).abs().max() > 0.1


def test_qwen3_logits() -> None:
    """The language model that weights come from; its table has no rows for visual tokens."""
    model = build()
    llm = model.config.llm
    other = Qwen3ForCausalLM(Qwen3Config(**text_config(llm))).eval()
    native = {k: v for k, v in model.state_dict().items() if not k.startswith("vision_backbone")}
    prefix = "model.language_model."
    state = {k.replace(prefix, "model."): v for k, v in renamed(native, llm).items()}
    state["model.embed_tokens.weight"] = state["lm_head.weight"]
    other.load_state_dict(state)
    ids = torch.randint(1, llm.vocab_size, (2, 60))
    with torch.no_grad():
        # measured 1e-6
        torch.testing.assert_close(model(ids).logits, other(ids).logits, atol=1e-5, rtol=0)


def test_siglip_hidden_states() -> None:
    """Our patch embedding is a linear layer over (row, column, colour), theirs a convolution."""
    vit = build().vision_backbone.image_vit
    config = vit.config
    other = SiglipVisionModel(
        SiglipVisionConfig(
            hidden_size=config.image_emb_dim,
            intermediate_size=config.image_mlp_dim,
            num_hidden_layers=vit.n_layers,
            num_attention_heads=config.image_num_heads,
            image_size=config.image_default_input_size[0],
            patch_size=config.image_patch_size,
            layer_norm_eps=config.image_norm_eps,
            vision_use_head=False,
        )
    ).eval()
    prefix = "vision_model." if "vision_model.post_layernorm.weight" in other.state_dict() else ""
    state = {prefix + k: v for k, v in siglip_state(vit).items()}
    rest = other.load_state_dict(state, strict=False)
    assert not rest.unexpected_keys and all("post_layernorm" in k for k in rest.missing_keys)
    p = config.image_patch_size
    frames = torch.rand(2, 3, 18, 18) * 2 - 1
    patches = rearrange(frames, "n c (h p) (w q) -> n (h w) (p q c)", p=p, q=p)
    with torch.no_grad():
        theirs = other(frames, output_hidden_states=True).hidden_states
        ours = vit(patches, tuple(range(vit.n_layers)))
    for a, b in zip(ours, theirs[1:], strict=True):
        # measured 0
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


def siglip_state(vit: VisionTransformer) -> dict[str, Tensor]:
    out = {}
    for key, value in vit.state_dict().items():
        key = key.replace("transformer.resblocks.", "encoder.layers.")
        for pattern, replacement in RENAMES[10:14]:
            key = re.sub(pattern, replacement, key)
        out[key.replace("o_proj", "out_proj")] = value
    p = vit.config.image_patch_size
    weight = rearrange(out.pop("patch_embedding.weight"), "e (p q c) -> e c p q", p=p, q=p)
    out["embeddings.patch_embedding.weight"] = weight
    out["embeddings.patch_embedding.bias"] = out.pop("patch_embedding.bias")
    out["embeddings.position_embedding.weight"] = out.pop("positional_embedding")
    return out
