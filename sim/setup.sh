#!/usr/bin/env bash
# Prepares what a make target needs, and is quiet when it is there:
#   setup.sh venv DIR      Python environment in DIR, from requirements.lock
#   setup.sh verilator     what a Verilator build needs: a C++ compiler, make, perl
#   setup.sh icarus        Icarus Verilog
# On Debian and Ubuntu a missing system package is installed when that is allowed (root, or sudo without a
# password), and said so; otherwise one line names what to install.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() { echo "lepton: $*" >&2; exit 1; }

# install PACKAGE...: the missing packages, if we may
install() {
    local sudo=()
    if ! command -v apt-get >/dev/null; then
        fail "missing: $*. Install it with your system's package manager, then run make again."
    fi
    if [ "$(id -u)" != 0 ]; then
        if command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
            sudo=(sudo -n)
        else
            fail "missing: $*. Install it with: sudo apt-get install $*"
        fi
    fi
    echo "lepton: installing the system package(s) $*"
    export DEBIAN_FRONTEND=noninteractive
    "${sudo[@]}" apt-get install -y -qq --no-install-recommends "$@" >/dev/null 2>&1 ||
        { "${sudo[@]}" apt-get update -qq >/dev/null 2>&1 || true
          "${sudo[@]}" apt-get install -y -qq --no-install-recommends "$@" >/dev/null 2>&1; } ||
        fail "could not install $*. Install it by hand, then run make again."
}

# need COMMAND PACKAGE: adds PACKAGE to `missing` if COMMAND is not there
missing=()
need() { command -v "$1" >/dev/null || missing+=("$2"); }

modern() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

make_venv() {
    local venv=$1 python= candidate
    for candidate in ${PYTHON:-} python3 python3.11 python3.12 python3.13 python3.14; do
        if command -v "$candidate" >/dev/null && modern "$candidate"; then python=$candidate; break; fi
    done
    [ -n "$python" ] || fail "needs Python 3.11 or newer, found: $(python3 --version 2>&1 || true). Set PYTHON=/path/to/python3."
    if ! "$python" -c 'import venv, ensurepip' 2>/dev/null; then
        install "python$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')-venv"
    fi
    if [ ! -x "$venv/bin/python" ] || ! modern "$venv/bin/python"; then
        echo "lepton: making the environment $venv with $("$python" --version)"
        "$python" -m venv --clear "$venv"
    fi
    echo "lepton: installing the pinned packages of requirements.lock"
    # Without compiling every module: Python does that for those that are imported.
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-compile -r requirements.lock
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
    # cocotb loads Python as a shared library, which Debian packages separately.
    if [ -z "$("$venv/bin/python" -m find_libpython)" ]; then
        install "libpython$("$venv/bin/python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')"
    fi
}

while [ $# -gt 0 ]; do
    case $1 in
    venv) make_venv "$2"; shift ;;
    verilator) need g++ g++; need perl perl; need make make ;;
    icarus) need iverilog iverilog ;;
    *) fail "setup.sh: unknown word $1" ;;
    esac
    shift
done
[ ${#missing[@]} = 0 ] || install "${missing[@]}"
