# The images of gate, operator and redirection, for whoever has Docker and a registry; `make image` makes the like of them without either.
#
#   docker build --target gate --build-arg BASE=docker.io/library/python:3.13-slim-bookworm@sha256:... -t REGISTRY/sidegate-gate:VERSION .
#   docker build --target operator ...
#   docker build --target redirect ...     only for targets with `enforcement.mode: Redirect`; BASE has to be a Debian, for its nftables
#
# BASE is a Debian or another system of glibc with Python 3.11 or newer as `python3`. It has no default: whoever builds says which one, by its
# digest. What is installed on it is what uv.lock says, by hash. PIP_INDEX_URL names a mirror, as for `make`; certificate authorities are BASE's.
# Gate and operator run as a user whose number no image of a database has, write nowhere but in what is mounted, and have no program that runs
# as another user than whoever starts it.
ARG BASE

FROM ${BASE} AS locked
ARG BASE
ARG PIP_INDEX_URL
RUN case "${BASE}" in *@sha256:????????????????????????????????????????????????????????????????) ;; \
    *) echo "BASE is \`${BASE}\`, whose content can change: name it by its digest, as in NAME@sha256:..." >&2; exit 1 ;; esac
WORKDIR /build
COPY tools/bootstrap.py tools/image_install.sh tools/
COPY pyproject.toml uv.lock README.md LICENSE ./
RUN mkdir .tools && python3 -c "from tools.bootstrap import get_uv, mirror_setting; get_uv(mirror_setting())"
COPY sidecar sidecar

FROM locked AS gate-files
RUN tools/image_install.sh gate

FROM locked AS operator-files
COPY operator operator
RUN tools/image_install.sh operator

FROM ${BASE} AS bare
RUN find / -xdev -type f -perm /6000 -exec chmod a-s {} +
ENV LANG=C.UTF-8
WORKDIR /

FROM bare AS gate
COPY --from=gate-files /opt/sidegate /opt/sidegate
COPY --from=gate-files /usr/local/bin/sidegate /usr/local/bin/sidegate
USER 64801:64801
ENTRYPOINT ["/usr/local/bin/sidegate"]

FROM bare AS redirect
RUN apt-get update && apt-get install -y --no-install-recommends nftables && rm -rf /var/lib/apt/lists/*
ENTRYPOINT ["/usr/sbin/nft"]

FROM bare AS operator
COPY --from=operator-files /opt/sidegate /opt/sidegate
COPY --from=operator-files /usr/local/bin/sidegate-operator /usr/local/bin/sidegate /usr/local/bin/
USER 64802:64802
ENTRYPOINT ["/usr/local/bin/sidegate-operator"]
