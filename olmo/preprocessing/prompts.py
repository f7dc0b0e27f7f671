"""Styles of messages and wordings of prompts.

The wordings are lists in one YAML file, of which a user may replace some. Evaluation takes the
first wording of a list. Training draws one with the generator of the example.
"""

from __future__ import annotations

import functools
import string
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from olmo.config import ConfigError, nearest, read_settings

Rng = np.random.Generator | np.random.RandomState
Lists = Mapping[str, tuple[str, ...]]

SHIPPED = Path(__file__).parents[1] / "assets" / "prompts.yaml"


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


STYLE_RENAMES = {
    "eval_short_answer": "vqa2",
    "eval_multiple_choice": "a_okvqa_mc",
    "video_eval_short_answer": "video_short_answer",
    "video_eval_multiple_choice": "video_multiple_choice",
    "video_eval_multiple_choice_w_subtitle": "video_multiple_choice_w_subtitle",
    "video_short_answer_count_without_pointing": "video_short_answer",
    "video_multiple_choice_count_without_pointing": "video_multiple_choice",
}
"""Styles that have the tag of another one; ``eval_multi_image_X`` has that of ``multi_image_X``."""
UNTAGGED_STYLES = _words("""
    user_qa text_sft correction_qa
    long_caption short_caption video_long_caption video_short_caption video_transcript
    video_clip_caption_start_end video_clip_caption_start_end_in_seconds
    video_clip_transcript_start_end video_clip_transcript_start_end_in_seconds
    video_frame_caption_timestamp video_frame_caption_timestamp_in_seconds
    pointing point_count cosyn_point video_point video_point_count video_count video_count_point
    multi_image_pointing multi_image_counting
    multi_image_point_then_count multi_image_count_then_point
    video_point_track_per_frame video_point_track_start_end video_single_point_track_start_end
    video_multiple_choice video_multiple_choice_count_without_pointing
    video_multiple_choice_multiple_correct video_multiple_choice_w_subtitle
    a_okvqa_mc ai2_diagram ai2_diagram_no_letter science_qa eval_multiple_choice
    multi_image_mc multi_image_mc_exp mantis_instruct_mc eval_multi_image_mc
""")
"""Styles without a tag before the prompt: chat, captions, points and multiple choice. So the
published models were trained, and not every style of a kind alike."""
TAGGED_STYLES = _words("""
    demo video_short_answer vqa2 okvqa a_okvqa_da tally_qa text_vqa doc_qa info_qa st_qa chart_qa
    tabwmp_da dv_qa figure_qa plot_qa synthetic_qa point_qa transcript android_control
    molmo2_hardcodes multi_image_short_answer mantis_instruct_da
    cosyn_chart_exp cosyn_chemical_exp cosyn_diagram_exp cosyn_math_exp cosyn_music_exp
    cosyn_table_exp cosyn_multidoc_chart_exp cosyn_multidoc_chemical_exp
    cosyn_multidoc_diagram_exp cosyn_multidoc_doc_exp cosyn_multidoc_music_exp
    cosyn_multidoc_table_exp cosyn_document
    video_motion_caption video_object_caption video_merged_caption
    video_clip_short_caption_start_end activitynet_short_caption epic_kitchens_short_caption
    video_point_ground_start_end video_single_point_track_per_frame
    moments_in_time_label kinetics_label activitynet_label coin_label youcook2_label
    epic_kitchens_label charades_sta ego4d_mq_label_clip ego4d_mq_label_start_end
    ego4d_mq_temporal_grounding ego4d_nlq_temporal_grounding
""")
"""All others, whose prompts begin with ``style:``."""
_SHOWN = UNTAGGED_STYLES | TAGGED_STYLES
KNOWN_STYLES = _SHOWN.union(
    STYLE_RENAMES, (f"eval_{style}" for style in _SHOWN if style.startswith("multi_image_"))
)
"""Every style that a message may have."""


def check_style(style: str) -> None:
    """``ValueError`` for a style that no data set here has; "" is none."""
    if style and style not in KNOWN_STYLES:
        raise ValueError(f"unknown style {style!r}; {nearest(style, KNOWN_STYLES)}")


def style_prefix(style: str, system_prompt: str | None) -> str:
    """Tag before the first prompt. ``demo_or_style_v2``: ``style:`` but nothing for
    ``UNTAGGED_STYLES``; ``style``: always; ``no_style``, ``none``, None: never."""
    if not style or system_prompt in (None, "none", "no_style"):
        return ""
    if style.startswith("eval_multi_image_"):
        style = style.removeprefix("eval_")
    style = STYLE_RENAMES.get(style, style)
    untagged = system_prompt == "demo_or_style_v2" and style in UNTAGGED_STYLES
    return "" if untagged else f"{style}:"


@dataclass(frozen=True)
class Wordings:
    """``lists`` of templates by name. With ``rng`` one of a list is drawn, without the first is
    taken."""

    lists: Lists
    rng: Rng | None = None

    @classmethod
    def load(cls, path: str | Path | None = None) -> Wordings:
        """The shipped lists, those that the file ``path`` has replaced by its own. ``ConfigError``
        names the file, list and number of a wording that cannot be used."""
        if path is not None and not Path(path).is_file():
            raise ConfigError(
                f"data_formatter.prompts: no file {path}; null takes the shipped wordings"
            )
        return cls(_load(path))

    def fixed(self) -> dict[str, str]:
        """The wordings that evaluation takes."""
        return {name: templates[0] for name, templates in self.lists.items()}

    def text(self, name: str, **values: object) -> str:
        """A wording of the list ``name`` with its keywords filled in."""
        templates = self.lists[name]
        i = 0 if self.rng is None else int(self.rng.choice(len(templates)))
        return templates[i].format(**values)


def keywords(template: str) -> frozenset[str]:
    """The names in braces. ``ValueError`` for braces that hold more than a plain name."""
    found = set()
    for _, name, form, conversion in string.Formatter().parse(template):
        if name is not None:
            if form or conversion or not name.isidentifier():
                raise ValueError(f"{{{name}}} is not a plain name in braces")
            found.add(name)
    return frozenset(found)


@functools.lru_cache(maxsize=8)
def _load(path: str | Path | None) -> Lists:
    """The lists of the shipped file, or with those of ``path`` instead. The keywords of a list are
    those of its first shipped wording."""
    shipped = _load(None) if path is not None else {}
    found: dict[str, tuple[str, ...]] = {}
    for name, templates in read_settings(Path(path or SHIPPED)).items():
        if shipped and name not in shipped:
            raise ConfigError(f"{path}: unknown list {name!r}; {nearest(str(name), shipped)}")
        if not isinstance(templates, list) or not templates:
            raise ConfigError(f"{path}: {name}: expected a list of texts, got {templates!r}")
        for i, template in enumerate(templates):
            where = f"{path}: {name}[{i}]"
            if not isinstance(template, str) or not template.strip():
                raise ConfigError(f"{where}: expected text, got {template!r}")
            try:
                mine, expected = keywords(template), keywords(shipped.get(name, templates)[0])
            except ValueError as e:
                raise ConfigError(f"{where}: {template!r}: {e}") from e
            if mine != expected:
                raise ConfigError(
                    f"{where}: expected the keywords {_named(expected)}, got {_named(mine)} in "
                    f"{template!r}"
                )
        found[str(name)] = tuple(templates)
    return {**shipped, **found}


def _named(names: frozenset[str]) -> str:
    return ", ".join(f"{{{n}}}" for n in sorted(names)) or "none"
