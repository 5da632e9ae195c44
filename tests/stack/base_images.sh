#!/usr/bin/env bash
# Base images from Debian's packages, for machines that reach no registry of images: aemodels-test/python and
# aemodels-test/postgres. Needs root, Docker and debootstrap. The machine's own CA certificates and pip's settings
# go into them, so that pip works in a build as it does here.
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

make_image() {  # NAME PACKAGES
    docker image inspect "$1" >/dev/null 2>&1 && return
    debootstrap --variant=minbase --include="$2" bookworm "$work/root" >"$work/log" 2>&1 ||
        { tail -n 20 "$work/log" >&2; return 1; }
    rm -rf "$work"/root/var/lib/apt/lists/* "$work"/root/var/cache/apt/*.deb "$work"/root/var/cache/apt/archives/*.deb \
        "$work"/root/usr/share/{doc,man,locale,info}/*
    install -D -m 644 /etc/ssl/certs/ca-certificates.crt "$work/root/etc/ssl/certs/ca-certificates.crt"
    [ ! -f /etc/pip.conf ] || install -m 644 /etc/pip.conf "$work/root/etc/pip.conf"
    tar -C "$work/root" -c . | docker import \
        --change 'ENV PIP_CERT=/etc/ssl/certs/ca-certificates.crt' \
        --change 'ENV SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt' - "$1" >/dev/null
    rm -rf "$work/root"
}

make_image aemodels-test/python ca-certificates,python3,python3-venv,python3-pip
make_image aemodels-test/postgres-base ca-certificates,postgresql
docker build --quiet --tag aemodels-test/postgres "$here/postgres"
