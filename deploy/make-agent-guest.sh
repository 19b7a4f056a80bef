#!/bin/sh
# Makes a small Linux guest with a QEMU guest agent for the tests: a kernel, busybox and qemu-ga from Debian's packages, which
# are unpacked into the build directory and not installed. Does nothing, fast, when it is there.
set -eu
source=$(cd "$(dirname "$0")/.." && pwd)
target=${CARGO_TARGET_DIR:-$source/target}
folder=$target/agent-guest
init=$source/tests/guest/init.sh
# Written last: what was broken off is begun anew.
if [ -e "$folder/initrd.gz" ] && [ "$folder/initrd.gz" -nt "$init" ]; then
    exit 0
fi
command -v apt-get >/dev/null || { echo "the guest is made of Debian's packages" >&2; exit 1; }
echo "Making: a guest with a guest agent in $folder"
rm -rf "$folder"
mkdir -p "$folder/root/bin" "$folder/root/sbin" "$folder/root/modules"
cd "$folder"
for directory in proc sys dev tmp; do
    mkdir "root/$directory"
done
fetch() {
    kernel=$(apt-cache depends linux-image-cloud-amd64 2>/dev/null | sed -n 's/.*Depends: \(linux-image-.*\)/\1/p' | head -n 1)
    [ -n "$kernel" ] && apt-get -o APT::Sandbox::User=root download -qq "$kernel" busybox-static qemu-guest-agent
}
# What apt knows may be of long ago, or nothing.
fetch || { if [ "$(id -u)" -eq 0 ]; then apt-get update -qq; else sudo apt-get update -qq; fi; fetch; }
for package in ./*.deb; do
    dpkg-deb --extract "$package" unpacked
done
cp unpacked/boot/vmlinuz-* vmlinuz
cp unpacked/bin/busybox root/bin/
cp unpacked/usr/sbin/qemu-ga root/sbin/
for driver in virtio/virtio virtio/virtio_ring virtio/virtio_pci virtio/virtio_pci_legacy_dev virtio/virtio_pci_modern_dev char/virtio_console; do
    cp unpacked/lib/modules/*/kernel/drivers/$driver.ko root/modules/
done
# Its libraries are this machine's.
libraries=$(ldd root/sbin/qemu-ga)
case $libraries in *"not found"*) echo "qemu-ga lacks libraries: $libraries" >&2; exit 1 ;; esac
for library in $(echo "$libraries" | grep -o '/lib[^ ]*'); do
    mkdir -p "root$(dirname "$library")"
    cp -L "$library" "root$library"
done
cp "$init" root/init
chmod +x root/init
(cd root && find . | ../unpacked/bin/busybox cpio -o -H newc 2>/dev/null | gzip) > initrd.tmp
rm -rf unpacked root ./*.deb
mv initrd.tmp initrd.gz
