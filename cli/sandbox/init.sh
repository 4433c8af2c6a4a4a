#!/bin/sh
# First process of a test guest: fills memory with data it can check, then counts aloud for ever.
#
# Everything that proves a restore lives in guest memory only: the number of the counter, the data, its checksums.
# Parameters (kernel command line): fleetsave.fill=MIB of memory to fill; fleetsave.modules=1 to load drivers;
# fleetsave.disk=1 to write the counter to the first disk as well.

/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sysfs /sys
/bin/busybox mount -t devtmpfs devtmpfs /dev
/bin/busybox --install -s /bin
exec </dev/ttyS0 >/dev/ttyS0 2>&1

fill=0 modules=0 disk=0
for word in $(cat /proc/cmdline); do
    case $word in
    fleetsave.fill=*) fill=${word#*=} ;;
    fleetsave.modules=*) modules=${word#*=} ;;
    fleetsave.disk=*) disk=${word#*=} ;;
    esac
done

if [ "$modules" = 1 ]; then
    for module in /modules/*; do insmod "$module"; done
fi

# Random data once (a seed of at most 8 MiB: the generator is slow under emulation), then copies of it.
mount -t tmpfs -o size=100% tmpfs /memory
seed=$fill
[ "$seed" -gt 8 ] && seed=8
parts=0
[ "$fill" -gt 0 ] && dd if=/dev/urandom of=/memory/0 bs=1M count="$seed" 2>/dev/null && parts=1
filled=$seed
while [ "$filled" -lt "$fill" ]; do
    part=$((fill - filled))
    [ "$part" -gt "$seed" ] && part=$seed
    dd if=/memory/0 of=/memory/$parts bs=1M count="$part" 2>/dev/null
    filled=$((filled + part))
    parts=$((parts + 1))
done

checksum_of() { # PART MIB: checksum of one MiB of one part
    dd if="/memory/$1" bs=1M skip="$2" count=1 2>/dev/null | md5sum
}

# One slice of each part is looked at in turn: every copy has to keep the checksum the seed had at boot. The parts
# are not summed here once more: an emulated CPU takes a second for 10 MiB.
slice=0 all=
while [ "$slice" -lt "$seed" ]; do
    sum=$(checksum_of 0 "$slice")
    eval "slice_$slice=\$sum"
    all="$all$sum"
    slice=$((slice + 1))
done
set -- $(echo "$all" | md5sum)
echo "memory $1"

counter=0 part=0 slice=0
while :; do
    counter=$((counter + 1))
    echo "counter $counter"
    if [ "$disk" = 1 ]; then
        echo "counter $counter" | dd of=/dev/vda bs=512 conv=notrunc,fsync,sync 2>/dev/null
    fi
    if [ $((counter % 25)) = 0 ] && [ "$parts" -gt 0 ]; then
        # The last copy may be shorter than the seed.
        place=$slice
        [ "$(stat -c %s "/memory/$part")" -gt $((place * 1048576)) ] || place=0
        eval "expected=\$slice_$place"
        if [ "$(checksum_of "$part" "$place")" = "$expected" ]; then echo "memory ok"; else echo "memory BAD"; fi
        part=$(((part + 1) % parts))
        [ "$part" = 0 ] && slice=$(((slice + 1) % seed))
    fi
    sleep 0.2
done
