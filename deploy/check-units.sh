#!/bin/sh
# What systemd makes of the installed units, where there is a systemd to ask: check-units.sh [ROOT]
#
# They are verified in a scratch root that holds them, the programs that they start and the distribution's targets: below a
# package's DESTDIR there are no targets, and below / there is much that is not ours.
set -eu
root=${1:-}
if ! command -v systemd-analyze >/dev/null; then
    echo "systemd-analyze is not there: the units were not checked"
    exit 0
fi
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
mkdir -p "$scratch/etc/systemd/system" "$scratch/usr/lib/systemd/system" "$scratch/usr/bin"
ln -s usr/bin "$scratch/bin"
ln -s usr/lib "$scratch/lib"
for directory in /usr/lib/systemd/system /lib/systemd/system; do
    cp -L "$directory"/*.target "$scratch/usr/lib/systemd/system/" 2>/dev/null && break
done
cp "$root"/etc/systemd/system/berth-*.service "$scratch/etc/systemd/system/"
for program in "$root"/usr/bin/berth*; do
    [ -x "$program" ] || continue
    # Only whether it is there and can be run is asked.
    : >"$scratch/usr/bin/${program##*/}"
    chmod 0755 "$scratch/usr/bin/${program##*/}"
done
: >"$scratch/usr/bin/true"
chmod 0755 "$scratch/usr/bin/true"
cd "$scratch/etc/systemd/system"
# What it only warns of, as a setting that it does not know, is a fault all the same.
said=$(systemd-analyze verify --man=no --root="$scratch" berth-*.service 2>&1) || said="$said
systemd-analyze verify failed"
if [ -n "$said" ]; then
    echo "$said" >&2
    exit 1
fi
