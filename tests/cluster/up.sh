#!/usr/bin/env bash
# Brings up a real Kubernetes of one node on this machine, without Docker and without any image registry: etcd, kube-apiserver,
# controllers, scheduler, kubelet on containerd, kube-proxy, CoreDNS, and kube-network-policies to enforce NetworkPolicies. One cluster a
# machine; when it runs already, nothing is done.
# usage: up.sh     as root on Debian; `make cluster` is the same. down.sh ends it and removes all that it made.
# environment: SIDEGATE_CLUSTER, the folder of its state (/var/lib/sidegate-cluster): admin.conf is the kubeconfig, *.log what each said
#
# Rules: nothing listens on an address that another machine reaches; every process is told apart by its pid file and its folder, never by
# its name; each step says what it does. Left out: more than one node, storage classes, IPv6.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
dir=${SIDEGATE_CLUSTER:-/var/lib/sidegate-cluster}
node_ip=10.201.0.1 service_range=10.96.0.0/16 dns_ip=10.96.0.10 pod_range=10.244.0.0/24
bridged=/proc/sys/net/bridge/bridge-nf-call-iptables
etcd=http://127.0.0.1:12379 policy_queue=100
processes="etcd apiserver controller-manager scheduler containerd kubelet kube-proxy coredns network-policies"

fail() { echo "cluster: $1" >&2; exit 1; }
say() { echo "cluster: $1"; }

[ "$(uname -s)" = Linux ] || fail "needs Linux: use \`make kind\` where Docker is"
[ "$(id -u)" = 0 ] || fail "needs root, for containerd, the kubelet and network namespaces: use sudo, or \`make kind\` where Docker is"
[ ${#dir} -le 60 ] || fail "the folder \`$dir\` has too long a name for the sockets in it: name a shorter one in SIDEGATE_CLUSTER"

running() { # running NAME: its process lives, and is ours
  local pid
  pid=$(cat "$dir/$1.pid" 2>/dev/null) && [ "$(readlink "/proc/$pid/cwd" 2>/dev/null)" = "$dir" ]
}

all_running() { local name; for name in $processes; do running "$name" || return 1; done; }

if all_running; then
  say "is up already; kubeconfig: $dir/admin.conf"
  exit 0
fi
[ ! -e "$dir/down.needed" ] || "$here/down.sh" # what a start that failed, or a machine that went down, left behind

# 1. what it needs of Debian, and its own programs

install_what_is_missing() {
  local missing=() each
  # what shows that a package is there:package
  for each in containerd:containerd runc:runc iptables:iptables nft:nftables conntrack:conntrack ip:iproute2 ethtool:ethtool socat:socat \
    openssl:openssl python3:python3 mount:mount; do
    command -v "${each%%:*}" >/dev/null || missing+=("${each##*:}")
  done
  [ -x /opt/cni/bin/bridge ] || [ -x /usr/lib/cni/bridge ] || missing+=(containernetworking-plugins)
  [ ${#missing[@]} -eq 0 ] && return 0
  command -v apt-get >/dev/null || fail "these are absent, and so is apt-get to install them: ${missing[*]}"
  say "installing ${missing[*]}"
  export DEBIAN_FRONTEND=noninteractive
  local install=(apt-get install -qq -y --no-install-recommends "${missing[@]}")
  "${install[@]}" >/dev/null 2>&1 || { apt-get update -qq && "${install[@]}" >/dev/null; } || fail "apt-get can't install ${missing[*]}: see its message above"
}

began=$SECONDS
install_what_is_missing
programs=$("$here/build.sh" node | tail -1)
cni_programs=/usr/lib/cni
[ ! -x /opt/cni/bin/bridge ] || cni_programs=/opt/cni/bin

if ip -br addr show dev lo | grep -qF "$node_ip/" || ip link show cni0 >/dev/null 2>&1; then
  fail "the address $node_ip or the bridge cni0 is taken: another cluster runs here, or was left behind; end it first"
fi

# 2. certificates, kubeconfigs and settings

say "making certificates and settings in $dir"
mkdir -p "$dir/pki" "$dir/cni"
cd "$dir"
chmod 711 . # CoreDNS's and the kubelet's files are root's; pods get nothing from here by path
touch down.needed
ln -sfn "$programs" programs
cat /proc/sys/net/ipv4/ip_forward >ip_forward.before
[ -e $bridged ] || modprobe br_netfilter || fail "the kernel has no br_netfilter, without which one pod's packets to another pass by all policies"
cat $bridged >bridged.before
for tables in iptables ip6tables; do $tables-save 2>/dev/null | sed -nE 's/^:((KUBE|CNI)-[^ ]*).*/\1/p' || true; done >chains.before
nft list tables >tables.before
[ -e /var/lib/kubelet ] || touch kubelet.absent

(
  cd pki
  umask 077
  key=(-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes)
  openssl req -x509 "${key[@]}" -keyout ca.key -out ca.crt -subj /CN=cluster-ca -days 30 2>/dev/null
  issue() { # issue FILE SUBJECT NAMES
    openssl req "${key[@]}" -keyout "$1.key" -out "$1.csr" -subj "$2" 2>/dev/null
    openssl x509 -req -in "$1.csr" -CA ca.crt -CAkey ca.key -CAcreateserial -days 30 -out "$1.crt" -extfile <(echo "subjectAltName=$3") 2>/dev/null
  }
  issue apiserver /CN=kube-apiserver "DNS:localhost,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,IP:10.96.0.1,IP:$node_ip"
  issue admin /O=system:masters/CN=admin DNS:admin
  issue node /O=system:nodes/CN=system:node:node-1 "DNS:node-1,IP:$node_ip"
  issue controller-manager /CN=system:kube-controller-manager DNS:controller-manager
  issue scheduler /CN=system:kube-scheduler DNS:scheduler
  issue proxy /CN=system:kube-proxy DNS:proxy
  openssl genrsa -out sa.key 2048 2>/dev/null
  openssl rsa -in sa.key -pubout -out sa.pub 2>/dev/null
)
embedded() { base64 -w0 "pki/$1"; } # so that a kubeconfig can be copied elsewhere
for user in admin node controller-manager scheduler proxy; do
  (umask 077 && cat >$user.conf) <<YAML
apiVersion: v1
kind: Config
clusters: [{name: sidegate, cluster: {server: "https://$node_ip:6443", certificate-authority-data: $(embedded ca.crt)}}]
users: [{name: $user, user: {client-certificate-data: $(embedded $user.crt), client-key-data: $(embedded $user.key)}}]
contexts: [{name: sidegate, context: {cluster: sidegate, user: $user}}]
current-context: sidegate
YAML
done

# firewall: lets pods' packets pass where Docker was started once, which leaves a filter that forwards for nobody but its own
cat >cni/10-bridge.conflist <<JSON
{"cniVersion": "0.4.0", "name": "sidegate-cluster", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
   "ipam": {"type": "host-local", "dataDir": "$dir/cni-addresses", "ranges": [[{"subnet": "$pod_range"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}},
  {"type": "firewall", "backend": "iptables"}
]}
JSON
# restrict_oom_score_adj: without CAP_SYS_RESOURCE, as in many sandboxes, runc can't lower oom_score_adj, and every pod fails with
# "can't get final child's PID from pipe: EOF"
cat >containerd.toml <<TOML
version = 2
root = "$dir/containerd"
state = "$dir/containerd-state"
[grpc]
  address = "$dir/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
  path = "$dir/containerd-opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/sidegate/pause:1"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "$cni_programs"
    conf_dir = "$dir/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
TOML
# failCgroupV1: some machines have nothing newer. The node must not evict pods because the developer's disk is nearly full
cat >kubelet.yaml <<YAML
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: $node_ip
authentication: {x509: {clientCAFile: $dir/pki/ca.crt}, anonymous: {enabled: false}, webhook: {enabled: true}}
authorization: {mode: Webhook}
cgroupDriver: cgroupfs
clusterDNS: [$dns_ip]
clusterDomain: cluster.local
containerRuntimeEndpoint: unix://$dir/containerd.sock
evictionHard: {"nodefs.available": "1%", "imagefs.available": "1%", "memory.available": "50Mi"}
failCgroupV1: false
failSwapOn: false
healthzBindAddress: 127.0.0.1
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
podLogsDir: $dir/pod-logs
tlsCertFile: $dir/pki/node.crt
tlsPrivateKeyFile: $dir/pki/node.key
YAML
cat >Corefile <<COREFILE
.:53 {
  bind $node_ip
  kubernetes cluster.local in-addr.arpa {
    kubeconfig $dir/admin.conf
  }
  errors
}
COREFILE

# 3. the processes

start() { # start NAME COMMAND...
  local name=$1
  shift
  setsid "$@" >"$name.log" 2>&1 </dev/null 9>&- &
  echo $! >"$name.pid"
}

wait_for() { # wait_for SECONDS WHAT NAME-OF-PROCESS COMMAND...
  local end=$((SECONDS + $1)) what=$2 process=$3
  shift 3
  until "$@" >/dev/null 2>&1; do
    running "$process" || { tail -5 "$process.log" >&2; fail "$process ended; its last words are above, the rest in $dir/$process.log"; }
    [ $SECONDS -lt $end ] || { tail -5 "$process.log" >&2; fail "waited in vain for $what; see $dir/$process.log"; }
    sleep 0.2
  done
}

kubectl() { programs/kubectl --kubeconfig admin.conf "$@"; }
ctr() { command ctr -a containerd.sock -n k8s.io "$@"; }

# the node's own address is on lo, because a dummy device may be missing; pods reach it through the bridge
ip addr add $node_ip/32 dev lo
sysctl -qw net.ipv4.ip_forward=1
echo 1 >$bridged
# where Docker is, or was, it lets nothing be forwarded but its own containers' packets
iptables -w -N KUBE-PODS
for side in -s -d; do iptables -w -A KUBE-PODS $side $pod_range -j ACCEPT; done
iptables -w -I FORWARD -j KUBE-PODS

say "starting etcd, kube-apiserver and containerd"
start containerd containerd -c containerd.toml
start etcd programs/etcd --data-dir etcd-data --listen-client-urls $etcd --advertise-client-urls $etcd --listen-peer-urls http://127.0.0.1:12380 \
  --initial-advertise-peer-urls http://127.0.0.1:12380 --initial-cluster default=http://127.0.0.1:12380 --unsafe-no-fsync --log-level warn
start apiserver programs/kube-apiserver --etcd-servers=$etcd --bind-address=$node_ip --advertise-address=$node_ip --secure-port=6443 \
  --tls-cert-file=pki/apiserver.crt --tls-private-key-file=pki/apiserver.key --client-ca-file=pki/ca.crt \
  --kubelet-client-certificate=pki/admin.crt --kubelet-client-key=pki/admin.key --kubelet-preferred-address-types=InternalIP \
  --service-account-key-file=pki/sa.pub --service-account-signing-key-file=pki/sa.key --service-account-issuer=https://kubernetes.default.svc \
  --service-cluster-ip-range=$service_range --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction --allow-privileged=true
wait_for 30 containerd containerd ctr version
"$here/../../tools/image_archive.py" --name localhost/sidegate/pause:1 --file "programs/pause=/pause" --command /pause pause.tar
ctr images import pause.tar >/dev/null
wait_for 60 "the API server" apiserver kubectl get --raw /readyz

say "starting the controllers, the scheduler, the kubelet and kube-proxy"
start controller-manager programs/kube-controller-manager --kubeconfig=controller-manager.conf --bind-address=127.0.0.1 \
  --service-account-private-key-file=pki/sa.key --root-ca-file=pki/ca.crt --use-service-account-credentials=true \
  --cluster-signing-cert-file=pki/ca.crt --cluster-signing-key-file=pki/ca.key --leader-elect=false
start scheduler programs/kube-scheduler --kubeconfig=scheduler.conf --bind-address=127.0.0.1 --leader-elect=false
start kubelet programs/kubelet --kubeconfig=node.conf --config=kubelet.yaml --hostname-override=node-1 --root-dir="$dir/kubelet" --node-ip=$node_ip
start kube-proxy programs/kube-proxy --kubeconfig=proxy.conf --proxy-mode=nftables --cluster-cidr=$pod_range --conntrack-max-per-core=0 \
  --hostname-override=node-1 --healthz-bind-address=127.0.0.1:10256 --metrics-bind-address=127.0.0.1:10249
start coredns programs/coredns -conf Corefile
kubectl apply -f - >/dev/null <<YAML
apiVersion: v1
kind: Service
metadata: {name: kube-dns, namespace: kube-system}
spec: {clusterIP: $dns_ip, ports: [{name: dns, port: 53, protocol: UDP}, {name: dns-tcp, port: 53, protocol: TCP}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: kube-dns, namespace: kube-system, labels: {kubernetes.io/service-name: kube-dns}}
addressType: IPv4
ports: [{name: dns, port: 53, protocol: UDP}, {name: dns-tcp, port: 53, protocol: TCP}]
endpoints: [{addresses: [$node_ip]}]
YAML

# It runs as a pod would: with the token of a service account, where every pod has one, in a /run of its own. No packet passes unasked
# when it doesn't run; what root on the node sends, as the kubelet's probes, isn't asked for.
kubectl apply -f - >/dev/null <<YAML
apiVersion: v1
kind: ServiceAccount
metadata: {name: network-policies, namespace: kube-system}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: network-policies}
rules:
- {apiGroups: [""], resources: [pods, namespaces], verbs: [get, list, watch]}
- {apiGroups: [networking.k8s.io], resources: [networkpolicies], verbs: [get, list, watch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: network-policies}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: network-policies}
subjects: [{kind: ServiceAccount, name: network-policies, namespace: kube-system}]
YAML
(umask 077 && kubectl -n kube-system create token network-policies --duration=720h >network-policies.token)
start network-policies unshare --mount bash -c "mount -t tmpfs -o mode=700 none /run && mkdir -p /run/secrets/kubernetes.io/serviceaccount &&
  cp network-policies.token /run/secrets/kubernetes.io/serviceaccount/token && cp pki/ca.crt /run/secrets/kubernetes.io/serviceaccount/ &&
  exec env KUBERNETES_SERVICE_HOST=$node_ip KUBERNETES_SERVICE_PORT=6443 programs/kube-network-policies --hostname-override=node-1 \
  --nfqueue-id=$policy_queue --metrics-bind-address=127.0.0.1:10253"
wait_for 30 "the NetworkPolicies' enforcer" network-policies grep -q "^ *$policy_queue " /proc/net/netfilter/nfnetlink_queue
# What it does itself where the kernel has nftables' queue statement (CONFIG_NFT_QUEUE); where it hasn't, iptables' NFQUEUE leads packets to it
if ! unshare --net nft 'add table inet t; add chain inet t c; add rule inet t c queue num 1' 2>/dev/null; then
  lead() { iptables -w -t mangle "$@"; }
  lead -N KUBE-NETPOL
  lead -A KUBE-NETPOL -m conntrack --ctstate ESTABLISHED,RELATED -j RETURN
  lead -A KUBE-NETPOL -m owner --uid-owner 0 -j RETURN
  for side in -s -d; do lead -A KUBE-NETPOL $side $pod_range -j NFQUEUE --queue-num $policy_queue; done
  lead -A POSTROUTING -j KUBE-NETPOL
fi

say "waiting for the node"
wait_for 60 "the node's registration" kubelet kubectl get node node-1
kubectl wait --for=condition=Ready node/node-1 --timeout=60s >/dev/null || { tail -5 kubelet.log >&2; fail "the node doesn't become ready; see $dir/kubelet.log"; }
wait_for 30 "the default service account" controller-manager kubectl get serviceaccount default
all_running || fail "a process ended that should run; see the logs in $dir"
say "is up after $((SECONDS - began)) s: Kubernetes $(programs/kubectl version --client -o yaml | sed -n 's/.*gitVersion: //p'), one node, Service and cluster DNS"
echo "  export KUBECONFIG=$dir/admin.conf"
echo "  alias kubectl=$dir/programs/kubectl"
