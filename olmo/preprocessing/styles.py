"""Styles of messages: what they are called, which have a tag, which have wordings of their own."""

from __future__ import annotations

from olmo.config import nearest

STYLE_RENAMES = {
    "eval_short_answer": "vqa2",
    "eval_multiple_choice": "a_okvqa_mc",
    "video_eval_short_answer": "video_short_answer",
    "video_eval_multiple_choice": "video_multiple_choice",
    "video_eval_multiple_choice_w_subtitle": "video_multiple_choice_w_subtitle",
    "video_short_answer_count_without_pointing": "video_short_answer",
    "video_multiple_choice_count_without_pointing": "video_multiple_choice",
}
POINT_STYLES = frozenset(
    {
        *("pointing", "point_count", "cosyn_point"),
        *("video_point", "video_point_count", "video_count", "video_count_point"),
        "video_point_track_per_frame",
        "video_point_ground_start_end",
        "video_single_point_track_per_frame",
    }
)
CHOICE_STYLES = frozenset(
    {
        "a_okvqa_mc",
        "multi_image_mc",
        "video_multiple_choice",
        "video_multiple_choice_count_without_pointing",
        "video_multiple_choice_multiple_correct",
        "video_multiple_choice_w_subtitle",
    }
)
CAPTION_STYLES = frozenset(
    {
        *("long_caption", "short_caption", "video_long_caption", "video_short_caption"),
        *("video_transcript", "video_motion_caption", "video_object_caption"),
        "video_frame_caption_timestamp",
        "video_clip_caption_start_end",
        "video_clip_short_caption_start_end",
        "video_clip_transcript_start_end",
    }
)
"""Styles whose prompt, where the example brings no question, is a wording of that name."""
UNTAGGED_STYLES = (
    POINT_STYLES
    | CHOICE_STYLES
    | {"user_qa", "long_caption", "short_caption", "video_long_caption", "video_short_caption"}
)
"""Styles without a tag in front of the prompt (``demo_or_style_v2``): chat, points and multiple
choice."""
TAGGED_STYLES = frozenset(
    {
        "demo",
        *("video_short_answer", "vqa2", "okvqa", "a_okvqa_da", "tally_qa"),
        *("text_vqa", "doc_qa", "info_qa", "st_qa", "chart_qa", "tabwmp_da", "science_qa"),
        *("dv_qa", "figure_qa", "plot_qa", "ai2_diagram", "ai2_diagram_no_letter"),
        *(f"cosyn_{k}_exp" for k in ("chart", "chemical", "diagram", "math", "music", "table")),
        *(
            f"cosyn_multidoc_{k}_exp"
            for k in ("chart", "chemical", "diagram", "doc", "music", "table")
        ),
        "cosyn_document",
        *(f"mantis_instruct_{s}" for s in ("nlvr2", "spot_the_diff", "birds_to_words")),
        *("multi_image_point", "multi_image_point_count", "multi_image_count"),
        *("moments_in_time_label", "kinetics_label", "activitynet_label", "coin_label"),
        *("youcook2_label", "epic_kitchens_label", "charades_sta"),
        *("ego4d_mq_label_clip", "ego4d_mq_label_start_end", "ego4d_mq_temporal_grounding"),
        "ego4d_nlq_temporal_grounding",
    }
)
"""Styles of the data sets here whose prompts begin with ``style:``."""
KNOWN_STYLES = (
    UNTAGGED_STYLES
    | CAPTION_STYLES
    | TAGGED_STYLES
    | frozenset([*STYLE_RENAMES, "eval_multi_image_mc"])
)


def check_style(style: str) -> None:
    """``ValueError`` for a style that no data set here has; "" is none."""
    if style and style not in KNOWN_STYLES:
        raise ValueError(f"unknown style {style!r}; {nearest(style, KNOWN_STYLES)}")


def canonical_style(style: str) -> str:
    """The style that an evaluation style stands for."""
    if style.startswith("eval_multi_image_"):
        return style.removeprefix("eval_")
    return STYLE_RENAMES.get(style, style)
