#!/usr/bin/env bash
# Makes the virtual environment and installs the project in it; `make env` runs this from the project's root.
#
# What it must not do is pull several GB of CUDA onto a machine without a GPU: PyPI's torch for Linux is a CUDA build.
#   torch already there       it stays, whatever its build
#   a GPU (or not Linux)      plain install from PyPI
#   otherwise                 a "+cpu" wheel of the version in constraints/cpu.txt: from the indexes and wheel folders
#                             that pip is set up with, else from PyTorch's CPU index
# Settings: PYTHON, VENV, TORCH_INDEX (another CPU index or a mirror), ALLOW_CUDA=1 (take PyPI's build after all).
set -euo pipefail

PYTHON=${PYTHON:-python3}
VENV=${VENV:-.venv}
TORCH_INDEX=${TORCH_INDEX:-https://download.pytorch.org/whl/cpu}
CPU=constraints/cpu.txt

fail() {
    echo "make env: $*" >&2
    exit 1
}

recent_enough() { # python: 3.11 or later?
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))'
}

python_version() {
    "$1" -c 'import sys; print(".".join(map(str, sys.version_info[:3])))'
}

torch_version() { # what is installed in the environment; empty when nothing is
    "$VENV/bin/python" -c 'from importlib.metadata import version; print(version("torch"))' 2>/dev/null || true
}

torch_imports() {
    "$VENV/bin/python" -c 'import torch' >/dev/null 2>&1
}

reachable() { # url: does anything answer within 5 seconds, looking up the name included?
    "$VENV/bin/python" - "$1" <<'PROBE'
import os, sys, threading, urllib.request
from pathlib import Path

url, answers = sys.argv[1].rstrip("/") + "/torch/", []

def ask():
    try:
        if url.startswith("file:"):
            answers.append(Path(urllib.request.url2pathname(url[len("file://"):])).is_dir())
        else:
            answers.append(urllib.request.urlopen(url, timeout=5).status == 200)
    except (OSError, ValueError):
        answers.append(False)

thread = threading.Thread(target=ask, daemon=True)
thread.start()
thread.join(5)
sys.stdout.flush()
os._exit(0 if any(answers) else 1)
PROBE
}

make_venv() {
    if ! "$VENV/bin/python" -m pip --version >/dev/null 2>&1; then
        command -v "$PYTHON" >/dev/null || fail "no '$PYTHON' here; name a Python 3.11 or later, e.g. make env PYTHON=python3.12"
        recent_enough "$PYTHON" ||
            fail "Python 3.11 or later is needed and $PYTHON is $(python_version "$PYTHON"); name another, e.g. make env PYTHON=python3.12"
        "$PYTHON" -m venv "$VENV" || fail "$PYTHON could not make the virtual environment $VENV (Debian and Ubuntu: apt install python3-venv)"
    fi
    recent_enough "$VENV/bin/python" ||
        fail "Python 3.11 or later is needed and $VENV holds $(python_version "$VENV/bin/python"); remove $VENV and run make env again"
}

install_cpu_torch() {
    local torch pip="$VENV/bin/python -m pip"
    torch="$(sed -n 's/^\(torch==[0-9.]*\)$/\1+cpu/p' "$CPU")"
    [ -n "$torch" ] || fail "$CPU should have one line such as torch==2.13.0"
    # "+cpu" builds are never on PyPI, so this asks for nothing but what is at hand.
    if $pip install --quiet --dry-run --no-deps "$torch" >/dev/null 2>&1; then
        echo "make env: no GPU seen; taking the CPU wheel of torch at hand"
        $pip install "$torch"
    elif reachable "$TORCH_INDEX"; then
        echo "make env: no GPU seen; taking torch from $TORCH_INDEX"
        # Its torchaudio as well: built without CUDA, so its compiled part loads.
        $pip install --extra-index-url "$TORCH_INDEX" "$torch" torchaudio
    elif [ "${ALLOW_CUDA:-}" = 1 ]; then
        echo "make env: no CPU wheel of torch at hand; taking PyPI's CUDA build (several GB)"
    else
        fail "no GPU and no CPU wheel of torch at hand, and $TORCH_INDEX cannot be reached; name a mirror with" \
            "TORCH_INDEX=..., or take PyPI's CUDA build (several GB) with ALLOW_CUDA=1"
    fi
}

install_project() { # further arguments go to pip
    "$VENV/bin/python" -m pip install "$@" -e '.[dev]'
}

make_venv
if torch_imports; then
    keep="$(mktemp)"
    trap 'rm -f "$keep"' EXIT
    echo "torch==$(torch_version)" >"$keep"
    # Everything may be installed already: then no index is asked, and no network needed.
    install_project --quiet --no-index --no-build-isolation -c "$keep" >/dev/null 2>&1 || install_project -c "$keep"
elif [ "$(uname -s)" != Linux ] || nvidia-smi >/dev/null 2>&1; then
    install_project
else
    install_cpu_torch
    install_project -c "$CPU"
fi
echo "make env: $VENV is ready (torch $(torch_version))"
