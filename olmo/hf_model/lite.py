"""The pruned model in Hugging Face form; importing this module registers it.

``AutoConfig``, ``AutoModelForImageTextToText`` and ``AutoProcessor`` then load a folder whose
``config.json`` says ``molmo2_lite``. On disk the weights have the names of the published Molmo2
repositories, plus the scorer's; native names load as well.
"""

from __future__ import annotations

from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import WeightRenaming

from olmo.hf_model.lite_answer import Answer
from olmo.hf_model.lite_config import Molmo2LiteConfig
from olmo.hf_model.lite_model import Molmo2LiteForConditionalGeneration, Molmo2LiteOutput
from olmo.hf_model.processing import Molmo2LiteProcessor

__all__ = [
    "PUBLISHED_NAMES",
    "Answer",
    "Molmo2LiteConfig",
    "Molmo2LiteForConditionalGeneration",
    "Molmo2LiteOutput",
    "Molmo2LiteProcessor",
]

PUBLISHED_NAMES = {
    "self_attn.att_proj": "att_proj",
    "self_attn.attn_out": "attn_out",
    "self_attn.q_norm": "q_norm",
    "self_attn.k_norm": "k_norm",
    "mlp.ff_proj": "ff_proj",
    "mlp.ff_out": "ff_out",
    "^lm_head": "^model.transformer.ff_out",
}
"""Parts of parameter names in published repositories, and what they are called in the model."""


def register() -> None:
    """Make transformers' Auto classes and weight reader know the model."""
    AutoConfig.register(Molmo2LiteConfig.model_type, Molmo2LiteConfig, exist_ok=True)
    AutoModelForImageTextToText.register(
        Molmo2LiteConfig, Molmo2LiteForConditionalGeneration, exist_ok=True
    )
    AutoProcessor.register(Molmo2LiteConfig, Molmo2LiteProcessor, exist_ok=True)
    renamings = [WeightRenaming(source, target) for source, target in PUBLISHED_NAMES.items()]
    register_checkpoint_conversion_mapping(Molmo2LiteConfig.model_type, renamings, overwrite=True)


register()
