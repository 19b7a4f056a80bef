#!/bin/busybox sh
# The whole of a guest that has a guest agent: Debian's kernel and busybox, and qemu-ga. After as many seconds as the kernel's
# command line says (`agent_lives=N`) its agent stands still, as one does whose guest hangs.
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for module in virtio_ring virtio virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci virtio_console; do
    insmod "/modules/$module.ko"
done
until name=$(grep -lx org.qemu.guest_agent.0 /sys/class/virtio-ports/*/name 2>/dev/null); do
    sleep 0.1
done
port=/dev/$(basename "$(dirname "$name")")
lives=$(sed -n 's/.*agent_lives=\([0-9]*\).*/\1/p' /proc/cmdline)
qemu-ga --method=virtio-serial --path="$port" --statedir=/tmp &
if [ -n "$lives" ]; then
    sleep "$lives"
    kill -STOP $!
fi
while :; do
    sleep 1000
done
