#!/usr/bin/env bash
# Train the small dense checkpoint of checkpoints/tiny-dense from nothing, in stages: seeing (ViT and
# connector alone), reading (scenes in words), clips of 6 frames, of these the one kind of question
# that is not learned among the others, and clips of 16 frames. A stage that is finished is not run
# again. About an hour and a half on 2 cores; docs/log.md has the figures.
#   scripts/train_tiny_dense.sh [RUN_FOLDER]
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-runs/tiny-dense}
python=${PYTHON:-.venv/bin/python}
export PYTHONPATH=. OMP_NUM_THREADS=1

stage() { # name, start, mixture, steps, rows per step, learning rate, share at the end, more
    [ -d "$out/$1/step$4" ] && return
    "$python" -m torch.distributed.run --nproc-per-node 2 --standalone \
        launch_scripts/train_image_video_sft.py "$out/$2" "$3" --save_folder="$out/$1" \
        --run_name="$1" --max_duration="$4" --global_batch_size "$5" --device_batch_size=$(($5 / 2)) \
        --optimizer.{llm,connector}_learning_rate="$6" --optimizer.vit_learning_rate=3e-4 \
        --scheduler.alpha_f="$7" --scheduler.{llm,vit,connector}_t_warmup=50 --data.num_workers=1 \
        --ft_embedding=all --model.llm.residual_dropout=0 \
        --save_interval=200 --save_num_checkpoints_to_keep=1 "${@:8}"
}

[ -d "$out/start" ] || "$python" scripts/make_tiny_checkpoint.py "$out/start"
[ -d "$out/vision" ] || OMP_NUM_THREADS=2 "$python" scripts/pretrain_tiny_vision.py "$out/start" "$out/vision"
stage text vision synthetic_text_qa 600 64 2e-3 1.0
stage easy text synthetic_curriculum_easy 700 16 1e-3 1.0
stage direction easy synthetic_curriculum_direction 100 16 1e-3 1.0
stage again direction synthetic_curriculum_easy 100 16 1e-3 1.0
stage full again synthetic_curriculum 400 16 1e-3 0.05
"$python" scripts/export_unsharded.py "$out/full" checkpoints/tiny-dense --dtype float16 --dense
