# The first process of a lab host, in namespaces of its own. $1 = the host's directory, $2 = its name, $3 = its address.
set -e
directory=$1
hostname "$2"
mount --make-rprivate /
for place in run etc/libvirt var/lib/libvirt var/log/libvirt var/cache/libvirt; do
    mkdir -p "/$place"
    mount --bind "$directory/$place" "/$place"
done
mount --bind "$directory/boot_id" /proc/sys/kernel/random/boot_id
if [ -e /proc/sysrq-trigger ]; then mount --bind /dev/null /proc/sysrq-trigger; fi
libvirtd --listen > "$directory/libvirtd.log" 2>&1 &
# Until the power is cut: reaps what is left to it.
while :; do
    sleep 1000000 &
    wait $!
done
