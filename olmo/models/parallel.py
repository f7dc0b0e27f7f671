"""Activation checkpointing, compilation and sharding, applied to a model from outside.

To be called in this order: ``checkpoint_activations``, ``compile_blocks``, ``shard``. Compilation
replaces the ``forward`` of the block itself, so that neither the recomputation around it nor FSDP's
hooks are traced: a graph break in a block (ragged attention has one) would undo all of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import (
    CheckpointImpl,
    checkpoint_wrapper,
)
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from olmo.config import Config
from olmo.models.lora import add_same_adapters
from olmo.models.molmo2.molmo2 import Molmo2
from olmo.types import HOST_INPUTS

FsdpPrecision = Literal["pure", "mixed", "float"]


@dataclass
class FsdpConfig(Config):
    """Sharding over the ranks of a run with more than one."""

    precision: FsdpPrecision = "mixed"
    """Type of gathered parameters and of reduced gradients: ``pure`` bf16 for both, ``mixed`` bf16
    and float32, ``float`` float32 for both. Products run in bf16 with ``precision=amp_bf16``."""
    replicas: int = 1
    """Copies of the model, each sharded over world size / ``replicas`` ranks: use the number of
    nodes to keep the traffic of the weights inside a node."""

    def __post_init__(self) -> None:
        self.at_least(1, "replicas")


def checkpoint_activations(model: Molmo2) -> None:
    """Recompute blocks in the backward pass, where the config asks for it."""
    backbone = model.vision_backbone
    if backbone.config.vit.activation_checkpointing:
        blocks = backbone.image_vit.transformer.resblocks
        for i, block in enumerate(blocks):
            blocks[i] = _wrapped(block, backbone.config.vit.attention_dropout)
    if backbone.config.connector_activation_checkpointing:
        backbone.image_projector = _wrapped(backbone.image_projector, 0.0)  # type: ignore[assignment]
    if model.config.llm.activation_checkpoint:
        for i, block in enumerate(model.transformer.blocks):
            model.transformer.blocks[i] = _wrapped(block, model.config.llm.attention_dropout)


def _wrapped(module: nn.Module, dropout: float) -> nn.Module:
    """``dropout``: of its attention, which is no module."""
    draws = dropout > 0 or any(isinstance(m, nn.Dropout) and m.p > 0 for m in module.modules())
    return checkpoint_wrapper(
        module, checkpoint_impl=CheckpointImpl.NO_REENTRANT, preserve_rng_state=draws
    )


def compile_blocks(model: Molmo2, compile_llm: bool = False) -> None:
    """Compile in place what the config names: ViT blocks, pooling and projector, LLM blocks."""
    backbone, config = model.vision_backbone, model.vision_backbone.config
    if config.compile_vit == "blocks":
        _compile(*backbone.image_vit.transformer.resblocks)
    if config.compile_connector is not None:
        dynamic = True if config.compile_connector == "dynamic" else None
        _compile(backbone.image_pooling_2d, backbone.image_projector, dynamic=dynamic)
    if compile_llm:
        _compile(*model.transformer.blocks)


def _compile(*modules: nn.Module, dynamic: bool | None = None) -> None:
    """None: the second shape that turns up makes a size dynamic. True would also make the sizes of
    sharded weights dynamic."""
    for module in modules:
        inner = getattr(module, "_checkpoint_wrapped_module", module)
        inner.forward = torch.compile(inner.forward, dynamic=dynamic)


def n_shards(n_ranks: int, replicas: int) -> int:
    """Ranks that share one copy of the model; ``ValueError`` if there is no such number."""
    if replicas < 1 or n_ranks % replicas:
        raise ValueError(f"fsdp.replicas={replicas} does not divide {n_ranks} ranks")
    return n_ranks // replicas


def build_mesh(device_type: str, replicas: int = 1) -> DeviceMesh:
    """Mesh over all ranks: ``shard``, or ``replicate`` x ``shard`` with ``replicas`` > 1.

    ``ValueError`` if the ranks cannot be divided so.
    """
    world = torch.distributed.get_world_size()
    shape = (replicas, n_shards(world, replicas))
    if replicas == 1:
        return init_device_mesh(device_type, (world,), mesh_dim_names=("shard",))
    return init_device_mesh(device_type, shape, mesh_dim_names=("replicate", "shard"))


def shard(
    model: Molmo2, mesh: DeviceMesh, precision: FsdpPrecision, autocast: torch.dtype | None
) -> None:
    """FSDP2 over ``mesh``; parameters stay float32 between steps.

    ``pure`` gathers parameters and reduces gradients in the autocast type, ``mixed`` reduces in
    float32, ``float`` does both in float32.
    """
    compute = autocast if precision != "float" else None
    policy = MixedPrecisionPolicy(
        param_dtype=compute,
        reduce_dtype=compute if precision == "pure" else torch.float32,
        # rotary tables, score bias and loss weights stay float32; autocast sees to the products
        cast_forward_inputs=False,
    )

    def wrap(*modules: nn.Module) -> None:
        for module in modules:
            fully_shard(module, mesh=mesh, mp_policy=policy)

    backbone, llm = model.vision_backbone, model.transformer
    wrap(*backbone.image_vit.transformer.resblocks)
    scorer = getattr(backbone.image_vit.transformer, "temporal_token_scorer", None)
    if scorer is not None:
        wrap(scorer)
    wrap(backbone.image_pooling_2d, backbone.image_projector)
    wrap(*llm.blocks, llm.wte)
    if not model.config.llm.weight_tying:
        wrap(llm.ff_out)
    wrap(model)
    _keep_on_host(model)


def _keep_on_host(model: nn.Module) -> None:
    """FSDP moves every input of the whole model to its device. One hook before FSDP's own takes
    ``HOST_INPUTS`` aside, one after it puts them back."""
    aside: dict[str, Any] = {}

    def take(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        aside.clear()
        aside.update({k: v for k, v in kwargs.items() if k in HOST_INPUTS})
        return args, {k: v for k, v in kwargs.items() if k not in HOST_INPUTS}

    def give(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return args, {**kwargs, **aside}

    model.register_forward_pre_hook(take, prepend=True, with_kwargs=True)
    model.register_forward_pre_hook(give, with_kwargs=True)


def last_micro_batch(model: nn.Module, last: bool) -> None:
    """Replicas exchange their gradients after the last micro-batch of a step only."""
    if isinstance(model, FSDPModule):
        model.set_requires_all_reduce(last)
        model.set_is_last_backward(last)


@torch.no_grad()
def whole_copy(model: Molmo2, dtype: torch.dtype | None = None) -> Molmo2:
    """Every rank's own copy of a sharded model, in evaluation mode; every rank calls this.

    Without sharding it is ``model`` itself, put into evaluation mode; ``dtype`` is then unused.
    """
    if not isinstance(model, FSDPModule):
        return model.eval()
    copy = model.config.build("meta")
    add_same_adapters(copy, model)
    copy = (copy if dtype is None else copy.to(dtype)).to_empty(device=model.device)
    target = copy.state_dict()
    for name, value in model.state_dict().items():
        target[name].copy_(value.full_tensor() if isinstance(value, DTensor) else value)
    return copy.eval()
