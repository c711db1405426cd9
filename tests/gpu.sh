#!/bin/sh
# On a machine with an NVIDIA GPU: everything that the emulated driver cannot show. Writes a report to be committed under
# kernels/cuda/verified/. Needs Rust, the driver and pip or uv (for a 98 MB model); with a Python that has torch,
# transformers, peft and bitsandbytes as $PYTHON, their training is timed beside ours, and Unsloth's where it is installed.
# LUTHIER_GPU_DRY=1 goes through it all on the CPU, without a card, into a report that is thrown away.
set -u
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
STEPS=${STEPS:-40}
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
failed=0

if [ -n "${LUTHIER_GPU_DRY:-}" ]; then
  DEVICE=cpu CARD=none REPORT=$WORK/report.md
  query() { echo none; }
else
  command -v nvidia-smi >/dev/null || { echo "nvidia-smi was not found: this machine has no NVIDIA driver" >&2; exit 2; }
  query() { nvidia-smi --id=0 --query-gpu="$1" --format=csv,noheader,nounits; }
  DEVICE=cuda:0 CARD=$(query name)
  REPORT=kernels/cuda/verified/$(date -u +%Y-%m-%d)-$(printf %s "$CARD" | tr -c 'A-Za-z0-9' '-').md
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
say "Commit $(git rev-parse --short HEAD)$(git diff --quiet || echo ', changed'), $(date -u +%Y-%m-%d). Driver $(query driver_version), compute capability $(query compute_cap), $(query memory.total) MiB."
say ""
say "| part | result | |"
say "|---|---|---|"

cargo build --quiet --release -p luthier -p luthier-bench || exit 1
LUTHIER=target/release/luthier

# The same tests as on the emulated driver, one at a time on the card.
if [ "$DEVICE" = cpu ]; then
  row conformance "not done" "no card"
elif LUTHIER_TEST_GPU=1 cargo test --quiet --release -p luthier-cuda --test conformance -- --test-threads 1 \
  --skip mutants:: --skip sanitizers:: --skip generated:: --skip static_gate >"$WORK/conformance" 2>&1; then
  row conformance passed "$(grep '^test result' "$WORK/conformance" | tail -1)"
else
  row conformance failed "$(grep -E '^ +[a-z_]+::' "$WORK/conformance" | sort -u | tr '\n' ' ')"
fi

# NAME DEVICE [ARGUMENT...]: trains the adapter in a store of its own, with the model and data of the first.
sed "s/batch: 8, steps: 4, seed: 7}/batch: 8, steps: $STEPS, seed: 7, checkpoint_every: 5}/" tests/interop/pipeline.yaml >"$WORK/pipeline.yaml"
train() {
  store=$WORK/$1
  device=$2
  shift 2
  "$@" "$LUTHIER" run "$WORK/pipeline.yaml" --until adapter --store "$store" --device "$device" >>"$store.log" 2>&1
}
metric() { # STORE NAME
  "$LUTHIER" show "$WORK/pipeline.yaml" adapter --store "$WORK/$1" --json | tr -d ' \n' |
    sed -n "s/.*\"$2\":{[^}]*\"value\":\([-0-9.e]*\).*/\1/p"
}
digest() { sha256sum <"$("$LUTHIER" show "$WORK/pipeline.yaml" adapter --store "$WORK/$1" --path)/adapter_model.safetensors" | cut -c1-16; }

"$LUTHIER" run "$WORK/pipeline.yaml" --until tokens --store "$WORK/data" >"$WORK/data.log" 2>&1 || { cat "$WORK/data.log" >&2; exit 1; }
for name in host card again stopped; do cp -r "$WORK/data" "$WORK/$name"; done

if train host cpu && train card "$DEVICE"; then
  host=$(metric host loss) card=$(metric card loss)
  near=$(awk -v a="$host" -v b="$card" 'BEGIN { d = a - b; if (d < 0) d = -d; print (a > 0 && d <= 0.02 * a) ? "passed" : "failed" }')
  row training "$near" "mean loss $card, on the CPU $host, $STEPS steps"
else
  row training failed "$(tail -3 "$WORK/host.log" "$WORK/card.log" 2>/dev/null | tr '\n' ' ')"
fi

# What the card's driver counts for the process, at most, while it trains again.
: >"$WORK/used"
if [ "$DEVICE" != cpu ]; then
  (while sleep 0.2; do nvidia-smi --query-compute-apps=used_memory --format=csv,noheader,nounits; done >"$WORK/used" 2>/dev/null) &
  watcher=$!
  train again "$DEVICE"
  done=$?
  kill "$watcher"
else
  train again "$DEVICE"
  done=$?
fi
if [ "$done" != 0 ]; then
  row repeat failed "$(tail -1 "$WORK/again.log")"
elif [ "$(digest card)" = "$(digest again)" ]; then
  row repeat passed "adapter $(digest again)"
else
  row repeat failed "$(digest card), then $(digest again)"
fi
planned=$("$LUTHIER" show "$WORK/pipeline.yaml" adapter --store "$WORK/card" | grep -o '[0-9.]* [kMG]B planned' | head -1)
used=$(sort -n "$WORK/used" | tail -1)
if [ -n "$used" ]; then
  row memory measured "${planned:-no plan printed}; the driver counts at most $used MiB, its context included"
else
  row memory "not done" "the driver names no process (or no card); ${planned:-no plan printed}"
fi

# Stopped in the middle, gone on with from the checkpoint.
train stopped "$DEVICE" timeout -s INT "${STOP:-8}"
if train stopped "$DEVICE" && from=$(metric stopped resumed_from) && [ -n "$from" ]; then
  if [ "$(digest card)" = "$(digest stopped)" ]; then
    row resume passed "from step $from: adapter $(digest stopped)"
  else
    row resume failed "from step $from: $(digest stopped) instead of $(digest card)"
  fi
else
  row resume "not done" "it ended before it was stopped: STOP=SECONDS tests/gpu.sh"
fi

# Speed. Ours, then theirs on the same shapes: one packed sequence a step.
BASE=$WORK/base.gguf
ln -s "$("$LUTHIER" show "$WORK/pipeline.yaml" base --store "$WORK/data" --path)" "$BASE"
for length in 1024 4096; do
  case $DEVICE in cpu) length=64 ;; esac
  if target/release/luthier-bench train "$BASE" --method qlora --rank 16 --batch 1 --length "$length" --steps 5 --json \
    $(target/release/luthier-bench train --help | grep -q -- --device && echo "--device $DEVICE") >"$WORK/ours" 2>"$WORK/ours.log"; then
    row "speed, $length tokens" measured "luthier: $(tr -d ' \n' <"$WORK/ours" | sed -n 's/.*"tokens_per_second":\([0-9.e]*\).*/\1/p') tokens/s"
  else
    row "speed, $length tokens" failed "$(tail -1 "$WORK/ours.log")"
  fi
  for other in peft unsloth; do
    if "$PYTHON" tests/interop/gpu_training.py "$BASE" --with "$other" --length "$length" --device "${DEVICE%:*}" >"$WORK/theirs" 2>"$WORK/theirs.log"; then
      row "speed, $length tokens" measured "$(cat "$WORK/theirs")"
    else
      row "speed, $length tokens" "not done" "$other: $(tail -1 "$WORK/theirs.log" | cut -c1-160)"
    fi
  done
  case $DEVICE in cpu) break ;; esac
done

say ""
say "Written by \`tests/gpu.sh\`."
echo "report: $REPORT" >&2
exit "$failed"
