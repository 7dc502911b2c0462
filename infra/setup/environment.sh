#!/bin/sh
# Bring .venv to what requirements/<set>.txt pins, with this project in it; do nothing when it is there already.
#
#     sh infra/setup/environment.sh run|dev        (from the top folder; make calls it so)
#
# PYTHON names the interpreter to use, by default the first that is new enough. Pip's own settings and PIP_… variables
# hold, so that PIP_NO_INDEX=1 PIP_FIND_LINKS=DIRECTORY installs from a folder of wheels, without a network.
set -eu

environment=.venv
wanted=$1

fail() {
    printf 'ansai: %s\n' "$1" >&2
    exit 1
}

new_enough() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

choose_python() {
    if [ -n "${PYTHON:-}" ]; then
        set -- "$PYTHON"
    else
        set -- python3 python3.14 python3.13 python3.12 python3.11
    fi
    for candidate in "$@"; do
        if new_enough "$candidate"; then
            printf '%s\n' "$candidate"
            return
        fi
    done
    if seen=$("$1" -V 2>/dev/null); then
        fail "$1 is $seen, too old: 3.11 or newer is needed; name one with PYTHON=python3.11, or: apt-get install python3.11-venv"
    fi
    fail "there is no $1; install it with: apt-get install python3-venv"
}

create() {
    python=$(choose_python)
    if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        fail "$python can't make virtual environments (no ensurepip); install it with: apt-get install ${python##*/}-venv"
    fi
    if [ -e "$environment" ] && [ ! -e "$environment/pyvenv.cfg" ]; then
        fail "$environment is in the way and is no virtual environment; move it elsewhere"
    fi
    "$python" -m venv --clear "$environment" || fail "could not make $environment with $python: see above"
}

# The scripts of an environment hold its absolute path: one that was moved or copied is made anew.
usable() {
    new_enough "$environment/bin/python" && "$environment/bin/python" -c 'import pip' 2>/dev/null &&
        { [ ! -e "$environment/place" ] || [ "$(cat "$environment/place")" = "$(pwd -P)" ]; }
}

fingerprint() {
    { pwd -P && "$environment/bin/python" -V && cat "requirements/$1.txt" pyproject.toml infra/setup/environment.sh; } | sha256sum
}

installed() {
    [ -e "$environment/installed-$1" ] && [ "$(cat "$environment/installed-$1")" = "$(fingerprint "$1" 2>/dev/null)" ]
}

pip() {
    "$environment/bin/python" -m pip install --quiet --quiet --disable-pip-version-check "$@"
}

if installed "$wanted"; then
    exit 0
fi
usable || create
rm -f "$environment/installed-run" "$environment/installed-dev"
pwd -P >"$environment/place"
printf 'Installing requirements/%s.txt into %s (only when it changed) …\n' "$wanted" "$environment"
pip --require-hashes -r "requirements/$wanted.txt" ||
    fail "could not install requirements/$wanted.txt: see above; without a network set PIP_NO_INDEX=1 and PIP_FIND_LINKS to a folder of wheels"
# Without isolation setuptools is the one just installed, pinned by its hash; with it pip would fetch any newer one, and a
# folder of wheels would not do. The dependencies are all there.
pip --no-deps --no-build-isolation --editable . || fail "could not install the project itself: see above"
fingerprint "$wanted" >"$environment/installed-$wanted"
# What dev.txt pins holds all of run.txt in the same versions: tests/test_packaging.py sees to it.
if [ "$wanted" = dev ]; then
    fingerprint run >"$environment/installed-run"
fi
