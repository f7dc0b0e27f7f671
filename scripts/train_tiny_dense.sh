#!/usr/bin/env bash
# Train the small dense checkpoint that ships in checkpoints/tiny-dense from nothing: random
# weights, then clips with one, two and three to four characters. About 80 minutes on 2 cores.
#   scripts/train_tiny_dense.sh [RUN_FOLDER]
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-runs/tiny-dense}
python=${PYTHON:-.venv/bin/python}
export PYTHONPATH=.

stage() { # name, start checkpoint, mixture, steps, learning rate, final share of it
    "$python" launch_scripts/train_image_video_sft.py "$2" "$3" --save_folder="$out/$1" \
        --run_name="$1" --global_batch_size 8 --device_batch_size=8 --max_duration="$4" \
        --save_interval=500 --save_num_checkpoints_to_keep=1 --data.num_workers=1 \
        --optimizer.{llm,vit,connector}_learning_rate="$5" --scheduler.alpha_f="$6" \
        --scheduler.{llm,vit,connector}_t_warmup=100
}

"$python" scripts/make_tiny_checkpoint.py "$out/start"
stage one "$out/start" synthetic_video_qa_one 900 1e-3 1.0
stage two "$out/one" synthetic_video_qa_two 1500 1e-3 1.0
stage full "$out/two" synthetic_curriculum 4500 1e-3 0.02
"$python" scripts/export_unsharded.py "$out/full" checkpoints/tiny-dense --dtype float16
