"""Train the tokenizer that ships with the package (``olmo/tiny``) and write its file.

Byte-level BPE of at most 512 entries, trained on the questions and answers of the synthetic video
set, the chat markup around them and a little plain English. Digits stand alone, as in Qwen: a
space before a digit is a token of its own. The outcome is the same on every run.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator

import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from olmo.command_line import Parser, exit_code, path
from olmo.data.datasets.synthetic.questions import (
    STYLE_CAPTION,
    STYLE_SHORT,
    describe,
    scene_questions,
)
from olmo.data.datasets.synthetic.scene import COLOURS, GLYPHS, LEVELS, sample_scene
from olmo.tokenizer import ASSETS

VOCAB_SIZE = 512
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
OTHER = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
N_SCENES = 200
STYLE_MC, CHOICE = "video_multiple_choice", "Only return the correct answer option.\nA. B. C. D."
ENGLISH = """
The video shows what happens. It is a short clip of a few seconds. There is one person in the
image and there are two in the other. Watch the frames and answer the question. The answer is not
in the first frame, but it can be seen at the end of the clip. What is in the picture? Where is it?
Who was there, and when did they come? Please answer with the letter of the option. This is the
same as that. You can see the time at which each frame was taken. yes no true false
""".strip()


def corpus() -> Iterator[str]:
    """Texts to train on, in a fixed order."""
    for level, seed in itertools.product(LEVELS, range(N_SCENES)):
        scene = sample_scene(level, np.random.default_rng(seed))
        caption = describe(scene)
        yield chat(f"{STYLE_CAPTION}: {caption['question']}", caption["answer"])
        for question in scene_questions(scene):
            asked = f"{STYLE_SHORT}: Question: {question.text} Short Answer:"
            yield chat(asked, question.answer)
            yield chat(f"{question.text}\n{CHOICE}", f"A. {question.answer}")
    for colour, glyph in itertools.product(COLOURS, GLYPHS):
        yield from [f"{colour} {glyph} the {colour} {glyph}"] * 2
    yield from (f"{STYLE_MC}: {t / 2:.1f} " for t in range(40))
    yield from ENGLISH.splitlines()


def chat(question: str, answer: str) -> str:
    """A chat turn, with its special tokens left out."""
    return f"user\n{question}\nassistant\n{answer}"


def train() -> Tokenizer:
    """The tokenizer, special tokens last."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS + OTHER), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE - len(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL])
    return tokenizer


@exit_code()
def main() -> int:
    parser = Parser(__doc__)
    default = ASSETS / "tiny_tokenizer" / "tokenizer.json"
    parser.add_argument("--output", type=path, default=default)
    file = parser.parse_args().output
    if file.is_dir():
        parser.error(f"--output {file} is a folder")
    file.parent.mkdir(parents=True, exist_ok=True)
    train().save(str(file))
    return 0


if __name__ == "__main__":
    sys.exit(main())
