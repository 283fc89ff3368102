#!/bin/bash
# First process of a box (see box.py): makes the box's own file system view, then becomes its systemd.
#
#   box-init.sh STATE ROOT     in fresh mount, uts, ipc, net, cgroup and pid namespaces, as root
#
# ROOT is the directory whose files the box sees: / or a tree. STATE is a directory outside. It holds `cgroups`, one
# "CONTROLLERS DIRECTORY" per line, and `console`; the box sees it as /run/outside. Nothing here outlives the mount
# namespace: the box's root is an overlay whose changes are in memory.
set -euo pipefail
state=$1
lower=$2

# Every change of the box's files goes to memory.
stage=$state/stage
mkdir -p "$stage"
mount -t tmpfs -o mode=0755 tmpfs "$stage"
mkdir "$stage/changes" "$stage/work" "$stage/root"
root=$stage/root
mount -t overlay overlay "$root" \
    -o "lowerdir=$lower,upperdir=$stage/changes,workdir=$stage/work,volatile"

# The kernel's file systems. What would act on the whole machine stays read-only.
mount -t proc -o nosuid,nodev,noexec proc "$root/proc"
for path in sys sysrq-trigger; do
    [ -e "$root/proc/$path" ] || continue
    mount --bind "$root/proc/$path" "$root/proc/$path"
    mount -o remount,bind,ro "$root/proc/$path"
done
mount -t sysfs -o ro,nosuid,nodev,noexec sysfs "$root/sys"

mount -t tmpfs -o mode=0755,nosuid tmpfs "$root/dev"
for device in null zero full random urandom tty; do
    touch "$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
mkdir "$root/dev/pts" "$root/dev/shm" "$root/dev/mqueue"
mount -t devpts -o newinstance,ptmxmode=0666,mode=0620,gid=5 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs "$root/dev/shm"
ln -s /proc/self/fd "$root/dev/fd"
ln -s fd/0 "$root/dev/stdin"
ln -s fd/1 "$root/dev/stdout"
ln -s fd/2 "$root/dev/stderr"
touch "$root/dev/console"
mount --bind "$state/console" "$root/dev/console"

mount -t tmpfs -o mode=0755,nosuid,nodev tmpfs "$root/run"
mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs "$root/tmp"
mkdir "$root/run/outside"
mount --bind "$state" "$root/run/outside"

# The cgroup namespace makes our own cgroups the roots of what is mounted here. systemd takes what it finds: the old
# hierarchies where this machine has them (limits then work), or the one new hierarchy.
if grep -q '^name=' "$state/cgroups"; then
    mount -t tmpfs -o mode=0755 tmpfs "$root/sys/fs/cgroup"
    while read -r controllers _; do
        place=$root/sys/fs/cgroup/${controllers#name=}
        mkdir "$place"
        case $controllers in
            unified) mount -t cgroup2 cgroup2 "$place" ;;
            name=*) mount -t cgroup -o "none,$controllers" cgroup "$place" ;;
            *) mount -t cgroup -o "$controllers" cgroup "$place" ;;
        esac
    done <"$state/cgroups"
else
    mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
fi

# This machine's identity, mounts and services are not the box's. (policy-rc.d may forbid packages to start services.)
hostname box
echo box >"$root/etc/hostname"
: >"$root/etc/fstab"
tr -d - </proc/sys/kernel/random/uuid >"$root/etc/machine-id.new"
rm -f "$root/etc/machine-id" "$root/usr/sbin/policy-rc.d"
mv "$root/etc/machine-id.new" "$root/etc/machine-id"
units=$root/etc/systemd/system
rm -rf "$units"/{multi-user,timers,getty,sockets,graphical,sysinit}.target.wants
mkdir -p "$units"
for unit in systemd-{timesyncd,udevd,udev-trigger,pstore,networkd,resolved,firstboot,networkd-wait-online,logind}.service \
    systemd-udevd-{control,kernel}.socket getty.target networking.service ifupdown-pre.service; do
    ln -sf /dev/null "$units/$unit"
done

cd "$root"
pivot_root . .
umount -l .
cd /
# Mount propagation below a service's own namespace is a container manager's duty.
mount --make-rshared /
exec env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin container=box \
    setpriv --bounding-set=-sys_time,-sys_module,-sys_rawio,-syslog,-audit_control,-mac_admin,-mac_override,-wake_alarm,-block_suspend \
    /lib/systemd/systemd --system --unit=multi-user.target --show-status=0 --log-target=journal-or-kmsg
