#!/bin/sh
# Writes requirements/*.txt: versions and hashes, no addresses. Usage: compile.sh UV
set -eu
uv=$1
cd "$(dirname "$0")"

pin() {  # NAME [OPTION...]
    name=$1
    shift
    "$uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
        --no-emit-index-url --no-emit-find-links "$@" "$name.in" --output-file "$name.txt"
}

without() {  # NAME OTHER: drops from NAME.txt every package that OTHER.txt already pins
    awk -v other="$2.txt" '
        function package(line) { sub(/==.*/, "", line); return line }
        BEGIN { while ((getline line < other) > 0) if (line ~ /^[a-z]/) there[package(line)] = 1 }
        /^[a-z]/ { keep = !(package($0) in there) }
        keep' "$1.txt" > "$1.kept"
    mv "$1.kept" "$1.txt"
}

pin torch
pin test ../pyproject.toml --extra test --no-emit-package torch
pin model --no-deps
pin peers
pin llama-cpp --no-deps
without test torch
# What is there already is taken as it is where it fits, so that the benchmark's own environment can use it.
cp test.txt guidellm.txt
pin guidellm --no-emit-package torch
without guidellm torch
