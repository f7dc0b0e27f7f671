"""Turns of a conversation, and the token row that conversations and visual blocks become.

What a field says (question, option, answer, label, subtitle, chat message) is ordinary text,
whatever characters it has: nothing is looked for in it, here or later. A mark gets into a turn as
an object of its own.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from olmo.config import Config
from olmo.tokenizer import CONTROL_TOKENS, MolmoTokenizer
from olmo.types import SHARED_SUBSEGMENT


@dataclass(frozen=True)
class Mark:
    """A control token, or the place of a visual input."""

    token: str


IMAGE = Mark("<|image|>")
"""Where an image or a video is shown."""
START, END = Mark("<|im_start|>"), Mark("<|im_end|>")
CONTROL = tuple(map(Mark, CONTROL_TOKENS))

Piece = str | Mark


@dataclass(frozen=True)
class Turn:
    """``pieces`` in their order; no two texts beside each other, no empty text."""

    pieces: tuple[Piece, ...]

    @classmethod
    def of(cls, *parts: Piece | Turn) -> Turn:
        """The parts joined; a string is ordinary text. ``ValueError`` for anything else."""
        pieces: list[Piece] = []
        for part in parts:
            for piece in part.pieces if isinstance(part, Turn) else [part]:
                if not isinstance(piece, (str, Mark)):
                    raise ValueError(f"expected text, got {piece!r:.80}")
                if pieces and isinstance(piece, str) and isinstance(pieces[-1], str):
                    pieces[-1] += piece
                elif piece != "":
                    pieces.append(piece)
        return cls(tuple(pieces))

    @classmethod
    def read(cls, text: str, marks: Sequence[Mark] = (IMAGE,)) -> Turn:
        """A text that was written as a template: the ``marks`` in it are meant."""
        if not isinstance(text, str) or not marks:
            return cls.of(text)
        found = re.split(f"({'|'.join(re.escape(m.token) for m in marks)})", text)
        return cls.of(*(Mark(part) if i % 2 else part for i, part in enumerate(found)))

    def __str__(self) -> str:
        return "".join(p if isinstance(p, str) else p.token for p in self.pieces)

    def n_places(self) -> int:
        """How often ``IMAGE`` stands in the turn."""
        return self.pieces.count(IMAGE)

    def around_places(self) -> list[Turn]:
        """What stands before, between and after the places."""
        cuts = [i for i, piece in enumerate(self.pieces) if piece == IMAGE]
        starts, ends = [0, *(i + 1 for i in cuts)], [*cuts, len(self.pieces)]
        return [Turn(self.pieces[s:e]) for s, e in zip(starts, ends, strict=True)]

    def with_places(self, *pieces: Piece) -> Turn:
        """The turn with ``pieces`` in every place."""
        parts = (pieces if piece == IMAGE else [piece] for piece in self.pieces)
        return Turn.of(*(p for part in parts for p in part))

    def without_places(self, keep: int) -> Turn:
        """The turn with its first ``keep`` places."""
        before, after = self.around_places()[: keep + 1], self.around_places()[keep + 1 :]
        shown = [part for turn in before for part in (turn, IMAGE)][:-1]
        return Turn.of(*shown, *after)

    def encode(self, tokenizer: MolmoTokenizer) -> list[int]:
        """Token ids. A mark that the tokenizer has no token for is its characters, and so is a
        place that nothing was put in."""
        ids: list[int] = []
        text = ""
        for piece in self.pieces:
            token = None if isinstance(piece, str) else tokenizer.control_id(piece.token)
            if token is None:
                text += piece if isinstance(piece, str) else piece.token
                continue
            ids += [*tokenizer.encode(text), token]
            text = ""
        return ids + tokenizer.encode(text)


@dataclass(frozen=True)
class MessageWeight:
    """Loss weight of a conversation. None leaves the run's setting (``weight``: 1)."""

    weight: float | None = None
    root_subsegments: bool | None = None
    root_length: bool | None = None

    @classmethod
    def of(cls, value: float | dict[str, Any] | None) -> MessageWeight:
        """From what an example's ``weight`` holds: a factor, fields by name, or nothing."""
        return cls(**value) if isinstance(value, dict) else cls(weight=value)


@dataclass
class RowConfig(Config):
    """What of a conversation is trained on, and with what weight."""

    max_answer_len: int | None = None
    last_message_loss_only: bool = False
    max_text_tokens: int | None = None
    """A tree with so many tokens of text gets no further conversations."""
    loss_token_weighting: Literal["root_subsegments", "root_subsegments_root_tokens"] | None = (
        "root_subsegments_root_tokens"
    )

    def __post_init__(self) -> None:
        self.at_least(1, "max_answer_len", "max_text_tokens")


Branch = tuple[list[int], list[bool]]
"""Token ids of a conversation, and which of them are trained on."""


@dataclass
class ChatTokenizer:
    """Token ids, targets, loss weights and positions of one or several conversations."""

    tokenizer: MolmoTokenizer
    config: RowConfig = dataclasses.field(default_factory=RowConfig)

    def __call__(
        self,
        conversations: Sequence[list[Turn]],
        visual: list[list[int]],
        weight: MessageWeight | None = None,
        max_length: int | None = None,
    ) -> dict[str, np.ndarray]:
        """Token row of the ``conversations`` about the same ``visual`` token blocks.

        Visual blocks take the places (``IMAGE``) of the user's turns in order; a single place
        takes all blocks. Any other number of places is ordinary text, and the blocks follow BOS,
        as they do where there are none. Several conversations share BOS and the visual tokens;
        those that would lie wholly beyond ``max_length`` are left out.

        Returns ``input_tokens``, ``target_tokens``, ``position_ids`` int64 ``[L]``,
        ``loss_masks`` float32 ``[L]`` and, for two or more conversations, ``subsegment_ids``
        int64 ``[L]``.
        """
        if not conversations:
            raise ValueError("an example needs at least one conversation")
        leads, found = _split_off_leads(_placed(conversations, len(visual)), len(visual))
        prefix, n_visual = [self.tokenizer.bos_id], sum(map(len, visual))
        for lead, block in zip(leads, visual, strict=False):
            prefix += [*lead.encode(self.tokenizer), *block]
        limit = math.inf if max_length is None else max_length
        text_limit = self.config.max_text_tokens or math.inf
        branches: list[Branch] = []
        n_tokens = len(prefix)
        for turns in found:
            if branches and n_tokens - n_visual >= text_limit:
                break
            if len(found) > 1 and len(turns) % 2:
                raise ValueError(f"a tree of {len(found)} conversations needs all their answers")
            ids, loss = self._encode(turns, visual[len(leads) :])
            if branches and n_tokens + loss.index(True) >= limit:
                break
            branches.append((ids, loss))
            n_tokens += len(ids) - 1
        return self._row(prefix, branches, len(found) > 1, weight or MessageWeight())

    def _row(
        self, prefix: list[int], branches: list[Branch], is_tree: bool, weight: MessageWeight
    ) -> dict[str, np.ndarray]:
        # Every branch continues the prefix as if it stood alone, so all begin at one position; a
        # tree that shares nothing begins at 0, as published checkpoints were trained. The last
        # token of a branch is only a target, and the prefix predicts the first branch alone.
        start = 0 if is_tree and len(prefix) == 1 else len(prefix)
        inputs, targets = list(prefix), prefix[1:]
        masks, positions = [np.zeros(len(prefix) - 1)], [np.arange(len(prefix))]
        segments = [np.full(len(prefix), SHARED_SUBSEGMENT)]
        for b, (ids, loss) in enumerate(branches):
            predicted = slice(1 if b else 0, None)
            inputs += ids[:-1]
            targets += ids[predicted]
            n_loss = sum(loss) - (is_tree and ids[-1] == self.tokenizer.eos_id)
            scale = self._scale(n_loss, len(branches), weight)
            masks.append(np.asarray(loss[predicted], dtype=np.float64) * scale)
            positions.append(start + np.arange(len(ids) - 1))
            segments.append(np.full(len(ids) - 1, b))
        row: dict[str, np.ndarray] = {
            "input_tokens": np.asarray(inputs, dtype=np.int64),
            "target_tokens": np.asarray(targets, dtype=np.int64),
            "loss_masks": np.concatenate(masks).astype(np.float32),
            "position_ids": np.concatenate(positions),
        }
        if is_tree:
            row["subsegment_ids"] = np.concatenate(segments)
        return row

    def _encode(self, turns: list[Turn], visual: list[list[int]]) -> Branch:
        """One conversation with the blocks of ``visual`` in its places."""
        ids: list[int] = []
        loss: list[bool] = []
        blocks = iter(visual)
        for i, turn in enumerate(turns):
            if i % 2:
                new = [*turn.encode(self.tokenizer), self.tokenizer.eos_id]
                new = new[: self.config.max_answer_len]
                trained = not self.config.last_message_loss_only or i >= len(turns) - 2
            else:
                first, *others = turn.around_places()
                new, trained = first.encode(self.tokenizer), False
                for part in others:
                    new += [*next(blocks), *part.encode(self.tokenizer)]
            ids += new
            loss += [trained] * len(new)
        if len(turns) % 2:  # it asks for an answer: nothing to train on, and no last target
            return [*ids, 0], [False] * (len(ids) + 1)
        return ids, loss

    def _scale(self, n_loss: int, n_conversations: int, weight: MessageWeight) -> float:
        mode = self.config.loss_token_weighting
        by_length, by_number = weight.root_length, weight.root_subsegments
        if by_length is None:
            by_length = mode == "root_subsegments_root_tokens"
        if by_number is None:
            by_number = mode is not None
        scale = 1.0 if weight.weight is None else float(weight.weight)
        if by_length:
            scale *= 2 / np.sqrt(max(n_loss, 1))
        return scale / np.sqrt(n_conversations) if by_number else scale


def leave_out(turns: list[Turn], n_shown: int, n_given: int) -> list[Turn]:
    """The turns without the places of what is not shown: all but the first ``n_shown`` of
    ``n_given``. Other numbers of places are left as they are."""
    if sum(turn.n_places() for turn in turns[::2]) != n_given:
        return turns
    out = []
    for i, turn in enumerate(turns):
        if i % 2 == 0:
            n_places, turn = turn.n_places(), turn.without_places(max(n_shown, 0))
            n_shown -= n_places
        out.append(turn)
    return out


def _placed(conversations: Sequence[list[Turn]], n_visual: int) -> list[list[Turn]]:
    """The conversations with a place for each visual block. A single place is for all blocks; if
    the number of places fits in neither way, they are text, and the blocks come first."""
    counts = [sum(turn.n_places() for turn in turns[::2]) for turns in conversations]
    if not n_visual or any(n not in (1, n_visual) for n in counts):
        plain = [[turn.with_places(IMAGE.token) for turn in turns] for turns in conversations]
        return [[Turn.of(*[IMAGE] * n_visual, turns[0]), *turns[1:]] for turns in plain]
    return [
        [t if i % 2 else t.with_places(*[IMAGE] * (n_visual // n)) for i, t in enumerate(turns)]
        for turns, n in zip(conversations, counts, strict=True)
    ]


def _split_off_leads(
    conversations: list[list[Turn]], n_visual: int
) -> tuple[list[Turn], list[list[Turn]]]:
    """Text before each place of the first turns, and the rest. The branches of a tree must share
    the former: they all see the prefix, but not each other."""
    parts = [turns[0].around_places() for turns in conversations]
    leads = {tuple(p[:-1]) for p in parts}
    (lead, *others) = leads
    if others or (len(conversations) > 1 and len(lead) != n_visual):
        raise ValueError(
            f"conversations about the same input must have their {IMAGE.token} in the first turn "
            f"and after the same text; found {sorted(''.join(map(str, p)) for p in leads)}"
        )
    return list(lead), [[p[-1], *c[1:]] for p, c in zip(parts, conversations, strict=True)]
