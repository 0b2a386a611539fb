#!/usr/bin/env bash
# Builds the database operators that tests run for real from Go modules, once: what was built is kept in a cache, and only a change of the files
# named in `sources` below builds again. The last line of standard output is the folder; it has
#   manager        CloudNativePG's one program: its operator, and what runs PostgreSQL in each of its pods
#   release.yaml   what its users apply: CRDs, rights, Deployment, webhooks
# usage: build.sh [--where]      --where: build nothing; print the folder, and end with 3 when it isn't built. About 3 minutes on 2 cores
# environment: XDG_CACHE_HOME (else ~/.cache, else build/ of the project); Go's own settings, as GOPROXY and GOFLAGS, are Go's
set -euo pipefail
cd "$(dirname "$0")"
module=github.com/cloudnative-pg/cloudnative-pg
version=$(sed -n "s|.*$module v\([^ ]*\).*|\1|p" go.mod)
sources=(go.mod go.sum build.sh)

fail() { echo "build of database operators: $1" >&2; exit 1; }
say() { echo "databases: $1" >&2; }

cache=${XDG_CACHE_HOME:-${HOME:+$HOME/.cache}}
cache=${cache:-$(cd ../.. && pwd)/build/cache}
all_versions=$cache/sidegate/databases
here=$all_versions/$(cat "${sources[@]}" | sha256sum | cut -c1-16)
if [ -e "$here/done" ]; then touch "$here"; echo "$here"; exit 0; fi
if [ "${1:-}" = --where ]; then echo "$here"; exit 3; fi

[ "$(uname -s)" = Linux ] || fail "needs Linux: what is built runs in containers of this machine"
go=$(command -v go || true)
[ -n "$go" ] || { [ -x /usr/local/go/bin/go ] && go=/usr/local/go/bin/go; } ||
  fail "the program \`go\` is absent: get Go 1.26.4 or newer from https://go.dev/dl, unpacked to /usr/local/go"
oldest=$(sed -n 's/^go //p' go.mod)
found=$("$go" env GOVERSION | sed 's/^go//')
[ "$(printf '%s\n' "$oldest" "$found" | sort -V | head -1)" = "$oldest" ] || fail "Go $found at $go is too old: get $oldest or newer from https://go.dev/dl"

mkdir -p "$here"
exec 9>"$all_versions/lock"
flock -n 9 || { say "waiting for another build"; flock 9; }
if [ -e "$here/done" ]; then echo "$here"; exit 0; fi

began=$SECONDS
say "building CloudNativePG $version from Go modules; about 3 minutes the first time, then never again on this machine"
CGO_ENABLED=0 nice -n 10 "$go" build -trimpath -ldflags "-s -w" -o "$here/manager" "$module/cmd/manager"
install -m 644 "$("$go" list -m -f '{{.Dir}}' "$module")/releases/cnpg-$version.yaml" "$here/release.yaml"
touch "$here/done"
find "$all_versions" -mindepth 1 -maxdepth 1 -type d ! -path "$here" -mtime +7 -exec rm -rf {} +
say "built in $((SECONDS - began)) s: $here"
echo "$here"
