#!/bin/sh
# Installs what the tests of real fence agents need: the agents and an IPMI simulator from Debian's packages, a Redfish
# simulator from PyPI into the build directory. Does nothing, fast, when all is there.
set -eu
sushy_tools=2.2.0

missing=
need() { # PACKAGE FILE
    if [ ! -e "$2" ]; then missing="$missing $1"; fi
}
need fence-agents /usr/sbin/fence_ipmilan
need fence-agents /usr/sbin/fence_redfish
need ipmitool /usr/bin/ipmitool
need openipmi /usr/bin/ipmi_sim
need openssl /usr/bin/openssl
need python3-venv /usr/bin/python3
# Without it Python has the module venv, but cannot put pip into what it makes.
if ! /usr/bin/python3 -c 'import ensurepip' 2>/dev/null; then missing="$missing python3-venv"; fi
if [ -n "$missing" ]; then
    root=
    if [ "$(id -u)" -ne 0 ]; then root=sudo; fi
    command -v apt-get >/dev/null || { echo "Please install:$missing" >&2; exit 1; }
    echo "Installing:$missing"
    export DEBIAN_FRONTEND=noninteractive
    $root apt-get update -qq
    # shellcheck disable=SC2086
    $root apt-get install -y -qq --no-install-recommends $missing >/dev/null
fi

target=${CARGO_TARGET_DIR:-$(dirname "$0")/../target}
folder=$target/fence-simulators
# Written last: what was broken off is begun anew.
stamp=$folder/sushy-tools-$sushy_tools
if [ ! -e "$stamp" ] || ! "$folder/sushy/bin/sushy-emulator" --help >/dev/null 2>&1; then
    echo "Installing: sushy-tools $sushy_tools from PyPI into $folder"
    rm -rf "$folder"
    mkdir -p "$folder"
    # Debian's Python, which the fence agents use too, whatever else is first in PATH.
    /usr/bin/python3 -m venv "$folder/sushy"
    "$folder/sushy/bin/pip" install --quiet --disable-pip-version-check "sushy-tools==$sushy_tools"
    touch "$stamp"
fi
