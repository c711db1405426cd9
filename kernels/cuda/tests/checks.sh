#!/bin/sh
# What is too slow for every run: the tests of the CUDA device under the address and the thread sanitizer, and every defect
# of conformance/mutants/*.toml, which a test must notice. LUTHIER_MUTANT=TEXT takes only the defects with that in
# their name or in that of their file.
exec cargo test --release -p luthier-cuda --test conformance -- --ignored --nocapture --test-threads 1 "$@"
