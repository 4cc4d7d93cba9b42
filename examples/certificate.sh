#!/bin/sh
# A network with a proof: at 95 %, what is the most that it gets wrong among the pairs it was never shown?
#   sh examples/certificate.sh [RUN]
set -e
run=${1:-runs/certificate}
kolmogram train addition -o "$run" --modulus 257 --architecture bilinear --width 48 --train-fraction 0.6321 \
    --recipe weight_decay --epochs 80
kolmogram analyze "$run" --measure complexity --epsilon 0.1 --epsilon 0.3 --epsilon 1 --epsilon 2
kolmogram bound "$run/kolmogram"
