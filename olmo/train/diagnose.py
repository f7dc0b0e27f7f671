"""Where a number that is not finite comes from: parameter, module or gradient, by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

WRAPPER = "_checkpoint_wrapped_module"


def first_bad_module(model: nn.Module, forward: Callable[[], object]) -> str | None:
    """Name of the first parameter of ``model`` that is not finite, or else of the module whose
    output is the first of ``forward`` that is not; None if all are finite.

    Of nested modules the innermost is named. Every rank of a sharded model calls this.
    """
    bad = [f"parameter {_clean(n)}" for n, p in model.named_parameters() if not _finite(p)]
    eager = torch.compiler.set_stance("force_eager")  # compiled code has no modules to watch
    with _watch(model) as found, torch.no_grad(), eager:
        forward()  # also with a bad parameter: the other ranks wait for this one
    return next(iter((*bad, *found)), None)


def bad_gradients(model: nn.Module) -> list[str]:
    """Names of the parameters whose gradient is not finite, on this rank."""
    return [
        _clean(name)
        for name, param in model.named_parameters()
        if param.grad is not None and not _finite(param.grad)
    ]


@contextmanager
def _watch(model: nn.Module) -> Iterator[list[str]]:
    """Collects the names of modules with a bad output, in the order in which they end."""
    found: list[str] = []

    def hook_of(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            parts = output if isinstance(output, (tuple, list)) else [output]
            if any(isinstance(part, Tensor) and not _finite(part) for part in parts):
                found.append(name)

        return hook

    handles = [
        module.register_forward_hook(hook_of(_clean(name)))
        for name, module in model.named_modules()
        if name and not name.endswith(WRAPPER)
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _finite(x: Tensor) -> bool:
    local = x.to_local() if isinstance(x, DTensor) else x
    return not local.is_floating_point() or bool(torch.isfinite(local).all())


def _clean(name: str) -> str:
    return name.replace(f"{WRAPPER}.", "")
