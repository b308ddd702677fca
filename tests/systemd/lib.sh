# Machines of systemd's own making, for the tests beside this file: a minimal Debian 12 that is made once and kept, a layer
# over it for each machine, and systemd as its process 1, started by systemd-nspawn. Sourced, by root.
#
#   cache/rootfs ──overlay──► machine NAME: layer, tree ──systemd-nspawn──► process 1, reached by `on NAME COMMAND`
#
# Every process that is started here is ended by `clean_up`, by its id; layers and mounts go with it.
# shellcheck shell=bash

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cache=${REEVE_ROOTFS:-${CARGO_TARGET_DIR:-$repository/target}/systemd}
suite=bookworm
machines=()
# The home folder of the machines' administrator.
home=/root

say() { printf '== %s\n' "$*"; }
fail() {
    printf '\nFAILED: %s\n' "$*" >&2
    exit 1
}
# same WHAT EXPECTED FOUND
same() {
    [[ $2 == "$3" ]] || fail "$1: expected $2, found $3"
    printf 'ok: %s: %s\n' "$1" "$3"
}

# until_true SECONDS WHAT COMMAND...
until_true() {
    local end=$((SECONDS + $1)) what=$2
    shift 2
    until "$@"; do
        ((SECONDS < end)) || fail "not in time: $what"
        sleep 0.2
    done
}

need_root() { [[ $EUID -eq 0 ]] || fail "machines can be started by root alone"; }

need_packages() {
    local missing=()
    command -v debootstrap >/dev/null || missing+=(debootstrap)
    command -v systemd-nspawn >/dev/null || missing+=(systemd-container)
    command -v ip >/dev/null || missing+=(iproute2)
    [[ ${#missing[@]} -eq 0 ]] && return
    command -v apt-get >/dev/null || fail "install these, there is no apt-get: ${missing[*]}"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"
}

# Makes the file system that all machines are layered over, if it is not there: about a minute, 280 MB.
make_rootfs() {
    mkdir -p "$cache"
    exec 9>"$cache/lock"
    flock 9
    if [[ ! -d $cache/rootfs ]]; then
        say "making $cache/rootfs"
        rm -rf "$cache/rootfs.partial"
        debootstrap --variant=minbase --include=systemd,systemd-sysv,dbus,udev,iproute2,procps "$suite" \
            "$cache/rootfs.partial" >"$cache/debootstrap.log" 2>&1 || fail "debootstrap; see $cache/debootstrap.log"
        mv "$cache/rootfs.partial" "$cache/rootfs"
    fi
    flock -u 9
}

# Makes a machine's own layer: machine NAME [LOWER]. Its files are then in $work/NAME/tree, for files to be put there.
machine() {
    local name=$1 lower=${2:-$cache/rootfs}
    mkdir -p "$work/$name/layer" "$work/$name/work" "$work/$name/tree"
    mount -t overlay "reeve-$name" -o "lowerdir=$lower,upperdir=$work/$name/layer,workdir=$work/$name/work" \
        "$work/$name/tree"
    machines+=("$name")
    # nspawn makes one for each machine.
    : >"$work/$name/tree/etc/machine-id"
    echo "$name" >"$work/$name/tree/etc/hostname"
    # Nothing that only a machine of flesh needs.
    ln -sf /dev/null "$work/$name/tree/etc/systemd/system/systemd-udevd.service"
}

# Boots a machine and waits until it runs: boot NAME [OPTION OF SYSTEMD-NSPAWN...]
boot() {
    local name=$1 began=$SECONDS
    shift
    (
        # A cgroup of its own in every hierarchy, or systemd inside would take those of this machine for its own.
        for hierarchy in unified systemd memory pids cpu; do
            [[ -d /sys/fs/cgroup/$hierarchy ]] || continue
            mkdir -p "/sys/fs/cgroup/$hierarchy/reeve-$$-$name"
            echo "$BASHPID" >"/sys/fs/cgroup/$hierarchy/reeve-$$-$name/cgroup.procs"
        done
        export SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1
        # It powers the machine off when this script ends, however that ends.
        exec setpriv --pdeathsig TERM systemd-nspawn -q -D "$work/$name/tree" --boot --register=no --keep-unit --machine="$name" --link-journal=no \
            --resolv-conf=off --timezone=off "$@" >"$work/$name/console" 2>&1 </dev/null
    ) &
    echo $! >"$work/$name/nspawn"
    until_true 60 "$name starts" is_leader_there "$name"
    until_true 90 "$name runs; see $work/$name/console" is_running "$name"
    say "$name runs after $((SECONDS - began)) s: systemd $(on "$name" systemctl --version | sed -n '1s/[^0-9]*\([0-9]*\).*/\1/p')"
}

is_leader_there() {
    local nspawn leader
    nspawn=$(<"$work/$1/nspawn")
    kill -0 "$nspawn" 2>/dev/null || fail "systemd-nspawn of $1 ended: $(tail -5 "$work/$1/console")"
    leader=$(pgrep -P "$nspawn" | head -1) || return 1
    # Process 1 of a process namespace of its own, with systemd's name.
    [[ $(<"/proc/$leader/comm") == systemd ]] 2>/dev/null || return 1
    echo "$leader" >"$work/$1/leader"
}

is_running() {
    local state
    state=$(on "$1" systemctl is-system-running 2>/dev/null) || true
    [[ $state == running || $state == degraded ]]
}

# on NAME COMMAND...: runs it in the machine.
on() {
    local leader
    leader=$(<"$work/$1/leader")
    shift
    nsenter -t "$leader" -m -p -u -i -n -C -- /usr/bin/env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
        HOME="$home" LANG=C.UTF-8 "$@"
}

# property NAME UNIT PROPERTY
property() { on "$1" systemctl show -P "$3" "$2"; }

halt_machine() {
    local name=$1 nspawn
    nspawn=$(cat "$work/$name/nspawn" 2>/dev/null) || return 0
    # Orderly, then not.
    kill -TERM "$nspawn" 2>/dev/null || return 0
    for _ in {1..150}; do
        kill -0 "$nspawn" 2>/dev/null || break
        sleep 0.1
    done
    kill -KILL "$(cat "$work/$name/leader" 2>/dev/null)" "$nspawn" 2>/dev/null || true
    wait "$nspawn" 2>/dev/null || true
    rm -f "$work/$name/nspawn"
}

clean_up() {
    set +e
    local name hierarchy
    for name in "${machines[@]}"; do halt_machine "$name"; done
    for name in "${machines[@]}"; do
        umount -l "$work/$name/tree" 2>/dev/null || true
        for hierarchy in unified systemd memory pids cpu; do
            find "/sys/fs/cgroup/$hierarchy/reeve-$$-$name" -depth -type d -exec rmdir {} + 2>/dev/null || true
        done
    done
    rm -rf "$work"
}

# Puts what the text expects into a machine's home folder.
give_reeve() {
    local folder=$work/$1/tree$home/reeve
    install -D -m 0755 "$binary" "$folder/reeve"
    cp -r "$repository/deploy" "$folder/deploy"
}
