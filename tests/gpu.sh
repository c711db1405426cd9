#!/bin/sh
# On a machine with an NVIDIA GPU: everything that the emulated driver cannot show. Writes a report to be committed under
# kernels/cuda/verified/. Needs Rust, the driver and pip or uv (for a 98 MB model); with a Python that has torch,
# transformers, peft and bitsandbytes as $PYTHON, their training is timed beside ours, and Unsloth's where it is installed.
#
# Two rehearsals need no card; their reports say so and are thrown away:
#   LUTHIER_GPU_DRY=1 tests/gpu.sh          on the CPU, with the real model
#   LUTHIER_GPU_DRY=emulated tests/gpu.sh   on the emulated driver (g++), with a tiny model
set -u
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
STEPS=${STEPS:-40}
TARGET=${CARGO_TARGET_DIR:-target}
LUTHIER=$PWD/$TARGET/release/luthier
case $TARGET in /*) LUTHIER=$TARGET/release/luthier ;; esac
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
failed=0

cargo build --quiet --release -p luthier || exit 1
DRY=${LUTHIER_GPU_DRY:-}
smi() { nvidia-smi "$@"; }
case $DRY in
  '')
    command -v nvidia-smi >/dev/null || { echo "nvidia-smi was not found: this machine has no NVIDIA driver" >&2; exit 2; }
    ;;
  emulated)
    # The tests build the driver; the newest one is of these sources.
    cargo test --quiet --release -p luthier-cuda --test conformance buffers::whole_buffers >"$WORK/build" 2>&1 || { cat "$WORK/build" >&2; exit 1; }
    driver=$(ls -t "$TARGET"/tmp/emulator/*/libcuda.so | head -1)
    g++ -std=c++17 -O2 -shared -fPIC -Wl,-soname,libcublas.so.12 -o "$WORK/libcublas.so.12" kernels/cuda/emulator/cublas.cpp || exit 1
    LD_LIBRARY_PATH=$(cd "$(dirname "$driver")" && pwd):$WORK${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
    export LD_LIBRARY_PATH
    cargo run --quiet --release -p luthier-test --example tiny-model -- "$WORK" || exit 1
    smi() { case $* in *compute-apps*) echo 1 ;; *) echo emulated ;; esac; }
    ;;
  *) smi() { echo none; } ;;
esac
query() { smi --id=0 --query-gpu="$1" --format=csv,noheader,nounits; }
CARD=$(query name)
DEVICE=cuda:0
REPORT=kernels/cuda/verified/$(date -u +%Y-%m-%d)-$(printf %s "$CARD" | tr -c 'A-Za-z0-9' '-').md
if [ -n "$DRY" ]; then
  REPORT=$WORK/report.md
  [ "$DRY" = emulated ] || DEVICE=cpu
fi

say() { printf '%s\n' "$*" | tee -a "$REPORT"; }
row() { # PART passed|failed|"not done"|measured TEXT
  say "| $1 | $2 | $3 |"
  [ "$2" = failed ] && failed=1
  return 0
}

: >"$REPORT"
say "# $CARD"
say ""
[ -n "$DRY" ] && say "**A rehearsal (LUTHIER_GPU_DRY=$DRY): nothing here ran on a GPU.**" && say ""
say "Commit $(git rev-parse --short HEAD)$(git diff --quiet || echo ', changed'), $(date -u +%Y-%m-%d). Driver $(query driver_version), compute capability $(query compute_cap), $(query memory.total) MiB."
say ""
say "| part | result | |"
say "|---|---|---|"

# The same tests as on the emulated driver, one at a time on the card.
if [ -n "$DRY" ]; then
  row conformance "not done" "no card"
elif LUTHIER_TEST_GPU=1 cargo test --quiet --release -p luthier-cuda --test conformance -- --test-threads 1 \
  --skip mutants:: --skip sanitizers:: --skip generated:: --skip static_gate >"$WORK/conformance" 2>&1; then
  row conformance passed "$(grep '^test result' "$WORK/conformance" | tail -1)"
else
  row conformance failed "$(grep -E '^ +[a-z_]+::' "$WORK/conformance" | sort -u | tr '\n' ' ')"
fi

# The pipeline that all trainings are a variant of; `WITH` stands where they differ.
TRAIN="{method: qlora, rank: 8, alpha: 16, targets: all-linear, learning_rate: 1e-3, batch: 8, steps: $STEPS, seed: 7, checkpoint_every: 5, WITH}"
if [ "$DRY" = emulated ]; then
  cat >"$WORK/template.yaml" <<EOF
luthier: 1
stages:
  base: {uses: fetch, with: {from: base.gguf}}
  raw: {uses: ingest, with: {files: [chats.jsonl]}}
  tokens: {uses: tokenize, in: {model: base, data: raw}, with: {max_length: 128}}
  adapter:
    uses: train
    in: {model: base, data: tokens}
    with: $TRAIN
EOF
else
  sed "s/with: {method: qlora.*}/with: $TRAIN/" tests/interop/pipeline.yaml >"$WORK/template.yaml"
fi
grep -q WITH "$WORK/template.yaml" || { echo "tests/interop/pipeline.yaml has no training to vary" >&2; exit 1; }

# NAME WITH [COMMAND...]: trains the variant in a store of its own, which has the model and the data already.
train() {
  name=$1
  sed "s/WITH/$2/" "$WORK/template.yaml" >"$WORK/$name.yaml"
  shift 2
  [ -d "$WORK/$name" ] || cp -r "$WORK/data" "$WORK/$name"
  "$@" "$LUTHIER" run "$WORK/$name.yaml" --until adapter --store "$WORK/$name" >>"$WORK/$name.log" 2>&1
}
why() { grep -v '^ *$' "$WORK/$1.log" | grep -m 1 -E '^ *(error:|x |×)' | sed 's/^ *[x×] *//' | cut -c1-200; }
shown() { "$LUTHIER" show "$WORK/$1.yaml" adapter --store "$WORK/$1" "$2"; }
metric() { # NAME METRIC
  shown "$1" --json | tr -d ' \n' | sed -n "s/.*\"$2\":{[^}]*\"value\":\([-0-9.e]*\).*/\1/p"
}
digest() { sha256sum <"$(shown "$1" --path)/adapter_model.safetensors" | cut -c1-16; }
# PART NAME TEXT [OTHER]: passes if the variant left the bytes of OTHER, which is `card` if it is not named.
same() {
  if [ "$(digest "${4:-card}")" = "$(digest "$2")" ]; then
    row "$1" passed "$3adapter $(digest "$2")"
  else
    row "$1" failed "$3$(digest "$2") instead of $(digest "${4:-card}")"
  fi
}
near() { awk -v a="$1" -v b="$2" -v share="$3" 'BEGIN { d = a - b; if (d < 0) d = -d; print (a > 0 && d <= share * a) ? "passed" : "failed" }'; }

sed "s/WITH/device: cpu/" "$WORK/template.yaml" >"$WORK/data.yaml"
"$LUTHIER" run "$WORK/data.yaml" --until tokens --store "$WORK/data" >"$WORK/data.log" 2>&1 || { cat "$WORK/data.log" >&2; exit 1; }

ON="device: $DEVICE"
train host "device: cpu" || { row training failed "on the CPU: $(why host)"; exit 1; }
began=$(date +%s)
train card "$ON" || { row training failed "$(why card)"; exit 1; }
took=$(($(date +%s) - began))
host=$(metric host loss) card=$(metric card loss)
row training "$(near "$host" "$card" 0.02)" "mean loss $card, on the CPU $host, $STEPS steps"

# What the card's driver counts for the process, at most, while it trains again.
(while sleep 0.2; do smi --query-compute-apps=used_memory --format=csv,noheader,nounits; done >"$WORK/used" 2>/dev/null) &
watcher=$!
if train again "$ON"; then same repeat again ""; else row repeat failed "$(why again)"; fi
kill "$watcher"
wait "$watcher" 2>/dev/null
planned=$(shown card --json | tr -d ' \n' | sed -n 's/.*"planned_memory":{[^}]*"value":\([0-9]*\).*/\1/p')
planned=${planned:+$((planned / 1048576)) MiB planned}
used=$(grep -E '^[0-9]+$' "$WORK/used" | sort -n | tail -1)
if [ -n "$used" ]; then
  row memory measured "${planned:-no plan}; the driver counts at most $used MiB, its context included"
else
  row memory "not done" "the driver names no process; ${planned:-no plan}"
fi

# Stopped in the middle, gone on with from the checkpoint.
stop=${STOP:-$(((took + 1) / 2))}
train stopped "$ON" timeout -s INT "$stop"
if train stopped "$ON" && from=$(metric stopped resumed_from) && [ -n "$from" ]; then
  same resume stopped "from step $from: "
else
  row resume "not done" "after $stop s it had not begun or had ended: STOP=SECONDS tests/gpu.sh. $(why stopped)"
fi

# What may change where bytes are kept, never which.
variant() { # PART NAME WITH [OTHER]
  if train "$2" "$ON, $3"; then same "$1" "$2" "" "${4:-}"; else row "$1" failed "$(why "$2")"; fi
}
variant "checkpointing" recomputed "checkpointing: true"
variant "block inputs offloaded" offloaded "checkpointing: true, offload: block-inputs"
variant "layers streamed" streamed "stream: layers"
variant "layers streamed, block inputs offloaded" moved "checkpointing: true, offload: block-inputs, stream: layers"
variant "paged optimiser" paged "optimizer: paged_adamw"
variant "all three" all "checkpointing: true, offload: block-inputs, stream: layers, optimizer: paged_adamw"
if train eight "$ON, optimizer: adamw_8bit"; then
  variant "paged optimiser, 8 bits" paged-eight "optimizer: paged_adamw_8bit" eight
else
  row "paged optimiser, 8 bits" failed "$(why eight)"
fi
# Every kernel launched by itself, not by a captured graph.
if train launched "$ON" env LUTHIER_CUDA_GRAPHS=0; then same "without graphs" launched ""; else row "without graphs" failed "$(why launched)"; fi

# What no plan counts: the driver's modules and graphs, and what it rounds up. The context is in the row `memory` alone.
own=$(metric card driver_memory) launched=$(metric launched driver_memory)
if [ -n "$own" ] && [ -n "$launched" ]; then
  row "driver's own memory" measured "beside the planned bytes and the context: $(awk -v a="$own" -v b="$launched" 'BEGIN { printf "%.1f MiB, without graphs %.1f MiB", a / 1048576, b / 1048576 }')"
else
  row "driver's own memory" "not done" "this device has none"
fi

# Large products by cuBLAS, which is the default where it is found, and by our own kernels.
library=$("$LUTHIER" doctor --json | tr -d '\n' | sed -n 's/.*"found": *"cuBLAS \([0-9.]*\)".*/\1/p')
if ! train own "$ON, cublas: never"; then
  row cuBLAS failed "$(why own)"
elif [ -z "$library" ]; then
  same cuBLAS own "not found; without it "
else
  own=$(metric own loss)
  row cuBLAS "$(near "$own" "$card" 0.01)" "mean loss $card by $library, $own by our own kernels"
fi

# Speed. Ours, then theirs on the same shapes: one packed sequence a step.
BASE=$WORK/base.gguf
[ -e "$BASE" ] || ln -s "$("$LUTHIER" show "$WORK/data.yaml" base --store "$WORK/data" --path)" "$BASE"
speed() { # LENGTH WHAT [ARGUMENT...]
  length=$1 what=$2
  shift 2
  if "$LUTHIER" bench train "$BASE" --method qlora --rank 16 --batch 1 --length "$length" --steps 5 --checkpointing \
    -w device="$DEVICE" "$@" --json >"$WORK/ours" 2>&1; then
    row "speed, $length tokens" measured "$what: $(tr -d ' \n' <"$WORK/ours" | sed -n 's/.*"tokens_per_second":\([0-9.e]*\).*/\1/p') tokens/s"
  elif grep -qE '"code": "(bench::emulated|train::offload)"' "$WORK/ours"; then
    row "speed, $length tokens" "not done" "$(tr -s ' \n' ' ' <"$WORK/ours" | sed 's/.*"message": "\([^"]*\)".*/\1/')"
  else
    row "speed, $length tokens" failed "$what: $(tail -1 "$WORK/ours")"
  fi
}
for length in 1024 4096; do
  [ -n "$DRY" ] && length=64
  speed "$length" luthier
  [ -n "$library" ] && speed "$length" "luthier without cuBLAS" -w cublas=never
  LUTHIER_CUDA_GRAPHS=0 speed "$length" "luthier without graphs"
  speed "$length" "luthier, block inputs offloaded" -w offload=block-inputs
  for other in peft unsloth; do
    if "$PYTHON" tests/interop/gpu_training.py "$BASE" --with "$other" --length "$length" --device "${DEVICE%:*}" >"$WORK/theirs" 2>"$WORK/theirs.log"; then
      row "speed, $length tokens" measured "$(cat "$WORK/theirs")"
    else
      row "speed, $length tokens" "not done" "$other: $(tail -1 "$WORK/theirs.log" | cut -c1-160)"
    fi
  done
  [ -n "$DRY" ] && break
done

say ""
say "Written by \`tests/gpu.sh\`."
[ -n "$DRY" ] || echo "report: $REPORT" >&2
exit "$failed"
