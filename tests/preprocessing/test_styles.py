"""Tags before prompts: every published style, by hand and as the reference writes them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from olmo.preprocessing.chat import DataFormatterConfig
from olmo.preprocessing.points import POINT_MODES
from olmo.preprocessing.prompts import (
    KNOWN_STYLES,
    TAGGED_STYLES,
    UNTAGGED_STYLES,
    check_style,
    style_prefix,
)

FIXTURES = Path(__file__).parents[1] / "fixtures" / "data"
REFERENCE = json.loads((FIXTURES / "styles.json").read_text())


def _words(text: str) -> list[str]:
    return text.split()


UNTAGGED = _words("""
    point_count pointing cosyn_point user_qa long_caption short_caption video_long_caption
    video_short_caption video_point_track_per_frame video_point_track_start_end
    video_single_point_track_start_end video_transcript video_clip_caption_start_end
    video_clip_caption_start_end_in_seconds video_clip_transcript_start_end
    video_clip_transcript_start_end_in_seconds video_frame_caption_timestamp
    video_frame_caption_timestamp_in_seconds correction_qa text_sft video_point video_point_count
    video_count video_count_point multi_image_pointing multi_image_counting
    multi_image_point_then_count multi_image_count_then_point
    video_multiple_choice video_multiple_choice_count_without_pointing
    video_multiple_choice_multiple_correct video_multiple_choice_w_subtitle
    a_okvqa_mc ai2_diagram_no_letter ai2_diagram science_qa eval_multiple_choice multi_image_mc
    multi_image_mc_exp mantis_instruct_mc eval_multi_image_mc
""")
OWN_NAME = _words("""
    video_short_answer vqa2 text_vqa okvqa a_okvqa_da chart_qa doc_qa info_qa tabwmp_da st_qa
    tally_qa dv_qa figure_qa plot_qa cosyn_document mantis_instruct_da multi_image_short_answer
    synthetic_qa point_qa transcript demo android_control molmo2_hardcodes
    moments_in_time_label kinetics_label activitynet_label coin_label youcook2_label
    epic_kitchens_label charades_sta ego4d_mq_label_clip ego4d_mq_label_start_end
    ego4d_mq_temporal_grounding ego4d_nlq_temporal_grounding
    video_motion_caption video_object_caption video_merged_caption
    video_clip_short_caption_start_end activitynet_short_caption epic_kitchens_short_caption
    video_point_ground_start_end video_single_point_track_per_frame
""")
OWN_NAME += [f"cosyn_{k}_exp" for k in _words("chart chemical diagram math music table")]
OWN_NAME += [f"cosyn_multidoc_{k}_exp" for k in _words("chart chemical diagram doc music table")]
RENAMED = {
    "eval_short_answer": "vqa2:",
    "video_eval_short_answer": "video_short_answer:",
    "video_short_answer_count_without_pointing": "video_short_answer:",
    "eval_multi_image_short_answer": "multi_image_short_answer:",
    "video_eval_multiple_choice": "",
    "video_eval_multiple_choice_w_subtitle": "",
    "eval_multi_image_mc_exp": "",
    **{f"eval_{s}": "" for s in UNTAGGED if s.startswith("multi_image_") and "mc" not in s},
}


def test_the_whole_table() -> None:
    assert len(UNTAGGED) == 41 and set(UNTAGGED) == UNTAGGED_STYLES
    assert set(OWN_NAME) == TAGGED_STYLES and not UNTAGGED_STYLES & TAGGED_STYLES
    tags = {**dict.fromkeys(UNTAGGED, ""), **{s: f"{s}:" for s in OWN_NAME}, **RENAMED}
    assert set(tags) == KNOWN_STYLES
    assert {s: style_prefix(s, "demo_or_style_v2") for s in KNOWN_STYLES} == tags
    assert set(POINT_MODES) <= KNOWN_STYLES


def test_reference_tags() -> None:
    found = {s: style_prefix(s, REFERENCE["system_prompt"]) for s in REFERENCE["tag"]}
    assert found == REFERENCE["tag"] and set(found) <= KNOWN_STYLES


@pytest.mark.parametrize("style", ["multi_image_point", "mantis_instruct_nlvr2", "userqa"])
def test_unknown_styles_are_refused(style: str) -> None:
    with pytest.raises(ValueError, match=f"unknown style '{style}'"):
        check_style(style)


def test_a_caption_without_wording_is_asked_for_by_its_tag() -> None:
    formatter = DataFormatterConfig(message_format="none").build()
    for style in ("video_merged_caption", "activitynet_short_caption", "transcript"):
        assert formatter({"text": "T", "style": style}).turns == [f"{style}:", " T"]


def test_the_tag_of_every_kind_of_message() -> None:
    """The same in training and evaluation; before the first turn alone, and a style that is not
    known has its own name."""
    formatter = DataFormatterConfig(message_format="none").build()
    for style in [*UNTAGGED, *OWN_NAME, *RENAMED, "ssv2_label", "eval_foo"]:
        tag = RENAMED.get(style, "" if style in UNTAGGED else f"{style}:")
        first = f"{tag} Q".strip()
        message = {"prompt": "Q", "answer": "A", "style": style}
        other = {"prompt": "R", "answer": "B", "style": "chart_qa"}
        for rng in (None, np.random.RandomState(0)):
            assert formatter(message, rng).turns == [first, " A"]
            assert formatter(message, rng, for_inference=True).turns == [first]
            assert formatter({"messages": ["Q", "A"], "style": style}, rng).turns == [first, " A"]
            turns = formatter({"multi_turn_messages": [message, other]}, rng).turns
            assert turns == [first, " A", " R", " B"]
        assert formatter(message | {"prompt": ""}).turns == [tag, " A"]
