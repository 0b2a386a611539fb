#!/bin/sh
# In a build of the Dockerfile: installs the gate or the operator into /opt/sidegate, and its commands into /usr/local/bin. Packages are those of
# uv.lock, by hash, as wheels; the project's own code is copied, so that no build tool runs that the lock doesn't know.
# usage: image_install.sh gate|operator      in the project's folder
set -eu
case $1 in
  gate) packages="sidecar/sidegate" commands="sidegate:sidegate.cli.main" ;;
  operator)
    packages="sidecar/sidegate operator/sidegate_operator"
    commands="sidegate-operator:sidegate_operator.main sidegate:sidegate.cli.main"
    ;;
  *) echo "\`$1\` is no part: name gate or operator" >&2; exit 2 ;;
esac
uv=$(echo .tools/uv-*)
[ -z "${PIP_INDEX_URL:-}" ] || export UV_DEFAULT_INDEX="$PIP_INDEX_URL"
export UV_SYSTEM_CERTS=true UV_PYTHON_DOWNLOADS=never UV_LINK_MODE=copy UV_NO_CACHE=1

"$uv" export --quiet --frozen --no-dev --no-emit-project --extra "$1" --output-file requirements.txt
"$uv" venv --quiet --python "$(command -v python3)" /opt/sidegate
"$uv" pip install --quiet --python /opt/sidegate/bin/python3 --no-deps --require-hashes --only-binary :all: -r requirements.txt
site=$(/opt/sidegate/bin/python3 -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
for package in $packages; do cp -r "$package" "$site"; done
/opt/sidegate/bin/python3 -m compileall -q --invalidation-mode unchecked-hash "$site" # a container with a read-only root can't
for command in $commands; do
  program=/usr/local/bin/${command%%:*}
  printf '#!/opt/sidegate/bin/python3 -Iu\nimport sys\n\nfrom %s import main\n\nsys.exit(main())\n' "${command#*:}" >"$program"
  chmod 755 "$program"
done
