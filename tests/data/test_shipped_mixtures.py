"""The mixtures of configs/mixtures: their members, rates and weights."""

from __future__ import annotations

import pytest

from olmo.data.datasets.catalogue import dataset_rows
from olmo.data.mixture import MIXTURES, MixtureConfig


def test_shipped_mixtures_load(monkeypatch, tmp_path) -> None:
    files = sorted(f.stem for f in MIXTURES.glob("*.yaml"))
    shipped = {name: MixtureConfig.load(name) for name in files}
    assert set(shipped) > {"all-v5-video-academic-only", "molmo2", "debug", "synthetic_video_qa"}
    academic = shipped["all-v5-video-academic-only"].groups[0]
    assert {d.name for d in academic.datasets} <= set(dataset_rows())
    factors = {d.name for d in academic.datasets if d.root_size_factor == 60000}
    assert factors == {"tgif", "tvqa_with_sub", "paxion", "moments_in_time_qa", "kinetics_qa"}
    assert shipped["molmo2"].groups[1].datasets == academic.datasets
    for config in (shipped["molmo2"], shipped["all-v5-video-academic-only"]):
        listed = {d.name for g in config.groups for d in g.datasets}
        assert listed <= set(dataset_rows()), "every data set has a reader"
        assert all("train" in dataset_rows()[name].splits for name in listed)


def test_the_molmo2_mixture() -> None:
    """Rates, factors and weights of the recipe, written out."""
    groups = {g.name: g for g in MixtureConfig.load("molmo2").groups}
    assert {name: g.rate for name, g in groups.items()} == {
        "demo": 0.15,
        "video_academic": 0.2,
        "image_academic": 0.25,
        "tracking": 0.15,
        "video_pointing": 0.15,
        "image_pointing": 0.1,
        "nlp": 0.0995,
    }
    entries = {d.name: d for g in groups.values() for d in g.datasets}
    factors = {name: d.root_size_factor for name, d in entries.items() if d.root_size_factor}
    assert {n: f for n, f in factors.items() if f not in (1, 60000)} == {
        "pixmo_cap": 100000,
        "dv_qa": 10000,
        "figure_qa": 10000,
        "plot_qa": 20000,
        "pixmo_multi_points": 200000,
        "vicas_track": 30000,
        "vicas_ground": 30000,
        "vicas_single_point_track": 30000,
    }
    flat = {n: entries[n].sampling_rate for n, f in factors.items() if f == 1}
    assert flat == {
        "vixmo_points_minmax_0_5": 0.4,
        "vixmo_points_minmax_6_25": 0.3,
        "vixmo_points_minmax_26_60": 0.1,
        "academic_points_clip_63s_2fps": 0.2,
    }
    no_length = {"root_subsegments": False, "root_length": False}
    light = {d.name for d in entries.values() if d.message_weight == {"weight": 0.2, **no_length}}
    pointing = ("tracking", "video_pointing", "image_pointing")
    assert light == {d.name for name in pointing for d in groups[name].datasets}
    caption = entries["vixmo3_top_level_captions_min_3"]
    assert caption.message_weight == {"weight": 0.1, **no_length} and caption.sampling_rate == 1.5
    high = {d.name for d in entries.values() if d.p_high_res is not None}
    assert {entries[name].p_high_res for name in high} == {0.3}
    assert high == {d.name for d in groups["image_pointing"].datasets} - {"pixmo_multi_points"}


TRACKING = {  # the share of each set of a kind, and the sets
    "track": (0.4, "mevis_track ref_yt_vos_track lv_vis_track vicas_track revos_track"),
    "molmo2_track": (0.4, "molmo2_video_track"),
    "track_dist_tail": (0.05, "burst_track ref_davis17_track yt_vis_track moca_track"),
    "ground": (0.2, "mevis_ground lv_vis_ground vicas_ground revos_ground"),
    "molmo2_ground": (0.2, "molmo2_video_track_ground"),
    "ground_dist_tail": (0.01, "burst_ground moca_ground"),
    "single_point": (0.15, "mevis_ lv_vis_ vicas_ revos_ molmo2_video_"),
    "sot_from_bbox": (0.2, "webuav_ got10k_ vasttrack_ trackingnet_"),
    "sot_from_bbox_dist_tail": (
        0.1,
        "burst_ lvosv1_ lvosv2_ lasot_ uwcot_ webuot_ latot_ tnl2k_ tnllt_",
    ),
}
MEMBERS = {
    "demo": "pixmo_ask_model_anything pixmo_cap pixmo_cap_qa_as_user_qa "
    "pixmo_multi_image_qa_multi_only_max5 molmo2_human_qa vixmo3_top_level_captions_min_3",
    "image_academic": "coco_2014_vqa_multi text_vqa okvqa chart_qa_weighted doc_qa info_qa "
    "ai2_diagram_v2_mix_transparent a_okvqa_mc a_okvqa_da science_qa_img tabwmp_da st_qa tally_qa "
    "mantis_instruct_llava_665k_multi_multi_only mantis_instruct_nlvr2_multi_only "
    "mantis_instruct_spot-the-diff_multi_only dv_qa figure_qa plot_qa "
    "cosyn_chart_exp cosyn_chemical_exp cosyn_diagram_exp cosyn_math_exp cosyn_music_exp "
    "cosyn_table_exp cosyn_document cosyn_multidoc_chart_exp cosyn_multidoc_chemical_exp "
    "cosyn_multidoc_diagram_exp cosyn_multidoc_doc_exp cosyn_multidoc_music_exp "
    "cosyn_multidoc_table_exp",
    "video_academic": "tgif tvqa_with_sub paxion llava_video_mc_academic llava_video_oe_academic "
    "perception_test nextqa_mc news_video_qa_filtered how2qa sutd_trafficqa social_iq2 sportsqa_oe "
    "cinepile_with_sub clevrer funqa star intent_qa video_localized_narratives road_text_vqa "
    "countix_oe camerabench_qa motionbench_train moments_in_time_qa kinetics_qa "
    "charades_sta_all_qa coin_all_qa youcook2_all_qa activitynet_all_qa ego4d_all "
    "epic_kitchens_qa video_localized_narratives_caption qv_highlights molmo2_syn_captions_qa "
    "molmo2_syn_captions_subtitle_qa",
    "video_pointing": "vixmo_points_minmax_0_5 vixmo_points_minmax_6_25 vixmo_points_minmax_26_60 "
    "academic_points_clip_63s_2fps",
    "image_pointing": "pixmo_multi_points pixmo_points_train pixmo_count_train "
    "pixmo_points_high_freq_train cosyn_point",
    "nlp": "tulu4",
}


def test_the_members_of_the_molmo2_mixture() -> None:
    """The published lists, written out."""
    groups = {g.name: g for g in MixtureConfig.load("molmo2").groups}
    for name, members in MEMBERS.items():
        assert sorted(d.name for d in groups[name].datasets) == sorted(members.split()), name
    rates = {
        name + ("single_point_track" if name.endswith("_") else ""): share / 1.11
        for share, names in TRACKING.values()
        for name in names.split()
    }
    assert len(rates) == 35
    found = {d.name: d.sampling_rate for d in groups["tracking"].datasets}
    assert found == pytest.approx(rates, rel=1e-5)
