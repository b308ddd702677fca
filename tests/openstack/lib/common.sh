# What `up` and `down` share: the settings, and processes that are known by files under STATE. Sourced.
#
#   start NAME ──► STATE/run/NAME: "process-id birth"  ──stop──► TERM to its session, KILL after GRACE seconds
#
# A process leads a session of its own, so that what it starts goes with it, and carries REEVE_OPENSTACK=STATE in its
# environment, so that what outlives its leader is found. The birth tells a process from a later one with the same id.
# shellcheck shell=bash

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
repository=$(cd "$here/../.." && pwd)
# What is made once for all states.
cache=${CARGO_TARGET_DIR:-$repository/target}/openstack
STATE=$(realpath -m "${STATE:-${TMPDIR:-/tmp}/reeve-openstack}")
: "${COMPUTES:=compute1,compute2}" "${NEUTRON:=stub}" "${CINDER:=0}"
: "${DRIVER:=reeve_fake.Driver}" "${VIRT_TYPE:=qemu}" "${SKIP_INSTALL:=0}" "${GRACE:=5}"
export STATE COMPUTES NEUTRON CINDER DRIVER VIRT_TYPE

# Neither another Python nor a proxy stands between the services.
unset PYTHONPATH PYTHONHOME http_proxy https_proxy all_proxy HTTP_PROXY HTTPS_PROXY ALL_PROXY
export no_proxy=127.0.0.1,localhost LC_ALL=C.UTF-8
# What Python keeps of its own, in the state alone.
export PYTHONDONTWRITEBYTECODE=1 XDG_CACHE_HOME=$STATE/tmp/cache
umask 022
began=$(date +%s%N)

say() { printf '[%5d ms] %s\n' $((($(date +%s%N) - began) / 1000000)) "$*"; }
fail() {
    printf 'tests/openstack: %s\n' "$*" >&2
    exit 1
}
# Debian's, whatever stands first in PATH: its packages are the services.
python() { /usr/bin/python3 "$@"; }
is_libvirt() { [[ $DRIVER == libvirt.* ]]; }

# What cannot change for a state that is there.
settings() {
    printf '%s\n' "COMPUTES=$COMPUTES" "NEUTRON=$NEUTRON" "CINDER=$CINDER" "DRIVER=$DRIVER" "VIRT_TYPE=$VIRT_TYPE"
}

# One at a time; the kernel gives the lock back when its holder is gone.
take_state() {
    exec 9>"$STATE/held"
    flock -n 9 || fail "another up or down is at work on $STATE"
}

# birth PROCESS: when it began, in ticks; fails for one that is gone, and for one that is only not yet reaped.
birth() {
    local stat
    { stat=$(<"/proc/$1/stat"); } 2>/dev/null || return 1
    # The name in brackets may hold anything: the fields are counted from behind it.
    read -ra stat <<<"${stat##*) }"
    [[ ${stat[0]} != Z && ${stat[0]} != X ]] && echo "${stat[19]}"
}

is_alive() {
    local process born
    [[ -s $STATE/run/$1 ]] && read -r process born <"$STATE/run/$1" && [[ $(birth "$process") == "$born" ]]
}

services() { if [[ -d $STATE/run ]]; then find "$STATE/run" -maxdepth 1 -type f -printf '%f\n' | sort; fi; }
dead() {
    local name
    for name in $(services); do is_alive "$name" || echo "$name"; done
}
all_alive() { [[ -n $(services) && -z $(dead) ]]; }

# start NAME COMMAND...: in the background, unless it runs already.
start() {
    local name=$1 process born
    shift
    if is_alive "$name"; then return; fi
    # Whose leader was killed from outside.
    if [[ -s $STATE/run/$name ]]; then kill_marked "$(cut -d' ' -f1 "$STATE/run/$name")"; fi
    # Its own session; without the lock of this script.
    REEVE_OPENSTACK=$STATE setsid "$@" >>"$STATE/log/$name.log" 2>&1 9>&- </dev/null &
    process=$!
    born=$(birth "$process") || fail "$name ended at once; see $STATE/log/$name.log"
    echo "$process $born" >"$STATE/run/$name"
}

# begin NAME COMMAND...: a step that ends by itself, reaped by `finish NAME`.
declare -A steps=()
begin() {
    local name=$1
    shift
    if [[ $1 == python ]]; then set -- /usr/bin/python3 "${@:2}"; fi
    start "step-$name" "$@"
    steps[$name]=$!
}
finish() {
    local status=0
    # Unlike a foreground command, `wait` lets a signal through at once.
    wait "${steps[$1]}" || status=$?
    if ((status != 0)); then
        tail -n 20 "$STATE/log/step-$1.log" >&2
        fail "$1 failed with status $status; see $STATE/log/step-$1.log"
    fi
    rm -f "$STATE/run/step-$1"
}
run() {
    begin "$@"
    finish "$1"
}

listens() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# await NAME SECONDS COMMAND...: until the command succeeds, or the service NAME is gone.
await() {
    local name=$1 end=$((SECONDS + $2))
    shift 2
    until "$@"; do
        is_alive "$name" || fail "$name has ended; see $STATE/log/$name.log"
        ((SECONDS < end)) || fail "$name is not there in time; see $STATE/log/$name.log"
        sleep 0.1
    done
}

stop() {
    local process i
    if is_alive "$1"; then
        read -r process _ <"$STATE/run/$1"
        kill -TERM -- "-$process" 2>/dev/null || true
        for ((i = 0; i < GRACE * 10; i++)); do
            is_alive "$1" || break
            sleep 0.1
        done
        if is_alive "$1"; then kill -KILL -- "-$process" 2>/dev/null || true; fi
    fi
    rm -f "$STATE/run/$1"
}

stop_all() {
    local name others=()
    rm -f "$STATE/env"
    stop_guests
    for name in $(services); do
        case $name in
            broker | database | epmd | ports) ;;
            *) others+=("$name") ;;
        esac
    done
    stop_together "${others[@]}"
    # What the others write to goes after them.
    stop_together broker database
    stop epmd
    kill_marked
    release_loops
    remove_bridge
    stop ports
}
stop_together() {
    local name stopping=()
    for name in "$@"; do
        stop "$name" &
        stopping+=($!)
    done
    # Not all jobs: services are jobs of the shell that started them.
    if ((${#stopping[@]})); then wait "${stopping[@]}" || true; fi
}

# kill_marked [SESSION]: whatever carries the mark, of one session or of any, but for the holder of the ports.
kill_marked() {
    local each process stat
    for each in /proc/[0-9]*; do
        process=${each#/proc/}
        grep -qzFx "REEVE_OPENSTACK=$STATE" "$each/environ" 2>/dev/null || continue
        { stat=$(<"$each/stat"); } 2>/dev/null || continue
        read -ra stat <<<"${stat##*) }"
        if [[ $# -gt 0 && ${stat[3]} != "$1" ]] || [[ "$process ${stat[19]}" == "$(cat "$STATE/run/ports" 2>/dev/null)" ]]; then
            continue
        fi
        kill -KILL "$process" 2>/dev/null || true
    done
}

# Guests of libvirt are no children of ours and carry no mark: QEMU's own process files tell them.
stop_guests() {
    local file process
    for file in "$STATE"/libvirt/*/run/qemu/*.pid; do
        [[ -s $file ]] || continue
        process=$(<"$file")
        # That file is as old as the guest; the command line tells whether the process is.
        if grep -qzF "$STATE/" "/proc/$process/cmdline" 2>/dev/null; then kill -KILL "$process" 2>/dev/null || true; fi
        rm -f "$file"
    done
}

release_loops() {
    local device file
    command -v losetup >/dev/null || return 0
    while read -r device file; do
        if [[ $file == "$STATE"/* ]]; then losetup -d "$device" || true; fi
    done < <(losetup -n -O NAME,BACK-FILE 2>/dev/null || true)
}

remove_bridge() {
    local bridge link
    [[ -s $STATE/bridge ]] || return 0
    bridge=$(<"$STATE/bridge")
    for link in "/sys/class/net/$bridge/brif"/*; do
        if [[ -e $link ]]; then ip link delete "${link##*/}" 2>/dev/null || true; fi
    done
    ip link delete "$bridge" 2>/dev/null || true
    rm -f "$STATE/bridge"
}
