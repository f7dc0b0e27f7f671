"""AdamW whose two averages take one byte a number instead of four, for one process."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from olmo.command_line import RunError
from olmo.distributed import get_world_size

CODES, SCALE = "_codes", "_scale"


def adamw_8bit(param_groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """torchao's optimizer over ``param_groups``. Small tensors keep float32 averages.

    Learning rates are floats to the outside. State dicts hold plain tensors on the CPU, exactly:
    of an average ``x`` its codes 0..255 as float16 ``x_codes``, a type that checkpoints hold, and
    its block scales ``x_scale``. ``RunError`` without torchao.
    """
    try:
        from torchao.optim import AdamW8bit  # imported late: slow, and an extra
        from torchao.optim.subclass_8bit import OptimState8bit
    except ImportError as e:
        raise RunError(
            "optimizer.bits=8 needs a package that is not installed: pip install torchao"
        ) from e
    if get_world_size() > 1:
        raise ValueError(f"optimizer.bits=8 is for one process, there are {get_world_size()}")

    class PlainState(AdamW8bit):
        def add_param_group(self, param_group: dict[str, Any]) -> None:
            super().add_param_group(param_group)
            self.param_groups[-1]["lr"] = float(self.param_groups[-1]["lr"])

        def step(self, closure: Any = None) -> Any:
            rates = [group["lr"] for group in self.param_groups]
            for group in self.param_groups:
                group["lr"] = torch.tensor(group["lr"])  # a float would be compiled in
            try:
                return super().step(closure)
            finally:
                for group, rate in zip(self.param_groups, rates, strict=True):
                    group["lr"] = rate

        def state_dict(self) -> dict[str, Any]:
            state = super().state_dict()
            return {**state, "state": {k: _plain(v) for k, v in state["state"].items()}}

        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            params = [p for group in self.param_groups for p in group["params"]]
            numbers = [n for group in state_dict["param_groups"] for n in group["params"]]
            state = dict(state_dict["state"])
            for number, param in zip(numbers, params, strict=True):
                if number in state:
                    state[number] = self._packed(state[number], param)
            super().load_state_dict({**state_dict, "state": state})

        def _packed(self, values: dict[str, Tensor], param: Tensor) -> dict[str, Tensor]:
            packed = {k: v for k, v in values.items() if not k.endswith((CODES, SCALE))}
            for key in [k.removesuffix(CODES) for k in values if k.endswith(CODES)]:
                average = self._new_buffer(param.detach(), signed=key == "exp_avg")
                average.codes.copy_(values[key + CODES])
                average.scale.copy_(values[key + SCALE])
                packed[key] = average
            return packed

    def _plain(values: dict[str, Tensor]) -> dict[str, Tensor]:
        plain: dict[str, Tensor] = {}
        for key, value in values.items():
            if isinstance(value, OptimState8bit):
                plain[key + CODES] = value.codes.cpu().to(torch.float16)
                plain[key + SCALE] = value.scale.cpu().clone()
            else:
                plain[key] = value
        return plain

    return PlainState(param_groups)
