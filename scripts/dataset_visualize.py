"""Look at examples as the model sees them: one HTML page with everything in it.

    python scripts/dataset_visualize.py synthetic_video_qa out.html
    python scripts/dataset_visualize.py molmo2 out.html --skip_missing --n 20
    python scripts/dataset_visualize.py my.jsonl out.html --topk 0.5
    python scripts/dataset_visualize.py mvbench out.html --split val --evaluation

NAME is a data set, a mixture (name or YAML file), or a file or folder of own data. Per example:
frames or crops, the row of tokens with its loss weights in colour, the targets, and the number of
tokens before and after pruning (--topk). Examples that cannot be used are shown with the reason.
Any key of the model can be set as --model.a.b=value.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm

from olmo.command_line import Parser, exit_code, natural, path, positive, seed
from olmo.config import merge
from olmo.data.custom_files import chosen_split
from olmo.data.mixture import CUSTOM, MIXTURES, open_named
from olmo.templates import render
from olmo.viewer.example_page import example_card


def parser() -> Parser:
    out = Parser(__doc__, plugins=True)
    add = out.add_argument
    add("name", help="data set, mixture or own data")
    add("out", type=path, help="HTML file to write")
    add("--n", type=positive, default=8, help="examples (8)")
    add("--first", type=natural, default=0, help="examples of the stream to pass over (0)")
    add("--split", help="(train; a file of own data has none)")
    add("--evaluation", action="store_true", help="prompts as in an evaluation, no answers")
    add("--no_shuffle", action="store_true", help="examples in the order of the files")
    add("--skip_missing", action="store_true", help="leave absent data sets out")
    model = "config with the model, or a checkpoint folder (configs/tiny.yaml)"
    add("--config", type=path, default=MIXTURES.parent / "tiny.yaml", help=model)
    add("--topk", type=float, help="share of a video's tokens that the model removes")
    add("--seq_len", type=positive, help="tokens of a row after pruning")
    add("--width", type=positive, default=120, help="pixels of a picture (120)")
    add("--seed", type=seed, default=50189)
    return out


def pruned(topk: float | None) -> dict[str, Any]:
    """Keys of a model that removes the share ``topk`` of a video's tokens."""
    if topk is None:
        return {}
    return {"model_name": "temporal_video_olmo", "vision_backbone": {"vit": {"topk": topk}}}


@exit_code()
def main(argv: list[str] | None = None) -> int:
    args, overrides = parser().parse_with_model(argv)
    from olmo.data.examples import BAD_EXAMPLE, ExampleSource, describe_error, prepare
    from olmo.models.loading import model_section
    from olmo.models.registry import model_config_from_dict
    from olmo.models.run_folder import select_checkpoint, whole_model_of_file

    file = args.config
    stored = model_section(select_checkpoint(file)) if file.is_dir() else whole_model_of_file(file)
    model = model_config_from_dict(merge(merge(stored, pruned(args.topk)), overrides))
    split = args.split or "train"
    # may render or read for long
    mixture = open_named(args.name, split, args.skip_missing, args.evaluation)
    if is_own := mixture.names == [CUSTOM]:
        chosen_split(Path(args.name), args.split or "", split)
    tokenizer = model.build_tokenizer()
    preprocessor = model.build_preprocessor(tokenizer, args.seq_len)
    source = ExampleSource(mixture, preprocessor, args.seed, not args.no_shuffle)
    cards = []
    for i in tqdm(range(args.first, args.first + args.n), desc=args.name):
        ref = source.stream[i]
        name = f"{ref.dataset} {ref.index}"
        try:
            example, rng = source.raw(i)
            arrays = prepare(example, preprocessor, None if args.evaluation else rng)
        except BAD_EXAMPLE as e:
            cards.append({"name": name, "error": describe_error(e)})
            continue
        grid, patch = preprocessor.visual.grid, preprocessor.patch_size
        cards.append(example_card(name, arrays, tokenizer, grid, patch, args.width))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    about = [args.name, *[split] * bool(args.split or not is_own)]
    about.append("in an evaluation" if args.evaluation else "in training")
    title = f"{', '.join(about)}, as {args.config} sees it"
    html = render("examples", title=title, cards=cards)
    args.out.write_text(html, encoding="utf-8", errors="backslashreplace")  # half a surrogate pair
    print(f"wrote {args.out} ({args.out.stat().st_size / 1e6:.1f} MB, {len(cards)} examples)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
