# How each service is started. Sourced.
#
#   ports ─► epmd ─► broker ┐
#            database ──────┼► keystone ─► identities ─► nova-conductor, -scheduler, neutron, cinder ─► nova-compute-HOST
#                           └► placement, glance, nova-api                                  libvirt-HOST ─┘
#
# shellcheck shell=bash disable=SC2154

# service NAME MODULE OPTION...: the main function of a service.
service() {
    local name=$1
    shift
    start "$name" /usr/bin/python3 "$here/lib/launch.py" "${name%%@*}" "$@"
}

# They stay reserved for as long as the holder lives, and are the same at the next start: addresses are in the database.
hold_ports() {
    if ! is_alive ports; then
        start ports /usr/bin/python3 "$here/lib/ports.py" "$STATE/ports"
        await ports 10 test -s "$STATE/ports.held"
        rm -f "$STATE/ports.held"
    fi
    set -a
    # shellcheck disable=SC1091
    . "$STATE/ports"
    set +a
}

start_broker() {
    export ERL_EPMD_PORT=$EPMD_PORT ERL_EPMD_ADDRESS=127.0.0.1
    start epmd "$(compgen -G '/usr/lib/erlang/erts-*/bin/epmd' | head -n 1)" -address 127.0.0.1 -port "$EPMD_PORT"
    await epmd 10 listens "$EPMD_PORT"
    start broker env HOME="$STATE/rabbitmq" RABBITMQ_NODENAME=reeve@localhost \
        RABBITMQ_CONFIG_FILE="$STATE/etc/rabbitmq.conf" RABBITMQ_ENABLED_PLUGINS_FILE="$STATE/etc/rabbitmq.plugins" \
        RABBITMQ_CONF_ENV_FILE=/dev/null RABBITMQ_MNESIA_BASE="$STATE/rabbitmq/mnesia" RABBITMQ_LOG_BASE="$STATE/log" \
        RABBITMQ_DIST_PORT="$DISTRIBUTION_PORT" \
        RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS="-kernel inet_dist_use_interface {127,0,0,1} +sbwt none +sbwtdcpu none +sbwtdio none" \
        /usr/lib/rabbitmq/bin/rabbitmq-server
}

start_database() {
    if [[ ! -d $STATE/database/mysql ]]; then
        run database-files mariadb-install-db --no-defaults --user=root --datadir="$STATE/database" \
            --auth-root-authentication-method=normal --skip-test-db
    fi
    # What a crash of the machine would lose is made again in seconds: nothing is flushed.
    start database mariadbd --no-defaults --user=root --datadir="$STATE/database" --socket="$STATE/database.socket" \
        --pid-file="$STATE/tmp/database.pid" --bind-address=127.0.0.1 --port="$DATABASE_PORT" --tmpdir="$STATE/tmp" \
        --skip-log-bin --skip-name-resolve --performance-schema=off --max-connections=500 \
        --innodb-flush-log-at-trx-commit=0 --innodb-doublewrite=0 --innodb-flush-method=nosync \
        --innodb-buffer-pool-size=96M --innodb-log-file-size=32M
}
database() { mariadb --no-defaults -uroot -S "$STATE/database.socket"; }
database_answers() { database <<<'select 1' >/dev/null 2>&1; }

fill_databases() {
    local name names=(keystone glance placement nova nova_api nova_cell0 neutron cinder)
    {
        # Half of them may be there, of a start that was broken off.
        for name in "${names[@]}"; do
            echo "drop database if exists $name; create database $name character set utf8mb3;"
        done
        echo "create user if not exists 'openstack'@'127.0.0.1' identified by 'openstack';"
        echo "grant all on *.* to 'openstack'@'127.0.0.1';"
    } | database
    names=(keystone nova glance)
    if [[ $NEUTRON == real ]]; then names+=(neutron); fi
    if [[ $CINDER == 1 ]]; then names+=(cinder); fi
    for name in "${names[@]}"; do begin "tables-$name" python "$here/lib/tables.py" "$name"; done
    for name in "${names[@]}"; do finish "tables-$name"; done
}

start_keystone() {
    start keystone env OS_KEYSTONE_CONFIG_FILES="$STATE/etc/keystone.conf" \
        /usr/bin/python3 "$here/lib/wsgi.py" keystone.server.wsgi:initialize_public_application "$KEYSTONE_PORT"
}
start_placement() {
    start placement env OS_PLACEMENT_CONFIG_DIR="$STATE/etc" \
        /usr/bin/python3 "$here/lib/wsgi.py" placement.wsgi:init_application "$PLACEMENT_PORT"
}
start_glance() { service glance-api glance.cmd.api --config-file "$STATE/etc/glance.conf"; }

# nova-compute alone must not see the databases.
start_nova_api() {
    service nova-api nova.cmd.api_os_compute --config-file "$STATE/etc/nova.conf" --config-file "$STATE/etc/nova-databases.conf"
}
start_nova_control() {
    local name
    for name in conductor scheduler; do
        service "nova-$name" "nova.cmd.$name" \
            --config-file "$STATE/etc/nova.conf" --config-file "$STATE/etc/nova-databases.conf"
    done
}
start_compute() {
    mkdir -p "$STATE/computes/$1/instances"
    service "nova-compute@$1" nova.cmd.compute --config-file "$STATE/etc/nova.conf" --config-file "$STATE/etc/compute-$1.conf"
}

start_network_stub() { start network-stub /usr/bin/python3 "$here/lib/network_stub.py" "$NEUTRON_PORT"; }
start_neutron() { service neutron-server neutron.cmd.eventlet.server --config-file "$STATE/etc/neutron.conf"; }

start_cinder() {
    local name
    mkdir -p "$STATE/volumes"
    for name in api scheduler volume; do
        service "cinder-$name" "cinder.cmd.$name" --config-file "$STATE/etc/cinder.conf"
    done
}

# libvirtd with folders and a host name of its own in a mount and a name space of its own, so that several run side by
# side, each a hypervisor, and none touches what is the machine's.
start_libvirt() {
    local folder=$STATE/libvirt/$1 each
    mkdir -p "$folder"/{etc,run,lib,cache,log,socket}
    cat >"$folder/etc/libvirtd.conf" <<TEXT
unix_sock_dir = "$folder/socket"
auth_unix_ro = "none"
auth_unix_rw = "none"
listen_tls = 0
listen_tcp = 0
log_outputs = "2:stderr"
host_uuid = "$(cat "$folder/uuid" 2>/dev/null || tee "$folder/uuid" </proc/sys/kernel/random/uuid)"
TEXT
    cat >"$folder/etc/qemu.conf" <<'TEXT'
user = "root"
group = "root"
security_driver = "none"
stdio_handler = "file"
cgroup_controllers = [ ]
namespaces = [ ]
remember_owner = 0
TEXT
    # libvirtd wants Debian's user and group for guests, although the guests here are root's.
    { grep -v '^libvirt-qemu:' /etc/passwd && echo "libvirt-qemu:x:64055:64055::/nonexistent:/usr/sbin/nologin"; } >"$folder/passwd"
    { grep -v '^libvirt-qemu:' /etc/group && echo "libvirt-qemu:x:64055:"; } >"$folder/group"
    # The places to mount on; empty folders that the package makes as well.
    for each in /etc/libvirt /run/libvirt /var/lib/libvirt /var/cache/libvirt /var/log/libvirt; do mkdir -p "$each"; done
    # shellcheck disable=SC2016
    start "libvirt@$1" unshare -m -u --propagation private bash -euc '
        hostname "$1"
        mount --bind "$2/passwd" /etc/passwd
        mount --bind "$2/group" /etc/group
        mount --bind "$2/etc" /etc/libvirt
        mount --bind "$2/run" /run/libvirt
        mount --bind "$2/lib" /var/lib/libvirt
        mount --bind "$2/cache" /var/cache/libvirt
        mount --bind "$2/log" /var/log/libvirt
        exec libvirtd -f "$2/etc/libvirtd.conf" -p "$2/libvirtd.pid"' libvirt "$1" "$folder"
    await "libvirt@$1" 30 libvirt_answers "$1"
}
libvirt_answers() { virsh -c "qemu+unix:///system?socket=$STATE/libvirt/$1/socket/libvirt-sock" version >/dev/null 2>&1; }

# Joins this machine to the network of the guests: nova plugs them into a bridge of this name, if it is there already.
join_guests() {
    local bridge address
    read -r bridge address <"$STATE/tmp/bridge"
    echo "$bridge" >"$STATE/bridge"
    ip link show "$bridge" >/dev/null 2>&1 || ip link add "$bridge" type bridge
    ip address replace "$address" dev "$bridge"
    ip link set "$bridge" up
}

# What others need to use the cloud.
write_access() {
    local keystone=http://127.0.0.1:$KEYSTONE_PORT/v3
    local access=(OS_AUTH_URL="$keystone" OS_USERNAME=admin OS_PASSWORD=admin OS_PROJECT_NAME=admin
        OS_USER_DOMAIN_NAME=Default OS_PROJECT_DOMAIN_NAME=Default OS_IDENTITY_API_VERSION=3 OS_REGION_NAME=RegionOne)
    cat >"$STATE/clouds.yaml" <<TEXT
clouds:
  reeve-test:
    auth:
      auth_url: $keystone
      username: admin
      password: admin
      project_name: admin
      user_domain_name: Default
      project_domain_name: Default
    region_name: RegionOne
    interface: public
    identity_api_version: 3
TEXT
    printf 'export %s\n' "${access[@]}" >"$STATE/openrc"
    {
        printf '%s\n' "STATE=$STATE" "${access[@]}"
        echo "OS_CLIENT_CONFIG_FILE=$STATE/clouds.yaml"
        echo "AMQP_URL=amqp://guest:guest@127.0.0.1:$AMQP_PORT/%2F"
        cat "$STATE/settings" "$STATE/ports"
    } >"$STATE/env.new"
    # It is there only when everything is ready.
    mv "$STATE/env.new" "$STATE/env"
}
