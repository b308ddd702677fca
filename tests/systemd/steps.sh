# The marked blocks of deploy/README.md, the network that its machines are in, and what the checks ask. Sourced after
# lib.sh.
# shellcheck shell=bash

prefix=reeve-$$
networks=()

# A block is marked by `<!-- step: NAME @PLACE -->` on the line before it.
read_steps() {
    mkdir -p "$work/steps"
    awk -v folder="$work/steps" '
        /^<!-- step: / { name = $3; place = substr($4, 2); next }
        /^```sh$/ && name { file = folder "/" name; print place > (file ".place"); next }
        /^```$/ { if (file) close(file); file = ""; name = ""; next }
        file { print > file }
    ' "$1"
    [[ $(find "$work/steps" -name '*.place' | wc -l) == "$(grep -c '^<!-- step: ' "$1")" ]] || fail "a step has no block"
}

# Carries a step out where it says, in the home folder, each line checked.
step() {
    local name=$1 place each places=()
    place=$(<"$work/steps/$name.place")
    case $place in
        alone) places=(node) ;;
        all) places=("${everybody[@]}") ;;
        control) places=("${controls[@]}") ;;
        *) IFS=, read -ra places <<<"$place" ;;
    esac
    for each in "${places[@]}"; do
        say "$name on $each"
        # Where `scp` puts what another machine sends; the text removes it when it is used up.
        if [[ -d $work/kits/$each ]]; then on "$each" ln -sfn "/srv/kits/$each" "$home/kit"; fi
        on "$each" sh -c 'cd && exec sh -eu' <"$work/steps/$name" || fail "step $name on $each"
    done
}

# The packages, installed by the text's own block into a layer that is kept as long as the block is the same.
make_packages() {
    packages=$cache/packages-$(sha256sum "$work/steps/packages" | cut -c1-16)
    exec 9>"$cache/lock"
    flock 9
    if [[ ! -d $packages ]]; then
        say "installing the packages"
        rm -rf "$packages.partial" "$packages.work"
        mkdir -p "$packages.partial" "$packages.work" "$work/image"
        mount -t overlay reeve-packages -o "lowerdir=$cache/rootfs,upperdir=$packages.partial,workdir=$packages.work" "$work/image"
        mount -t proc proc "$work/image/proc"
        printf '#!/bin/sh\nexit 101\n' >"$work/image/usr/sbin/policy-rc.d"
        chmod 755 "$work/image/usr/sbin/policy-rc.d"
        cp /etc/resolv.conf "$work/image/etc/resolv.conf"
        local status=0
        chroot "$work/image" sh -eu <"$work/steps/packages" >"$cache/packages.log" 2>&1 || status=$?
        # The text starts them where they belong.
        chroot "$work/image" systemctl disable etcd rabbitmq-server >>"$cache/packages.log" 2>&1 || status=$?
        rm -rf "$work/image/usr/sbin/policy-rc.d" "$work/image"/var/cache/apt/archives/*.deb "$work/image"/var/lib/apt/lists/*
        umount "$work/image/proc" "$work/image"
        ((status == 0)) || fail "the packages; see $cache/packages.log"
        rm -rf "$packages.work"
        mv "$packages.partial" "$packages"
    fi
    flock -u 9
}

# A network namespace with nothing in it but a bridge.
switch() {
    ip netns add "$prefix-switch"
    networks+=("$prefix-switch")
    ip -n "$prefix-switch" link add bridge type bridge
    ip -n "$prefix-switch" link set bridge up
}

# plug MACHINE ADDRESS: a network namespace with a cable to the bridge.
plug() {
    ip netns add "$prefix-$1"
    networks+=("$prefix-$1")
    ip -n "$prefix-switch" link add "to-$1" type veth peer name eth0 netns "$prefix-$1"
    ip -n "$prefix-switch" link set "to-$1" master bridge up
    ip -n "$prefix-$1" addr add "$2" dev eth0
    ip -n "$prefix-$1" link set eth0 up
    ip -n "$prefix-$1" link set lo up
}

remove_networks() {
    local each
    for each in "${networks[@]}"; do ip netns del "$each" 2>/dev/null || true; done
}

show_logs() {
    local each unit
    for each in "${controls[@]}"; do
        for unit in etcd rabbitmq-server reeve-control; do
            printf -- '---- %s on %s\n' "$unit" "$each"
            on "$each" journalctl -u "$unit" -o cat -n 15 --no-pager 2>/dev/null || true
        done
    done >&2
}

# The variables of etcdctl for a certificate in pki/.
etcdctl_of() {
    echo "cd; export ETCDCTL_API=3 ETCDCTL_ENDPOINTS=https://control-1:2379 ETCDCTL_CACERT=pki/ca.pem ETCDCTL_CERT=pki/$1.pem ETCDCTL_KEY=pki/$1.key"
}

# etcdctl on desk with control-1's certificate.
as_node() {
    local known="cd; ETCDCTL_API=3 etcdctl --endpoints https://control-1:2379 --cacert pki/ca.pem --cert kit-control-1/control-1.pem --key kit-control-1/control-1.key"
    on desk sh -c "$known $* >/dev/null 2>&1" && echo answered || echo refused
}

# shown_by HOST:PORT NAME: whether the certificate is our authority's, and good for the name.
shown_by() {
    on desk sh -c 'cd; openssl s_client -connect "$1" -CAfile pki/ca.pem -verify_hostname "$2" -verify_return_error' shown "$@" \
        </dev/null >"$work/said" 2>&1 || true
    if grep -q '^Verify return code: 0 (ok)' "$work/said"; then echo trusted; else tail -3 "$work/said"; fi
}

# The serial number of the certificate that is shown at HOST:PORT.
serial_of() {
    on desk sh -c 'cd; openssl s_client -connect "$1" -CAfile pki/ca.pem | openssl x509 -noout -serial' serial "$1" \
        </dev/null 2>/dev/null || true
}

is_renewed() {
    local now
    now=$(serial_of "$1")
    [[ $now && $now != "$2" ]]
}

has_restarted() { [[ $(property "$1" reeve-control NRestarts) == 1 && $(property "$1" reeve-control ActiveState) == active ]]; }

three_brokers() {
    [[ $(on control-1 rabbitmqctl -q cluster_status --formatter json | grep -o '"running_nodes":\[[^]]*\]' | grep -o 'rabbit@' | wc -l) == 3 ]]
}

# [ca=FILE] asks WHO NODE ARGUMENT...: the exit status of reeve on desk with that person's certificate; what it said is in $work/said.
asks() {
    local who=$1 node=$2 status=0
    shift 2
    on desk sh -c 'cd; who=$1 node=$2 ca=$3; shift 3
        exec reeve --endpoint "tls://$node:7471" --ca "$ca" --cert "people/$who.pem" --key "people/$who.key" "$@"' \
        asks "$who" "$node" "${ca:-pki/ca.pem}" "$@" >"$work/said" 2>&1 || status=$?
    echo "$status"
}

# Each of the three has shards.
three_nodes() {
    [[ $(asks anna control-1 node list -o json) == 0 ]] || return 1
    [[ $(tr -d ' \n' <"$work/said" | grep -o '"shards":[1-9]' | wc -l) == 3 ]]
}

# The text tells to put one's own cloud into the configuration.
use_simulated_cloud() {
    local each
    for each in "${controls[@]}"; do
        on "$each" sh -c 'sed -i "s|https://keystone.example:5000|http://192.0.2.4:5000|" /etc/reeve/control.toml'
    done
}
