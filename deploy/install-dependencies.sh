#!/bin/sh
# Installs what building and testing Berth needs beside the Rust toolchain, from Debian's packages. Does nothing, fast,
# when all is there. `build` installs what compiling needs only.
set -eu
what=${1:-all}

missing=
need() { # PACKAGE FILE
    if [ ! -e "$2" ]; then missing="$missing $1"; fi
}
library=$(cc -dumpmachine 2>/dev/null || echo x86_64-linux-gnu)
need gcc /usr/bin/cc
need pkg-config /usr/bin/pkg-config
need libvirt-dev /usr/include/libvirt/libvirt.h
if [ "$what" = all ]; then
    need libvirt-daemon-system /etc/libvirt/qemu.conf
    need libvirt-daemon /usr/sbin/libvirtd
    need libvirt-daemon-driver-qemu "/usr/lib/$library/libvirt/connection-driver/libvirt_driver_qemu.so"
    need libvirt-clients /usr/bin/virsh
    need qemu-system-x86 /usr/bin/qemu-system-x86_64
    need iproute2 /sbin/ip
    need procps /usr/bin/pkill
    need hostname /bin/hostname
    need util-linux /usr/bin/unshare
    need binutils /usr/bin/as
fi
[ -n "$missing" ] || exit 0

root=
if [ "$(id -u)" -ne 0 ]; then root=sudo; fi
command -v apt-get >/dev/null || { echo "Please install:$missing" >&2; exit 1; }
# A newer qemu-utils from backports keeps bookworm's qemu-system-x86 out; its own version goes with it.
case "$missing" in
*qemu-system-x86*)
    if [ -x /usr/bin/qemu-img ] && grep -q bookworm /etc/os-release; then missing="$missing qemu-utils/bookworm"; fi ;;
esac
echo "Installing:$missing"
export DEBIAN_FRONTEND=noninteractive
$root apt-get update -qq
# shellcheck disable=SC2086
$root apt-get install -y -qq --no-install-recommends --allow-downgrades $missing >/dev/null
