"""Turns of a conversation: ordinary text, and the marks that only a template writes.

What a field says (question, option, answer, label, subtitle, chat message) is ordinary text,
whatever characters it has: nothing is looked for in it, here or later. A mark gets into a turn as
an object of its own.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from olmo.tokenizer import CONTROL_TOKENS, MolmoTokenizer


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
