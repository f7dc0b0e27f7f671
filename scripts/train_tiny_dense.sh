#!/usr/bin/env bash
# Train the small dense checkpoint of checkpoints/tiny-dense from nothing, in five stages: stories
# in words, clips with few characters seen through two frames, all clips through two frames, all
# clips through eight, and last with a random half of each video's tokens removed, so that a short
# fine-tuning with pruning does not meet gaps for the first time. Two frames cost a quarter and
# already show what moves, appears and leaves. About 70 minutes on 2 cores; docs/log.md has the
# figures.
#   scripts/train_tiny_dense.sh [RUN_FOLDER]
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-runs/tiny-dense}
python=${PYTHON:-.venv/bin/python}
export PYTHONPATH=.

stage() { # name, start, mixture, steps, rows per step, frames, learning rate, share at the end, more
    "$python" launch_scripts/train_image_video_sft.py "$out/$2" "$3" --save_folder="$out/$1" \
        --run_name="$1" --max_duration="$4" --global_batch_size "$5" --device_batch_size="$5" \
        --model.mm_preprocessor.max_frames="$6" \
        --optimizer.{llm,vit,connector}_learning_rate="$7" --scheduler.alpha_f="$8" \
        --scheduler.{llm,vit,connector}_t_warmup=50 --data.num_workers=1 \
        --ft_embedding=all --model.llm.residual_dropout=0 \
        --save_interval=200 --save_num_checkpoints_to_keep=1 "${@:9}"
}

"$python" scripts/make_tiny_checkpoint.py "$out/start"
stage text start synthetic_text_qa 1000 64 8 2e-3 1.0
stage easy text synthetic_curriculum_easy 1200 8 2 1e-3 1.0
stage mixed easy synthetic_curriculum_mixed 1600 8 2 1e-3 1.0
stage full mixed synthetic_curriculum 2400 8 8 1e-3 0.05
stage gaps full synthetic_curriculum 800 16 8 4e-4 0.02 --use_temporal_video_olmo \
    --model.vision_backbone.vit.{topk=0.5,prune_at=1,prune_method=random} \
    --model.pruned_position_ids=original
"$python" scripts/export_unsharded.py "$out/gaps" checkpoints/tiny-dense --dtype float16 --dense
