#!/bin/sh
# Makes what the example's database and gate need of Secrets: three passwords that nobody ever sees, and the gate's certificate from an authority of
# its own, which clients verify with the ConfigMap `shop-db-gate-ca`. Run it once, before `kubectl apply -k`; what is there already stays.
# In production let cert-manager issue the certificate, and your secret store the passwords: only the Secrets' names matter.
# usage: secrets.sh [NAMESPACE]
set -eu
namespace=${1:-shop}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
umask 077
cd "$folder"

kubectl get namespace "$namespace" >/dev/null 2>&1 || kubectl create namespace "$namespace" --save-config

has() { kubectl --namespace "$namespace" get "$@" >/dev/null 2>&1; }

for name in superuser readonly readwrite; do
  openssl rand -hex 24 | tr -d '\n' >password
  has secret "shop-db-$name" || kubectl --namespace "$namespace" create secret generic "shop-db-$name" --from-file=password
done

if ! has secret shop-db-gate-tls; then
  host=shop-db-gate.$namespace.svc
  printf 'subjectAltName=DNS:%s,DNS:%s.cluster.local\nbasicConstraints=CA:FALSE\nextendedKeyUsage=serverAuth\n' "$host" "$host" >extensions
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 365 -subj "/CN=shop database gates" -keyout ca.key -out ca.crt \
    -addext basicConstraints=critical,CA:TRUE,pathlen:0 -addext keyUsage=critical,keyCertSign 2>/dev/null
  openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=$host" -keyout tls.key -out tls.csr 2>/dev/null
  openssl x509 -req -in tls.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 90 -extfile extensions -out tls.crt 2>/dev/null
  kubectl --namespace "$namespace" create secret tls shop-db-gate-tls --cert=tls.crt --key=tls.key
  kubectl --namespace "$namespace" create configmap shop-db-gate-ca --from-file=ca.crt --dry-run=client --output=yaml | kubectl apply --filename=-
fi
