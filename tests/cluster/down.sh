#!/usr/bin/env bash
# Ends the cluster that up.sh started, pods first, and removes all that it made on this machine: processes, mounts, addresses, the
# bridge, packet filter rules, cgroups and its folder. What stays is Debian's packages and the cache of built programs.
# usage: down.sh     as root; ends well when nothing is there
set -uo pipefail
dir=${SIDEGATE_CLUSTER:-/var/lib/sidegate-cluster}
node_ip=10.201.0.1

say() { echo "cluster: $1"; }

if [ ! -e "$dir/down.needed" ]; then
  say "isn't up"
  exit 0
fi
[ "$(id -u)" = 0 ] || { echo "cluster: needs root to end what root started" >&2; exit 1; }
cd "$dir" || exit 1
began=$SECONDS

running() { # running NAME: its process lives, and is ours: after a restart of the machine the number may be another's
  local pid
  pid=$(cat "$1.pid" 2>/dev/null) && [ "$(readlink "/proc/$pid/cwd" 2>/dev/null)" = "$dir" ]
}

end() { # end NAME: and wait for it
  running "$1" || return 0
  kill "$(cat "$1.pid")"
  for _ in $(seq 50); do running "$1" || return 0; sleep 0.1; done
  kill -9 "$(cat "$1.pid")"
  for _ in $(seq 50); do running "$1" || return 0; sleep 0.1; done
}

ctr() { timeout 20 ctr -a containerd.sock -n k8s.io "$@" 2>/dev/null; }

say "ending its pods"
for name in controller-manager scheduler; do end $name; done # so that nothing makes pods anew
if running apiserver && running kubelet; then
  timeout 40 programs/kubectl --kubeconfig admin.conf delete pods --all --all-namespaces --grace-period=1 --timeout=30s >/dev/null 2>&1
fi
say "ending its processes"
for name in network-policies coredns kube-proxy kubelet apiserver etcd; do end $name; done
if running containerd; then # pods that could not be ended by the API
  for container in $(ctr tasks ls -q); do ctr tasks kill -s 9 "$container"; done
  for _ in $(seq 20); do
    for container in $(ctr tasks ls -q); do ctr tasks rm -f "$container" >/dev/null; done
    [ -z "$(ctr tasks ls -q)" ] && break
    sleep 0.2
  done
fi
end containerd

say "removing what it made"
# deepest first; a mount of a mount is listed twice
awk -v dir="$dir/" 'index($5, dir) == 1 {print $5}' /proc/self/mountinfo | sort -r | while read -r mount; do umount -l "$mount" 2>/dev/null; done
for namespace in /run/netns/cni-*; do [ ! -e "$namespace" ] || { umount -l "$namespace" 2>/dev/null; rm -f "$namespace"; }; done
ip link delete cni0 2>/dev/null
ip addr delete $node_ip/32 dev lo 2>/dev/null
for family in ip ip6; do nft delete table $family kube-proxy 2>/dev/null; done
nft delete table inet kube-network-policies 2>/dev/null
# chains that the kubelet and the CNI plugins made, and that weren't here before: first the jumps to them, then they themselves
for tables in iptables ip6tables; do
  command -v $tables-save >/dev/null || continue
  for table in nat filter mangle; do
    for chain in $($tables-save -t $table 2>/dev/null | sed -nE 's/^:((KUBE|CNI)-[^ ]*).*/\1/p' | grep -vxFf chains.before); do
      $tables-save -t $table | grep -E -- "^-A .*-[jg] $chain( |\$)" | sed 's/^-A/-D/' | while read -r rule; do
        printf '%s\n' "$rule" | xargs $tables -w -t $table
      done
      $tables -w -t $table -F "$chain"
      $tables -w -t $table -X "$chain"
    done
    family=ip
    [ $tables = iptables ] || family=ip6
    if ! grep -qx "table $family $table" tables.before && ! $tables-save -t $table | grep -qE '^-A|^:[^ ]+ (-|DROP) '; then
      nft delete table $family $table 2>/dev/null
    fi
  done
done
find /sys/fs/cgroup -depth -type d -path '*/kubepods*' -exec rmdir {} + 2>/dev/null
rm -rf /var/lib/cni/results/sidegate-cluster-* /var/lib/cni/cache/results/sidegate-cluster-*
find /var/log/containers -xtype l -delete 2>/dev/null # links to the logs of pods that are gone
for folder in /var/log/containers /var/lib/cni/cache/results /var/lib/cni/cache /var/lib/cni/results /var/lib/cni /run/containerd/s \
  /run/containerd/io.containerd.runtime.v2.task /run/containerd; do rmdir "$folder" 2>/dev/null; done
[ ! -e kubelet.absent ] || rm -rf /var/lib/kubelet # where it has its socket for devices, whatever its root folder
[ ! -f ip_forward.before ] || cat ip_forward.before >/proc/sys/net/ipv4/ip_forward
[ ! -f bridged.before ] || cat bridged.before >/proc/sys/net/bridge/bridge-nf-call-iptables
cd /
rm -rf --one-file-system "$dir" || { echo "cluster: something in $dir is still in use" >&2; exit 1; }
say "is down after $((SECONDS - began)) s; nothing of it is left but Debian's packages and the cache of programs"
