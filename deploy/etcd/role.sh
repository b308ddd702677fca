#!/bin/sh
# Gives control nodes the keys of their cluster in etcd and nothing else, then turns etcd's authentication on.
#
#   role.sh CLUSTER NODE...
#
# CLUSTER is `cluster.name`; each NODE is the common name of a node's certificate (`reeve cert issue --role node` makes it
# the node's name). etcd takes the common name of a client's certificate for its user, so there are no passwords. Where to
# find etcd and as whom is said by etcdctl's own variables: ETCDCTL_ENDPOINTS, ETCDCTL_CACERT, ETCDCTL_CERT, ETCDCTL_KEY.
# Once authentication is on, the certificate has to be one of common name `root`.
#
# It may be run again, with further nodes.
set -eu
export ETCDCTL_API=3

[ $# -ge 2 ] || { echo "usage: role.sh CLUSTER NODE..." >&2; exit 2; }
cluster=$1
shift
role=reeve-$cluster

has() { # user|role NAME
    etcdctl "$1" list | grep -Fqx -- "$2"
}

add_user() { # NAME ROLE
    has user "$1" || etcdctl user add "$1" --no-password
    etcdctl user grant-role "$1" "$2"
}

has role "$role" || etcdctl role add "$role"
etcdctl role grant-permission "$role" readwrite --prefix "/reeve/$cluster/"
for node in "$@"; do
    add_user "$node" "$role"
done
has role root || etcdctl role add root
add_user root root
etcdctl auth enable
