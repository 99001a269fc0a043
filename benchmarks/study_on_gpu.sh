#!/usr/bin/env bash
# The overthinking study at the depth that a GPU allows: an encoder of 12 layers with an exit after each, from random
# weights, from weights pretrained without labels on the same speech, and without one corpus each; then the figures.
#
#   DATA=/corpora bash benchmarks/study_on_gpu.sh runs/gpu
#   DATA=/corpora LAYERS=24 DIM=384 bash benchmarks/study_on_gpu.sh runs/gpu24
#   DATA=/corpora DEVICE=cpu LAYERS=2 DIM=32 AUDIO="[/corpora/LJSpeech-1.1]" PRETRAIN_EPOCHS=1 \
#       ARGS="--n_epochs 1 --train_utterances 24 --test_utterances 8" bash benchmarks/study_on_gpu.sh /tmp/rehearsal
#
# DATA holds an4, LibriSpeech, LJSpeech-1.1, the Common Voice releases and free-spoken-digit-dataset under the names of
# hparams/small.yaml. Whatever was stopped goes on where it was when the same command is given again.
set -euo pipefail
cd "$(dirname "$0")/.."

OUT=${1:?folder of the runs}
: "${DATA:?folder of the corpora}"
LAYERS=${LAYERS:-12} DIM=${DIM:-256} EPOCHS=${EPOCHS:-60} PRETRAIN_EPOCHS=${PRETRAIN_EPOCHS:-200}
DEVICE=${DEVICE:-cuda} PRECISION=${PRECISION:-bf16} PYTHON=${PYTHON:-.venv/bin/python} ARGS=${ARGS:-}
CV13=$DATA/cv-corpus-13.0-delta-2023-03-09 CV20=$DATA/cv-corpus-20.0-delta-2024-12-06

shape=(--n_layers "$LAYERS" --dim "$DIM" --ffn_dim $((4 * DIM)))

# NAME [options that come after those of all]: one model, trained and tested
train() {
    local name=$1
    shift
    # shellcheck disable=SC2086  # ARGS is several options
    "$PYTHON" train.py hparams/small.yaml --device "$DEVICE" --precision "$PRECISION" --output_folder "$OUT/$name" \
        "${shape[@]}" --exit_layers "every 1" --init_from null --n_epochs "$EPOCHS" --encoder_lr 1.2e-3 --heads_lr 1.2e-3 \
        --warmup_share 0.05 --dropout 0.15 --freq_mask_channels 24 --average_checkpoints 2 \
        --shifts "[noise_10db, telephone]" --data_folder "$CV13" --also_an4_folder "$DATA/an4" \
        --also_librispeech_folder "$DATA/LibriSpeech" --also_ljspeech_folder "$DATA/LJSpeech-1.1" \
        --also_commonvoice_20_folder "$CV20" --release_6_1_folder "$DATA/cv-corpus-6.1-2020-12-11" \
        --ood_digits_folder "$DATA/free-spoken-digit-dataset" "$@" $ARGS
}

train scratch
lists=$OUT/scratch/manifests # training parts alone, so that pretraining never hears a test speaker
AUDIO=${AUDIO:-"[$lists/commonvoice_train.csv, $lists/commonvoice_20/commonvoice_validated.csv, $lists/an4_train.csv, $lists/librispeech_train-clean-100.csv, $lists/ljspeech_train.csv]"}
"$PYTHON" recipes/Pretrain/pretrain.py recipes/Pretrain/pretrain_small.yaml --device "$DEVICE" --precision "$PRECISION" \
    --output_folder "$OUT/pretraining" "${shape[@]}" --n_epochs "$PRETRAIN_EPOCHS" --audio "$AUDIO"
train pretrained --init_from "$OUT/pretraining/encoder"
train single_exit --regime last_only --select_on last
train without_an4 --also_an4_folder null --ood_an4_folder "$DATA/an4"
train without_librispeech --also_librispeech_folder null --also_ljspeech_folder null \
    --ood_librispeech_folder "$DATA/LibriSpeech" --ood_librispeech_splits "[test-other]"
train without_commonvoice --corpus AN4 --data_folder "$DATA/an4" --also_an4_folder null \
    --also_commonvoice_20_folder null --release_6_1_folder null --ood_commonvoice_folder "$CV13"

"$PYTHON" benchmarks/study.py \
    --collect gpu_scratch="$OUT/scratch" gpu_pretrained="$OUT/pretrained" gpu_without_an4="$OUT/without_an4" \
    gpu_without_librispeech="$OUT/without_librispeech" gpu_without_commonvoice="$OUT/without_commonvoice" \
    --compare gpu_pretrained_minus_scratch="$OUT/pretrained,$OUT/scratch" \
    --tax gpu_exit_tax="$OUT/scratch,$OUT/single_exit"
