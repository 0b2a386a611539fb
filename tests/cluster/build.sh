#!/usr/bin/env bash
# Builds the test cluster's programs from Go modules, once: what was built is kept in a cache, and only a change of the files named in
# `sources` below builds again. The last line of standard output is the folder that has the programs, one by each component's name.
# usage: build.sh [--where] control-plane|node|fake-nodes
#   control-plane  etcd, kube-apiserver, kubectl: what tests/cluster needs; about 4 minutes on 2 cores the first time
#   node           all of a one-node Kubernetes, with CoreDNS: what `make cluster` starts; about 3 minutes more
#   fake-nodes     kwok, which plays nodes whose pods only seem to run: what `make bench-cluster` needs beside the control plane; a minute
#   --where        build nothing: print the folder, and end with 3 when it isn't built
# environment: XDG_CACHE_HOME (else ~/.cache, else build/ of the project); Go's own settings, as GOPROXY and GOFLAGS, are Go's
set -euo pipefail
cd "$(dirname "$0")"
kubernetes=1.35.4 coredns=1.15.0 network_policies=0.8.0 kwok=0.8.0
sources=(go.mod go.sum main.go node.go pause/main.go build.sh)

fail() { echo "build of the test cluster: $1" >&2; exit "${2:-1}"; }
say() { echo "cluster: $1" >&2; }

where=no
if [ "${1:-}" = --where ]; then where=yes; shift; fi
part=${1:-}
case $part in
  control-plane) components=(etcd kube-apiserver kubectl) ;;
  node) components=(etcd kube-apiserver kubectl kube-controller-manager kube-scheduler kubelet kube-proxy) ;;
  fake-nodes) components=() ;;
  *) fail "\`$part\` is no part: name control-plane, node or fake-nodes" 2 ;;
esac

cache=${XDG_CACHE_HOME:-${HOME:+$HOME/.cache}}
cache=${cache:-$(cd ../.. && pwd)/build/cache}
all_versions=$cache/sidegate/cluster
key=$(cat "${sources[@]}" | sha256sum | cut -c1-16)
here=$all_versions/$key/$part
if [ -e "$here/done" ]; then touch "$all_versions/$key"; echo "$here"; exit 0; fi
if [ $where = yes ]; then echo "$here"; exit 3; fi

[ "$(uname -s)" = Linux ] || fail "needs Linux: etcd and kube-apiserver are built for this machine, and tested on Linux alone"
go=$(command -v go || true)
[ -n "$go" ] || { [ -x /usr/local/go/bin/go ] && go=/usr/local/go/bin/go; } ||
  fail "the program \`go\` is absent: get Go 1.25 or newer from https://go.dev/dl, unpacked to /usr/local/go"
version=$("$go" env GOVERSION | sed 's/^go//')
[ "$(printf '%s\n' 1.25 "$version" | sort -V | head -1)" = 1.25 ] || fail "Go $version at $go is too old: get 1.25 or newer from https://go.dev/dl"

mkdir -p "$here"
exec 9>"$all_versions/lock"
flock -n 9 || { say "waiting for another build"; flock 9; }
if [ -e "$here/done" ]; then echo "$here"; exit 0; fi

began=$SECONDS
say "building $part of Kubernetes $kubernetes from Go modules; 1 to 7 minutes the first time, then never again on this machine"
minor=${kubernetes#*.} minor=${minor%%.*}
stamp=k8s.io/component-base/version
flags="-s -w -X $stamp.gitVersion=v$kubernetes -X $stamp.gitMajor=1 -X $stamp.gitMinor=$minor"
build() { CGO_ENABLED=0 nice -n 10 "$go" build -trimpath -ldflags "$flags" "$@"; }
# `go install` of a version keeps a program out of this module's dependencies, which would have to agree with Kubernetes'
install() { (cd / && GOBIN=$here CGO_ENABLED=0 nice -n 10 "$go" install -trimpath -ldflags "-s -w" "$1"); }
if [ "$part" = node ]; then
  build -tags node -o "$here/components" .
  build -o "$here/pause" ./pause
  install "github.com/coredns/coredns@v$coredns"
  install "sigs.k8s.io/kube-network-policies/cmd@v$network_policies"
  # what enforces NetworkPolicies: it is called after its folder
  mv "$here/cmd" "$here/kube-network-policies"
elif [ "$part" = fake-nodes ]; then
  install "sigs.k8s.io/kwok/cmd/kwok@v$kwok"
else
  build -o "$here/components" .
fi
for name in ${components[@]+"${components[@]}"}; do ln -sf components "$here/$name"; done
touch "$here/done"
# each version is some 300 MB: those that nobody asked for in a week go
find "$all_versions" -mindepth 1 -maxdepth 1 -type d ! -name "$key" -mtime +7 -exec rm -rf {} +
say "built in $((SECONDS - began)) s: $here"
echo "$here"
