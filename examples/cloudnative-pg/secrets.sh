#!/bin/sh
# Makes what the example needs of Secrets: the passwords of the gate's two roles, which nobody ever sees, and the gates' certificate from an
# authority of its own, which clients verify with the ConfigMap `shop-db-gate-ca`. Run it once, before `kubectl apply -k`; what is there stays.
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

for role in readonly readwrite; do
  has secret "shop-db-$role" && continue
  openssl rand -hex 24 | tr -d '\n' >password
  printf 'sg_%s' "$role" >username # CloudNativePG wants it to be the role's name
  kubectl --namespace "$namespace" create secret generic "shop-db-$role" --type=kubernetes.io/basic-auth --from-file=username --from-file=password
  kubectl --namespace "$namespace" label secret "shop-db-$role" cnpg.io/reload=true # so that a changed password reaches the database by itself
done

if ! has secret shop-db-gate-tls; then
  names=
  for host in shop-db-gate shop-db-gate-primary; do names=$names,DNS:$host.$namespace.svc,DNS:$host.$namespace.svc.cluster.local; done
  printf 'subjectAltName=%s\nbasicConstraints=CA:FALSE\nextendedKeyUsage=serverAuth\n' "${names#,}" >extensions
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 365 -subj "/CN=shop database gates" -keyout ca.key -out ca.crt \
    -addext basicConstraints=critical,CA:TRUE,pathlen:0 -addext keyUsage=critical,keyCertSign 2>/dev/null
  openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=shop-db-gate.$namespace.svc" -keyout tls.key -out tls.csr 2>/dev/null
  openssl x509 -req -in tls.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 90 -extfile extensions -out tls.crt 2>/dev/null
  kubectl --namespace "$namespace" create secret tls shop-db-gate-tls --cert=tls.crt --key=tls.key
  kubectl --namespace "$namespace" create configmap shop-db-gate-ca --from-file=ca.crt --dry-run=client --output=yaml | kubectl apply --filename=-
fi
