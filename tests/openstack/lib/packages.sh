# The packages that `up` needs, and what it takes out of packages that it does not install. Sourced.
# shellcheck shell=bash disable=SC2154

# What is looked for, and the package that has it. The services are libraries alone: their service packages would bring
# users, init scripts and questions.
needed_packages() {
    cat <<'TEXT'
/usr/lib/rabbitmq/bin/rabbitmq-server rabbitmq-server
/usr/sbin/mariadbd mariadb-server
/usr/bin/openstack python3-openstackclient
/usr/bin/keystone-manage python3-keystone
/usr/lib/python3/dist-packages/glance python3-glance
/usr/lib/python3/dist-packages/placement python3-placement
/usr/lib/python3/dist-packages/nova python3-nova
/usr/lib/python3/dist-packages/fixtures python3-fixtures
/usr/sbin/ip iproute2
TEXT
    if [[ $NEUTRON == real ]]; then echo /usr/lib/python3/dist-packages/neutron python3-neutron; fi
    if [[ $CINDER == 1 ]]; then
        echo /usr/lib/python3/dist-packages/cinder python3-cinder
        echo /usr/bin/qemu-img qemu-utils
    fi
    is_libvirt || return 0
    cat <<'TEXT'
/usr/lib/python3/dist-packages/libvirt.py python3-libvirt
/usr/sbin/libvirtd libvirt-daemon
/usr/lib/x86_64-linux-gnu/libvirt/connection-driver/libvirt_driver_qemu.so libvirt-daemon-driver-qemu
/usr/bin/virsh libvirt-clients
/usr/bin/qemu-system-x86_64 qemu-system-x86
/usr/bin/qemu-img qemu-utils
/usr/bin/genisoimage genisoimage
TEXT
}

missing_packages() {
    local file package
    while read -r file package; do
        [[ -e $file ]] || echo "$package"
    done < <(needed_packages) | sort -u
}

# Tools of a later release exclude Debian 12's QEMU: those of its own version take their place.
fitting_tools() {
    local version
    [[ " $* " == *" qemu-system-x86 "* ]] && dpkg-query -W qemu-utils >/dev/null 2>&1 || return 0
    version=$(apt-cache policy qemu-system-x86 | awk '/Candidate:/ { print $2 }')
    echo "qemu-utils=$version"
}

# Debian starts a service when it is installed; these are started here. A policy that is already there stays.
guard=/usr/sbin/policy-rc.d
install_missing() {
    local missing guarded= installed=1
    mapfile -t missing < <(missing_packages)
    [[ ${#missing[@]} -gt 0 ]] || return 0
    command -v apt-get >/dev/null || fail "install these, there is no apt-get: ${missing[*]}"
    say "installing ${missing[*]}"
    if [[ ! -e $guard ]]; then
        guarded=1
        printf '#!/bin/sh\nexit 101\n' >"$guard"
        chmod 755 "$guard"
    fi
    mkdir -p "$STATE/archives/partial"
    # An own folder for the archives: images of Debian for containers empty the common one after any apt-get. And half of
    # the time goes into waiting for the disk after each file, without unsafe-io.
    apt-get update -qq && mapfile -t -O "${#missing[@]}" missing < <(fitting_tools "${missing[@]}") &&
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends --allow-downgrades -o DPkg::Lock::Timeout=600 \
            -o Dpkg::Options::=--force-unsafe-io -o Dir::Cache::archives="$STATE/archives" "${missing[@]}" >"$STATE/install.log" 2>&1 || installed=
    if [[ $guarded ]]; then rm -f "$guard"; fi
    rm -rf "$STATE/archives"
    [[ $installed ]] || fail "cannot install ${missing[*]}; see $STATE/install.log"
}

# The pipelines of the services' web interfaces are in packages of which nothing else is wanted.
unpack_pipelines() {
    local folder=$cache/pipelines package from to
    mkdir -p "$cache"
    exec 8>"$cache/lock"
    flock 8
    if [[ ! -d $folder ]]; then
        rm -rf "$cache/partial"
        mkdir -p "$cache/partial/pipelines"
        while read -r package from to; do
            (cd "$cache/partial" && apt-get download -qq "$package" 2>/dev/null && dpkg-deb -x "$package"_*.deb files) ||
                fail "cannot get $package"
            cp "$cache/partial/files/$from" "$cache/partial/pipelines/$to"
        done <<'TEXT'
nova-common usr/share/nova-common/api-paste.ini nova-paste.ini
glance-common usr/share/glance-common/glance-api-paste.ini glance-paste.ini
neutron-common usr/share/neutron-common/api-paste.ini neutron-paste.ini
cinder-common usr/share/cinder-common/api-paste.ini cinder-paste.ini
TEXT
        mv "$cache/partial/pipelines" "$folder"
        rm -rf "$cache/partial"
    fi
    exec 8>&-
}
