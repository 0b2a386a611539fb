#!/usr/bin/env bash
# Builds Docker's `compose` plugin from Go modules, once: Debian has the daemon, and of compose an old one. The last line of standard output is
# the folder that has it as `docker-compose`. usage: build.sh [--where]   with --where: print the folder, and end with 3 when it isn't built
set -euo pipefail
cd "$(dirname "$0")"
version=$(awk '$1 == "require" && $2 == "github.com/docker/compose/v2" {print $3}' go.mod)
cache=${XDG_CACHE_HOME:-${HOME:+$HOME/.cache}}
cache=${cache:-$(cd ../.. && pwd)/build/cache}
here=$cache/sidegate/compose/$version

if [ -x "$here/docker-compose" ]; then echo "$here"; exit 0; fi
if [ "${1:-}" = --where ]; then echo "$here"; exit 3; fi
go=$(command -v go || echo /usr/local/go/bin/go)
[ -x "$go" ] || { echo "build of compose: the program \`go\` is absent: get Go 1.25 or newer from https://go.dev/dl" >&2; exit 1; }
echo "compose: building $version from Go modules; some 3 minutes the first time" >&2
mkdir -p "$here"
exec 9>"$here/lock"
flock 9
CGO_ENABLED=0 nice -n 10 "$go" build -trimpath -ldflags "-s -w" -o "$here/part" github.com/docker/compose/v2/cmd
mv "$here/part" "$here/docker-compose"
echo "$here"
