"""From text turns and visual tokens to one token row with targets and loss weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from olmo.preprocessing.turns import IMAGE, Turn
from olmo.tokenizer import MolmoTokenizer
from olmo.types import SHARED_SUBSEGMENT


@dataclass(frozen=True)
class MessageWeight:
    """Loss weight of a conversation. None leaves the run's setting (``weight``: 1)."""

    weight: float | None = None
    root_subsegments: bool | None = None
    root_length: bool | None = None

    @classmethod
    def of(cls, value: float | dict[str, Any] | MessageWeight | None) -> MessageWeight:
        """From what an example's ``weight`` holds: a factor, fields by name, or nothing."""
        if isinstance(value, MessageWeight):
            return value
        return cls(**value) if isinstance(value, dict) else cls(weight=value)


@dataclass
class ChatTokenizer:
    """Token ids, targets, loss weights and positions of one or several conversations."""

    tokenizer: MolmoTokenizer
    max_answer_len: int | None = None
    last_message_loss_only: bool = False
    max_text_tokens: int | None = None
    loss_token_weighting: str | None = None

    def __call__(
        self,
        conversations: Sequence[Sequence[Turn | str]],
        visual: list[list[int]],
        weight: MessageWeight | None = None,
        max_length: int | None = None,
    ) -> dict[str, np.ndarray]:
        """Token row of the ``conversations`` about the same ``visual`` token blocks.

        Visual blocks take the places (``IMAGE``) of the user's turns in order; a single place
        takes all blocks. Any other number of places is ordinary text, and the blocks follow BOS,
        as they do where there are none. A string is a raw turn: ``<|image|>`` in it is a place.
        Returns ``input_tokens``, ``target_tokens``, ``position_ids`` int64 ``[L]``,
        ``loss_masks`` float32 ``[L]`` and, for two or more conversations, ``subsegment_ids``
        int64 ``[L]``. Those share BOS and the visual tokens; conversations that would lie wholly
        beyond ``max_length`` are left out.
        """
        found = [[t if isinstance(t, Turn) else Turn.read(t) for t in c] for c in conversations]
        if len(found) == 1:
            return self._single(found[0], visual, weight or MessageWeight())
        if not found:
            raise ValueError("an example needs at least one conversation")
        return self._tree(found, visual, weight or MessageWeight(), max_length)

    def _single(
        self, turns: list[Turn], visual: list[list[int]], weight: MessageWeight
    ) -> dict[str, np.ndarray]:
        ids, loss = self._encode(turns, visual)
        ids, loss = [self.tokenizer.bos_id, *ids], [False, *loss]
        if len(turns) % 2:
            inputs, targets, masks = ids, [*ids[1:], 0], np.zeros(len(ids))
        else:
            inputs, targets = ids[:-1], ids[1:]
            masks = self._weigh(loss[1:], sum(loss), 1, weight)
        return _row(inputs, targets, masks, np.arange(len(inputs)))

    def _tree(
        self,
        conversations: list[list[Turn]],
        visual: list[list[int]],
        weight: MessageWeight,
        max_length: int | None,
    ) -> dict[str, np.ndarray]:
        leads, branches = _split_off_leads(conversations, len(visual))
        prefix = [self.tokenizer.bos_id]
        for lead, block in zip(leads, _dealt(visual, len(leads)), strict=True):
            prefix += [*lead.encode(self.tokenizer), *block]
        rows: list[tuple[list[int], list[bool]]] = []
        total = len(prefix)
        for turns in branches:
            if len(turns) % 2:
                raise ValueError(f"a tree of {len(branches)} conversations needs all their answers")
            ids, loss = self._encode(turns, [])
            if rows and max_length is not None and total + loss.index(True) >= max_length:
                break
            rows.append((ids, loss))
            total += len(ids) - 1
            n_text = total - sum(map(len, visual))
            if self.max_text_tokens is not None and n_text >= self.max_text_tokens:
                break
        # The last token of a branch is only a target; the prefix predicts the first branch.
        inputs, targets = list(prefix), [*prefix[1:], rows[0][0][0]]
        masks, positions = [np.zeros(len(prefix))], [np.arange(len(prefix))]
        segments = [np.full(len(prefix), SHARED_SUBSEGMENT)]
        start = len(prefix) if len(prefix) > 1 else 0  # text-only trees restart at 0
        for b, (ids, loss) in enumerate(rows):
            inputs += ids[:-1]
            targets += ids[1:]
            n_loss = sum(loss) - (ids[-1] == self.tokenizer.eos_id)
            masks.append(self._weigh(loss[1:], n_loss, len(rows), weight))
            positions.append(start + np.arange(len(ids) - 1))
            segments.append(np.full(len(ids) - 1, b))
        row = _row(inputs, targets, np.concatenate(masks), np.concatenate(positions))
        return row | {"subsegment_ids": np.concatenate(segments).astype(np.int64)}

    def _encode(self, turns: list[Turn], visual: list[list[int]]) -> tuple[list[int], list[bool]]:
        """Ids and loss flags without BOS."""
        n_places = _n_places(turns, len(visual))
        ids: list[int] = [] if n_places else [i for block in visual for i in block]
        loss = [False] * len(ids)
        blocks = iter(_dealt(visual, n_places))
        for i, turn in enumerate(turns):
            if i % 2:
                answer = [*turn.encode(self.tokenizer), self.tokenizer.eos_id]
                answer = answer[: self.max_answer_len]
                last = i >= len(turns) - 2
                ids += answer
                loss += [last or not self.last_message_loss_only] * len(answer)
                continue
            for k, part in enumerate(turn.around_places() if n_places else [turn]):
                new = [*(next(blocks) if k else []), *part.encode(self.tokenizer)]
                ids += new
                loss += [False] * len(new)
        if len(turns) % 2 == 0 and not (loss and loss[-1]):
            raise ValueError("the last turn of a conversation leaves no token to train on")
        return ids, loss

    def _weigh(
        self, loss: list[bool], n_loss: int, n_conversations: int, weight: MessageWeight
    ) -> np.ndarray:
        mode = self.loss_token_weighting or ""
        root_length, root_subsegments = weight.root_length, weight.root_subsegments
        scale = 1.0 if weight.weight is None else float(weight.weight)
        if root_length if root_length is not None else mode == "root_subsegments_root_tokens":
            scale *= 2 / np.sqrt(max(n_loss, 1))
        if root_subsegments if root_subsegments is not None else bool(mode):
            scale /= np.sqrt(n_conversations)
        return np.asarray(loss, dtype=np.float64) * scale


def _n_places(turns: Sequence[Turn], n_visual: int) -> int:
    """Places in the user's turns; 0 where their number does not fit the visual blocks."""
    n = sum(turn.n_places() for turn in turns[::2])
    return n if n_visual and n in (1, n_visual) else 0


def _dealt(visual: list[list[int]], n_places: int) -> list[list[int]]:
    """Blocks for each place: one has room for all of them."""
    return [[i for block in visual for i in block]] if n_places == 1 else visual


def _split_off_leads(
    conversations: list[list[Turn]], n_visual: int
) -> tuple[list[Turn], list[list[Turn]]]:
    """Text before each place, which all branches of a tree must share, and the rest. The blocks
    of a tree without places follow BOS."""
    if not all(_n_places(turns, n_visual) for turns in conversations):
        return [Turn.of()], conversations
    parts = [turns[0].around_places() for turns in conversations]
    leads = {tuple(p[:-1]) for p in parts}
    (lead, *others) = leads
    if others or len(lead) != _n_places(conversations[0], n_visual):
        raise ValueError(
            f"conversations about the same input must have their {IMAGE.token} in the first turn "
            f"and after the same text; found {sorted(''.join(map(str, p)) for p in leads)}"
        )
    return list(lead), [[p[-1], *c[1:]] for p, c in zip(parts, conversations, strict=True)]


def _row(
    inputs: list[int], targets: list[int], masks: np.ndarray, positions: np.ndarray
) -> dict[str, np.ndarray]:
    return {
        "input_tokens": np.asarray(inputs, dtype=np.int64),
        "target_tokens": np.asarray(targets, dtype=np.int64),
        "loss_masks": masks.astype(np.float32),
        "position_ids": positions.astype(np.int64),
    }
