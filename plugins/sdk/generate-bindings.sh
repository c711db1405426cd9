#!/bin/sh
# Writes src/bindings.rs from ../wit/v0.2. Needs: cargo install wit-bindgen-cli --version 0.57.1
set -eu
cd "$(dirname "$0")"
out=$(mktemp -d)
wit-bindgen rust ../wit/v0.2 --world plugin --out-dir "$out" --format \
  --runtime-path crate::runtime --pub-export-macro --export-macro-name export_component \
  --default-bindings-module luthier_filter::bindings
mv "$out/plugin.rs" src/bindings.rs
rmdir "$out"
