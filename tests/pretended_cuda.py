"""``torch.cuda`` for the pretended device: streams, events, graphs, and what it says of itself.

Work is done at once, in the order of the program, so that streams and events only count waits.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import linecache
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Protocol
from weakref import WeakValueDictionary

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "tests" / "fixtures" / "pretended_gpu.cpp"


@cache
def switch() -> ctypes.CDLL:
    """``pretend_cuda`` turns the device on, and off again. Compiled once for each version of torch
    and text of the source."""
    if torch.backends.cuda.is_built():
        pytest.skip("a pretended GPU is for a torch that is built without CUDA")
    if shutil.which("g++") is None:
        pytest.skip(f"a pretended GPU needs g++, to compile {SOURCE.name}")
    from torch.utils.cpp_extension import include_paths  # late: imports setuptools

    key = hashlib.sha256(f"{torch.__version__}{SOURCE.read_text()}".encode()).hexdigest()
    built = ROOT / ".cache" / "pretended_gpu" / f"{key[:16]}.so"
    if not built.exists():
        built.parent.mkdir(parents=True, exist_ok=True)
        part, lib = built.with_suffix(f".{os.getpid()}"), Path(torch.__file__).parent / "lib"
        headers = [f"-I{p}" for p in include_paths()]
        libraries = [f"-L{lib}", "-ltorch_cpu", "-lc10", f"-Wl,-rpath,{lib}"]
        command = ["g++", "-O0", "-std=c++20", "-shared", "-fPIC", *headers, str(SOURCE)]
        subprocess.run([*command, "-o", str(part), *libraries], check=True)
        part.replace(built)  # whole at once: other workers may look for it
    return ctypes.CDLL(str(built))


def line() -> str:
    """The innermost line of ``olmo`` that runs, else of a caller outside torch and this file."""
    frame, other = sys._getframe(1), ""
    while frame is not None:
        path, number = frame.f_code.co_filename, frame.f_lineno
        place = f"{os.path.relpath(path, ROOT)}:{number} {linecache.getline(path, number).strip()}"
        if path.startswith(str(ROOT / "olmo")):
            return place
        if not other and "/torch/" not in path and "/pretended_" not in path:
            other = place
        frame = frame.f_back  # type: ignore[assignment]
    return other


class Device(Protocol):
    """What is asked of the device."""

    capturing: Graph | None
    launches: Counter[str]

    def wait(self, why: str) -> None: ...


class Graph:
    """``torch.cuda.CUDAGraph``. As on a GPU, capturing computes nothing that lasts: what the
    captured operations wrote is undone at its end, and their results are filled with NaN.
    ``launches`` counts its kernels."""

    def __init__(self, gpu: Device) -> None:
        self.gpu = gpu
        self.reset()

    def reset(self) -> None:
        self.launches: Counter[str] = Counter()
        self.calls: list[tuple[Callable[..., Any], Any, Any, Any]] = []
        self._undo: list[tuple[Tensor, Tensor]] = []

    def record(self, function: Callable[..., Any], args: Any, kwargs: Any, written: Any) -> Any:
        """Run one operation on values and keep it for ``replay``."""
        self._undo += [(t, t.clone()) for t in tree_leaves(written) if isinstance(t, Tensor)]
        out = function(*args, **kwargs)
        self.calls.append((function, args, kwargs, out))
        return out

    def capture_begin(self, *_: object, **__: object) -> None:
        if self.gpu.capturing is not None:
            raise RuntimeError("a graph is being captured already")
        self.reset()
        self.gpu.capturing = self

    def capture_end(self) -> None:
        self.gpu.capturing = None
        for tensor, before in reversed(self._undo):
            tensor.copy_(before)
        self._undo.clear()
        for _, args, kwargs, out in self.calls:
            given = {_address(t) for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
            for t in tree_leaves(out):
                if isinstance(t, Tensor) and _address(t) not in given:
                    t.fill_(torch.nan if t.is_floating_point() else 0)

    @torch.no_grad()
    def replay(self) -> None:
        """Run the operations again on the tensors of the capture, into the same results."""
        self.gpu.launches["CUDAGraph.replay"] += 1
        for function, args, kwargs, out in self.calls:
            new = function(*args, **kwargs)
            for old, value in zip(tree_leaves(out), tree_leaves(new), strict=True):
                if isinstance(old, Tensor) and old.data_ptr() != value.data_ptr():
                    old.copy_(value)

    def pool(self) -> tuple[int, int]:
        return (0, 0)


def _address(t: Tensor) -> int:
    return t.untyped_storage().data_ptr()


class CudaGenerator(torch.Generator):
    """A generator of the device, which draws on the CPU."""

    made: ClassVar[WeakValueDictionary[int, CudaGenerator]] = WeakValueDictionary()
    """By address: an operation is handed a new Python object around the same generator."""

    def __init__(self) -> None:
        self.made[self._cdata] = self

    @property
    def device(self) -> torch.device:
        return torch.device("cuda", 0)


class Generator(torch.Generator):
    """``torch.Generator``, for both devices."""

    def __new__(cls, device: Any = "cpu", real: Any = torch.Generator) -> Any:
        return CudaGenerator() if torch.device(device).type == "cuda" else real(device)


def _stream_and_event(gpu: Device) -> tuple[type, type]:
    class Event:
        def __init__(self, *_: object, **__: object) -> None: ...

        def record(self, stream: object = None) -> None: ...

        def wait(self, stream: object = None) -> None: ...

        def query(self) -> bool:
            return True

        def synchronize(self) -> None:
            gpu.wait("Event.synchronize")

        def elapsed_time(self, end: object) -> float:
            """Milliseconds; nothing here takes time that means something."""
            return 1.0

    class Stream:
        def __init__(self, *_: object, **__: object) -> None: ...

        def wait_stream(self, stream: object) -> None: ...

        def wait_event(self, event: object) -> None: ...

        def record_event(self, event: Event | None = None) -> Event:
            return event or Event()

        def query(self) -> bool:
            return True

        def synchronize(self) -> None:
            gpu.wait("Stream.synchronize")

    return Stream, Event


def functions(gpu: Device) -> dict[str, Any]:
    """Attributes of ``torch.cuda``: an H100 with nothing on it."""
    stream, event = _stream_and_event(gpu)
    current = [stream()]

    @contextlib.contextmanager
    def on(new: Any) -> Iterator[None]:
        current.append(new or current[-1])
        try:
            yield
        finally:
            current.pop()

    @contextlib.contextmanager
    def capture(graph: Graph, *_: object, **__: object) -> Iterator[None]:
        gpu.wait("torch.cuda.synchronize before a capture")
        graph.capture_begin()
        try:
            yield
        finally:
            graph.capture_end()

    def nothing(*_: object, **__: object) -> None: ...

    return {
        "CUDAGraph": lambda *_, **__: Graph(gpu),
        "Event": event,
        "Stream": stream,
        "_lazy_init": nothing,
        "current_device": lambda: 0,
        "current_stream": lambda *_: current[-1],
        "default_stream": lambda *_: current[0],
        "device": lambda *_: contextlib.nullcontext(),
        "device_count": lambda: 1,
        "empty_cache": nothing,
        "get_device_capability": lambda *_: (9, 0),
        "get_device_name": lambda *_: "NVIDIA H100 80GB HBM3",
        "get_rng_state": lambda *_: torch.get_rng_state(),
        "graph": capture,
        "graph_pool_handle": lambda: (0, 0),
        "is_available": lambda: True,
        "is_bf16_supported": lambda *_, **__: True,
        "is_current_stream_capturing": lambda: gpu.capturing is not None,
        "is_initialized": lambda: True,
        "max_memory_allocated": lambda *_: 1,
        "memory_allocated": lambda *_: 0,
        "reset_peak_memory_stats": nothing,
        "set_device": nothing,
        "set_rng_state": lambda state, *_: torch.set_rng_state(state),
        "stream": on,
        "synchronize": lambda *_: gpu.wait("torch.cuda.synchronize"),
    }
