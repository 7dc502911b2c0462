#!/bin/sh
# Become a systemd that can change nothing outside; called by machine.py as the first process of new namespaces.
#
#     sh machine.sh enter DIRECTORY      prints its PID as it is outside
#
# DIRECTORY holds `cgroups`, a line "type options mount-point own-directory" for each hierarchy, and `shared`, a line for
# each directory that stays the same, and writable, inside and outside.
set -eu
umask 022

step=$1
directory=$2
work=/mnt # a place for what is moved: any directory that each machine has

enter() {
    read -r pid _ </proc/self/stat # the /proc from outside: this one's number there
    echo "$pid"
    while read -r _ _ _ own; do
        echo 0 >"$own/cgroup.procs"
    done <"$directory/cgroups"
    exec unshare --cgroup sh "$0" build "$directory"
}

# Fresh mounts show as their root what this process was put into.
cgroups() {
    mkdir "$work/cgroup"
    if [ "$(stat -f -c %T /sys/fs/cgroup)" = cgroup2fs ]; then
        mount -t cgroup2 cgroup2 "$work/cgroup"
    else
        mount -t tmpfs -o mode=755 tmpfs "$work/cgroup"
        find /sys/fs/cgroup -maxdepth 1 -type l -exec cp -P {} "$work/cgroup" \;
        while read -r type options point _; do
            mkdir "$work/cgroup/${point##*/}"
            mount -t "$type" -o "$options" "$type" "$work/cgroup/${point##*/}"
        done <"$directory/cgroups"
        mount -o remount,ro "$work/cgroup" # or systemd mounts the other controllers, for the whole machine
    fi
    mount --move "$work/cgroup" /sys/fs/cgroup
}

# Neither the console nor the kernel's log, and /dev/log is a link of its own.
devices() {
    mkdir "$work/dev"
    mount -t tmpfs -o mode=755 tmpfs "$work/dev"
    for name in null zero full random urandom tty; do
        : >"$work/dev/$name"
        mount --bind "/dev/$name" "$work/dev/$name"
    done
    mkdir "$work/dev/shm" "$work/dev/pts" "$work/dev/mqueue"
    mount -t tmpfs -o mode=1777 tmpfs "$work/dev/shm"
    mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts "$work/dev/pts"
    mount -t mqueue mqueue "$work/dev/mqueue"
    ln -s pts/ptmx "$work/dev/ptmx"
    ln -s /proc/self/fd "$work/dev/fd"
    ln -s fd/0 "$work/dev/stdin"
    ln -s fd/1 "$work/dev/stdout"
    ln -s fd/2 "$work/dev/stderr"
    mount --move "$work/dev" /dev
}

# What is written there goes into memory, and away with it.
overlay() {
    mkdir -p "$work/upper$1" "$work/work$1"
    mount -t overlay -o "lowerdir=$1,upperdir=$work/upper$1,workdir=$work/work$1" overlay "$1"
}

# The units that are installed are there; none starts by itself, and no setting of this machine's administrator holds.
units() {
    overlay /usr/lib/systemd
    rm -rf /usr/lib/systemd/system/*.wants /usr/lib/systemd/system/*.requires /usr/lib/systemd/system-*generators
    for place in /usr/local/lib/systemd /etc/systemd; do
        [ ! -d "$place" ] || mount -t tmpfs -o mode=755 tmpfs "$place"
    done
    mkdir -p /etc/systemd/system /run/systemd/system/sockets.target.wants /run/systemd/journald.conf.d
    for name in systemd-journald.socket systemd-journald-dev-log.socket dbus.socket; do
        [ ! -e "/usr/lib/systemd/system/$name" ] || ln -s "/usr/lib/systemd/system/$name" /run/systemd/system/sockets.target.wants
    done
    printf '[Journal]\nStorage=volatile\nReadKMsg=no\nAudit=no\n' >/run/systemd/journald.conf.d/50-ansai.conf
}

build() {
    mount --bind "$directory" "$directory" # a file that is written keeps / from becoming read-only
    exec </dev/null >"$directory/log" 2>&1
    mount -t tmpfs -o mode=755 tmpfs "$work"
    cgroups
    mkdir "$work/shared"
    number=0
    while read -r path; do
        number=$((number + 1))
        mkdir "$work/shared/$number"
        mount --rbind "$path" "$work/shared/$number"
    done <"$directory/shared"
    exec 3<"$directory/shared" # /tmp goes away
    devices
    overlay /etc
    overlay /var
    mount -t tmpfs -o mode=755 tmpfs /run
    mount -t tmpfs -o mode=1777 tmpfs /tmp
    mkdir -p /run/lock
    units
    mount -o remount,bind,ro /
    number=0
    while read -r path <&3; do
        number=$((number + 1))
        mkdir -p "$path"
        mount --move "$work/shared/$number" "$path"
    done
    exec 3<&-
    umount -R "$work"
    mount -t proc proc /proc
    mount --bind /proc/sys /proc/sys
    mount -o remount,bind,ro /proc/sys # systemd raises limits of the whole kernel when it can
    mount -o remount,bind,ro /sys
    cd /
    exec env -i container=other PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 \
        /lib/systemd/systemd --system --unit=basic.target --show-status=no --log-target=journal
}

"$step"
