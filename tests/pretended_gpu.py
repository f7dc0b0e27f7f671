"""A CUDA device that is pretended: tensors say ``cuda:0`` and hold their values on the CPU.

Code for a GPU runs with real numbers where there is none. What CUDA refuses raises (tensors of two
devices in one operation, a launch that is too large, a wait inside a graph), and three things are
counted, by operation and by the line of ``olmo`` that caused them:

``waits``     the host waits for the device: a value is read, a size depends on values, or a copy
              to the device is not both pinned and ``non_blocking``
``uploads``   copies to the device that nothing waits for
``launches``  operations that start a kernel; views start none, a replay is one

Speed, memory, streams that overlap and ``torch.compile`` are not pretended. The modes belong to one
thread: a loader's pinning thread stays outside.

    with pretended_gpu() as gpu:
        to_gpu(model)(x.to("cuda"))
    print(gpu.waits)
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, cast
from unittest import mock

import torch
import torch._dynamo  # modes import it late, and it reads torch.cuda: so before that changes
import torch.nn.functional as F
from torch import Tensor, nn
from torch._library.custom_ops import OPDEFS
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map, tree_map_only

from tests import pretended_cuda
from tests.pretended_attention import (
    SdpaCall,
    check_flash,
    cudnn_backward,
    cudnn_forward,
    flash_backward,
    flash_forward,
    sdpa,
)
from tests.pretended_cuda import line

CUDA = torch.device("cuda", 0)
WAITING = {"allclose", "is_nonzero", "multinomial"}
"""Operations that read a value back though torch does not tag them so."""
NO_KERNEL = {"detach", "alias", "lift_fresh", "_unsafe_view", "set_", "is_pinned"}
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_"}
SCALARS = {"copy_", "_to_copy", "masked_fill", "masked_fill_", "fill_", *INDEXING}
"""Besides pointwise operations these take a CPU tensor without dimensions."""
FLASH = {
    "_flash_attention_forward": flash_forward,
    "_flash_attention_backward": flash_backward,
}
CUDNN = {
    "_scaled_dot_product_cudnn_attention": cudnn_forward,
    "_scaled_dot_product_cudnn_attention_backward": cudnn_backward,
}


class PretendedTensor(Tensor):
    """A tensor on ``cuda:0``; ``host`` has the values."""

    host: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, host: Tensor) -> PretendedTensor:
        out = Tensor._make_wrapper_subclass(
            cls,
            host.shape,
            strides=host.stride(),
            storage_offset=host.storage_offset(),
            dtype=host.dtype,
            device=CUDA,
        )
        out.host = host
        return cast(PretendedTensor, out)

    def __repr__(self) -> str:  # type: ignore[override]
        return f"PretendedTensor({tuple(self.shape)}, {self.dtype})"

    def __format__(self, spec: str) -> str:
        return format(self.item() if self.dim() == 0 else repr(self), spec)

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def record_stream(self, stream: object) -> None:
        """Nothing: memory is not pretended."""

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{func}: a pretended tensor outside pretended_gpu(); use to_host")


def to_host(tree: Any) -> Any:
    """``tree`` with the values of pretended tensors in their place."""
    return tree_map_only(PretendedTensor, lambda t: t.host, tree)


def _on_gpu(tree: Any) -> Any:
    return tree_map_only(Tensor, PretendedTensor, tree)


def to_gpu(module: nn.Module) -> nn.Module:
    """Put the parameters and buffers of ``module`` on the device, in place; shared ones stay so."""
    moved: dict[int, Tensor] = {}
    for m in module.modules():
        for name, p in m._parameters.items():
            if p is not None and not isinstance(p, PretendedTensor):
                new = nn.Parameter(PretendedTensor(p.detach()), p.requires_grad)
                m._parameters[name] = cast(nn.Parameter, moved.setdefault(id(p), new))
        for name, b in m._buffers.items():
            if b is not None and not isinstance(b, PretendedTensor):
                m._buffers[name] = moved.setdefault(id(b), PretendedTensor(b))
    return module


class PretendedGpu(TorchDispatchMode):
    """Runs every operation of its thread, and counts."""

    def __init__(self) -> None:
        super().__init__()
        self.capturing: pretended_cuda.Graph | None = None
        self._pinned: dict[int, torch.UntypedStorage] = {}  # held, so that no address comes twice
        self.reset()

    def reset(self) -> None:
        """Counts begin anew."""
        self.waits: Counter[str] = Counter()
        self.uploads: Counter[str] = Counter()
        self.launches: Counter[str] = Counter()
        self.sdpa_calls: list[SdpaCall] = []

    def wait(self, why: str) -> None:
        """The host waits for the device; inside a graph capture that is an error."""
        if self.capturing is not None:
            raise RuntimeError(f"operation not permitted when stream is capturing: {why}, {line()}")
        self.waits[f"{why}, {line()}"] += 1

    def _launch(self, name: str) -> None:
        (self.capturing or self).launches[name] += 1

    def call(self, name: str, function: Callable[..., Any], *tensors: Tensor | None) -> Any:
        """``function`` of the tensors' values, as one kernel."""
        self._launch(name)
        return _on_gpu(self._execute(function, to_host(tensors), {}, ()))

    def _execute(self, function: Any, args: Any, kwargs: Any, written: Any) -> Any:
        if self.capturing is None:
            return function(*args, **kwargs)
        return self.capturing.record(function, args, kwargs, written)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        on_gpu = any(isinstance(t, PretendedTensor) for t in tensors)
        device = kwargs.get("device")
        target = torch.device(device).type if device is not None else "cuda" if on_gpu else "cpu"
        name = func._schema.name.removeprefix("aten::")
        if not on_gpu and target == "cpu":
            return self._on_host(func, name, args, kwargs)
        if name in OPDEFS:  # written in Python, of operations that come here one by one
            with self, torch.no_grad():
                return OPDEFS[name]._init_fn(*args, **kwargs)
        given = dict(zip((a.name for a in func._schema.arguments), args, strict=False)) | kwargs
        written = [
            given[a.name]
            for a in func._schema.arguments
            if a.alias_info is not None and a.alias_info.is_write and a.name in given
        ]
        _refuse_mixed_devices(func, name, tensors, given, written)
        if name in FLASH or name in CUDNN:
            host = to_host(given)
            if name in FLASH:
                check_flash(host)
            self._launch(name)
            return _on_gpu(self._execute((FLASH | CUDNN)[name], (host,), {}, ()))
        generator = kwargs.get("generator")
        if generator is not None and generator._cdata not in pretended_cuda.CudaGenerator.made:
            raise RuntimeError(f"{func}: a generator of the cpu, {line()}")
        self._account(func, name, given, target)
        host_args, host_kwargs = tree_map(self._value, (tuple(args), dict(kwargs)))
        if device is not None:
            host_kwargs["device"] = torch.device("cpu")
        out = self._execute(func, host_args, host_kwargs, to_host(written))
        if name == "copy_" and not isinstance(args[0], PretendedTensor):
            return args[0]
        if target == "cpu":  # torch takes pinned memory for a copy that runs in the background
            return self._pin(out) if name == "_to_copy" and kwargs.get("non_blocking") else out
        return (
            return_and_correct_aliasing(func, args, kwargs, _on_gpu(out))
            if on_gpu
            else _on_gpu(out)
        )

    def _value(self, leaf: Any) -> Any:
        if isinstance(leaf, PretendedTensor):
            return leaf.host
        if self.capturing is not None and isinstance(leaf, Tensor):
            return leaf.clone()  # a graph keeps the number that was there at capture
        return leaf

    def _on_host(self, func: Any, name: str, args: Any, kwargs: Any) -> Any:
        if name == "is_pinned":
            return self._is_pinned(args[0])
        if name == "_pin_memory":
            return self._pin(args[0].clone(memory_format=torch.contiguous_format))
        if kwargs.get("pin_memory"):
            return self._pin(func(*args, **kwargs | {"pin_memory": False}))
        return func(*args, **kwargs)

    def _pin(self, host: Tensor) -> Tensor:
        storage = host.untyped_storage()
        self._pinned[storage.data_ptr()] = storage
        return host

    def _is_pinned(self, host: Tensor) -> bool:
        return host.untyped_storage().data_ptr() in self._pinned

    def _account(self, func: Any, name: str, given: dict[str, Any], target: str) -> None:
        if name in ("_to_copy", "copy_"):
            return self._account_copy(name, given, target)
        tags = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape} & set(func.tags)
        if name in INDEXING:
            name = self._account_index(name, given)
        elif (tags or name in WAITING) and given.get("output_size") is None:
            self.wait(name)
        returns = [r.alias_info for r in func._schema.returns]
        is_view = any(r is not None and not r.is_write for r in returns)
        if not (is_view or name in NO_KERNEL or "empty" in name or name == "_local_scalar_dense"):
            self._launch(name)

    def _account_copy(self, name: str, given: dict[str, Any], target: str) -> None:
        source, there = given["self"], given["self"]
        if name == "copy_":
            source, target = given["src"], there.device.type
        dtype = there.dtype if name == "copy_" else given.get("dtype") or source.dtype
        background = bool(given.get("non_blocking"))
        if source.device.type == target:
            self._launch(name)
        elif target == "cpu":
            if not (background and (name == "_to_copy" or self._is_pinned(there))):
                self.wait("copy to the host")
        elif not (background and self._is_pinned(source)) or self.capturing is not None:
            self.wait(f"copy to the device ({'not pinned' if background else 'blocking'})")
        elif not (source.is_contiguous() and source.dtype == dtype):
            self.wait("copy to the device (by way of memory that is not pinned)")
        else:
            self.uploads[line()] += 1

    def _account_index(self, name: str, given: dict[str, Any]) -> str:
        """Waits of an indexing operation; gives its name, which may be another's."""
        indices = [i for i in given["indices"] if i is not None]
        masks = [i.dtype in (torch.bool, torch.uint8) for i in indices if i.is_cuda]
        value = given.get("values")
        from_host = value is not None and not isinstance(value, PretendedTensor)
        if from_host and masks == [True] and len(indices) == 1 and not given.get("accumulate"):
            return "masked_fill"
        for _ in range(len(indices) - len(masks)):
            self.wait(f"{name}: an index on the host")
        if from_host:
            self.wait(f"{name}: a value on the host")
        if any(masks):
            self.wait(f"{name} by a mask")
        return name


def _refuse_mixed_devices(
    func: Any, name: str, tensors: list[Tensor], given: dict[str, Any], written: list[Any]
) -> None:
    pointwise = torch.Tag.pointwise in func.tags or name.startswith("_foreach") or name in SCALARS
    free = {id(i) for i in given["indices"] if i is not None} if name in INDEXING else set()
    if name in ("copy_", "_to_copy"):
        return
    written_here = {id(t) for t in tree_leaves(written)}
    for t in tensors:
        if isinstance(t, PretendedTensor) or id(t) in free:
            continue
        if t.dim() > 0 or not pointwise or id(t) in written_here:
            raise RuntimeError(
                f"{func}: expected all tensors to be on the same device, but found cuda:0 and a "
                f"tensor {tuple(t.shape)} on the cpu, {line()}"
            )


@contextlib.contextmanager
def pretended_gpu() -> Iterator[PretendedGpu]:
    """The device, while the context lasts. Skips the test where there is no ``g++``."""
    switch = pretended_cuda.switch()
    gpu = PretendedGpu()
    real_sdpa, lifted = F.scaled_dot_product_attention, torch._C._only_lift_cpu_tensors()
    with contextlib.ExitStack() as stack:
        for name, value in pretended_cuda.functions(gpu).items():
            stack.enter_context(mock.patch.object(torch.cuda, name, value, create=True))
        for owner, name, value in (
            (F, "scaled_dot_product_attention", partial(sdpa, gpu, real_sdpa)),
            (torch, "Generator", pretended_cuda.Generator),
        ):
            stack.enter_context(mock.patch.object(owner, name, value))
        switch.pretend_cuda()
        stack.callback(switch.pretend_cuda)
        overwrite = torch.__future__.get_overwrite_module_params_on_conversion()
        stack.callback(torch.__future__.set_overwrite_module_params_on_conversion, overwrite)
        torch.__future__.set_overwrite_module_params_on_conversion(True)  # module.to(device)
        stack.callback(torch._C._set_only_lift_cpu_tensors, lifted)
        torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device=): made here, copied
        stack.enter_context(torch.autograd.set_multithreading_enabled(False))
        stack.enter_context(gpu)
        yield gpu
