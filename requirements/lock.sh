#!/bin/sh
# Writes run.lock and dev.lock from pyproject.toml: for every platform and Python, with hashes.
# `--upgrade` takes newer versions; without it the locked ones stay while they fit.
set -eu
cd "$(dirname "$0")/.."
: "${UV:=uv}"

compile() {
  "$UV" pip compile pyproject.toml --no-config --quiet --universal --python-version 3.11 \
    --generate-hashes --no-annotate --no-header --no-emit-index-url --no-emit-find-links "$@"
}

compile --group build --output-file requirements/run.lock "$@"
compile --group build --group dev --constraints requirements/run.lock \
  --output-file requirements/dev.lock "$@"
