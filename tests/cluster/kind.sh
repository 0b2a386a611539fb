#!/usr/bin/env bash
# The same one-node cluster through kind, where Docker runs: up.sh needs Debian and root, this needs neither.
# usage: kind.sh up|down     the kubeconfig is build/kind.conf; images are loaded with `kind load image-archive`
# environment: KIND_IMAGE, a node image; without it, kind's own choice of this version. It is fetched from a registry.
# Its network, kindnet, enforces NetworkPolicies as the node of up.sh does (kind 0.24 and newer).
# Left out: the project's own checks don't run it, since their machines have no Docker.
set -euo pipefail
cd "$(dirname "$0")/../.."
version=0.33.0 name=sidegate kubeconfig=$PWD/build/kind.conf

fail() { echo "kind: $1" >&2; exit 1; }
say() { echo "kind: $1"; }

command -v docker >/dev/null || fail "the program \`docker\` is absent: install Docker, or use \`make cluster\` as root on Debian"
docker info >/dev/null 2>&1 || fail "Docker's daemon doesn't answer: start it, or use \`make cluster\` as root on Debian"
kind=$(command -v kind || true)
if [ -z "$kind" ]; then
  go=$(command -v go || true)
  [ -n "$go" ] || { [ -x /usr/local/go/bin/go ] && go=/usr/local/go/bin/go; } || fail "neither kind nor Go is here: get kind $version, or Go from https://go.dev/dl to build it"
  kind=$PWD/build/kind/kind
  [ -x "$kind" ] || { say "building kind $version"; GOBIN=$PWD/build/kind "$go" install "sigs.k8s.io/kind@v$version"; }
fi

case ${1:-} in
  up)
    mkdir -p build
    if "$kind" get clusters 2>/dev/null | grep -qx $name; then
      say "is up already"
      "$kind" export kubeconfig --name $name --kubeconfig "$kubeconfig"
    else
      say "creating the cluster"
      "$kind" create cluster --name $name --kubeconfig "$kubeconfig" --wait 120s ${KIND_IMAGE:+--image "$KIND_IMAGE"}
    fi
    echo "  export KUBECONFIG=$kubeconfig"
    ;;
  down)
    "$kind" delete cluster --name $name --kubeconfig "$kubeconfig"
    rm -f "$kubeconfig"
    ;;
  *) fail "\`${1:-}\` is no command: write up or down" ;;
esac
