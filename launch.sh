#!/usr/bin/env bash
# jaxcnn from a bare checkout: makes .venv when there is none, installs the package into it, and runs a verb.
#
#   ./launch.sh                       train lenet_digits
#   ./launch.sh VERB [ARGUMENTS]      any verb of jaxcnn; `./launch.sh help` lists them
#   ./launch.sh test [--full]         run the fast tier of the tests, or all of them; other arguments go to pytest
#
# PYTHON chooses the interpreter (3.11 or newer); JAXCNN_EXTRAS adds optional parts, e.g. JAXCNN_EXTRAS=cuda13.
set -euo pipefail
root=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")" && pwd)
venv=$root/.venv
python=$venv/bin/python

find_python() {
    local candidate
    for candidate in "${PYTHON:-}" python3.13 python3.12 python3.11 python3 python; do
        if [ -n "$candidate" ] && "$candidate" -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
        if [ -n "${PYTHON:-}" ]; then
            echo "jaxcnn: PYTHON=$PYTHON must be Python 3.11 or newer with the venv module" >&2
            exit 2
        fi
    done
    echo "jaxcnn: no Python 3.11 or newer found; install one, or name it: PYTHON=/path/to/python3.12 ./launch.sh" >&2
    exit 2
}

# setup EXTRAS: install, unless the stamp shows this pyproject.toml with these extras. Extras once installed stay.
setup() {
    local stamp=$venv/.jaxcnn-installed sum have="" want
    sum=$({ echo "$root"; cat "$root/pyproject.toml"; } | cksum)
    [ -f "$stamp" ] && have=$(<"$stamp")
    want=$(tr ',' '\n' <<<"${have#*|},$1" | sed '/^$/d' | sort -u | paste -sd, -)
    [ "$have" = "$sum|$want" ] && return
    exec 9>"$root/.venv.lock"
    flock 9 2>/dev/null || true # two first starts at once: the second waits
    [ -f "$stamp" ] && [ "$(<"$stamp")" != "$have" ] && { exec 9>&-; setup "$1"; return; }
    if [ -e "$venv.making" ] || ! "$python" -c '' 2>/dev/null; then # none, or one whose making was killed
        local base
        base=$(find_python)
        echo "jaxcnn: making .venv with $("$base" --version)" >&2
        touch "$venv.making"
        "$base" -m venv --clear "$venv"
        rm "$venv.making"
    fi
    "$python" -c 'import pip' 2>/dev/null || "$python" -m ensurepip >&2 # somebody else's: nothing in it is lost
    echo "jaxcnn: installing the package and what it needs${want:+ [$want]} (a minute or two)" >&2
    if command -v nvidia-smi >/dev/null && [[ $want != *cuda* ]]; then
        echo "jaxcnn: there is an NVIDIA GPU; JAXCNN_EXTRAS=cuda13 ./launch.sh installs JAX for it" >&2
    fi
    if ! "$python" -m pip install --disable-pip-version-check --quiet -e "$root${want:+[$want]}" >"$venv/install.log" 2>&1; then
        tail -n 20 "$venv/install.log" >&2
        echo "jaxcnn: the installation failed; the whole log is $venv/install.log" >&2
        exit 1
    fi
    echo "$sum|$want" >"$stamp"
    exec 9>&-
}

[ $# -gt 0 ] || set -- train lenet_digits
if [ "$1" = test ]; then
    shift
    setup "test${JAXCNN_EXTRAS:+,$JAXCNN_EXTRAS}"
    cd "$root"
    exec "$python" -m pytest "$@"
fi
setup "${JAXCNN_EXTRAS:-}"
exec "$python" -m jaxcnn "$@"
