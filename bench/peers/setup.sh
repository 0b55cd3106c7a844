#!/bin/bash
# Installs the peers through apt, PyPI and the Go module proxy, and builds larder and the C programs. Safe to run again.
# What cannot be had is said, and its contestants are skipped.
set -u
here=$(cd "$(dirname "$0")" && pwd)
W=${PEERS_WORK:-${TMPDIR:-/var/tmp}/larder-peers}; tree=${PEERS_LARDER_TREE:-$here/../..}; mkdir -p "$W"/{bin,log,ram}; lost=""
try() { name=$1; shift; "$@" >"$W/log/setup-$name.log" 2>&1 || { lost="$lost $name"; echo "setup: *** $name is missing, see $W/log/setup-$name.log" >&2; }; }
venv() { d=$W/$1; shift; [ -x "$d/bin/python" ] || python3 -m venv "$d" && "$d/bin/pip" install -q "$@"; }
gobin() { [ -x "$W/bin/$1" ] || GOBIN=$W/bin go install "$2"; }
freecache() { cd "$here/go" && go build -o "$W/bin/freecacheworker" .; }
apt() { DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends gcc g++ make curl python3-venv redis-server memcached nginx-light awscli fuse3 \
  libhiredis-dev liblmdb-dev libcurl4-openssl-dev; }

try apt apt
mountpoint -q "$W/ram" || mount -t tmpfs -o size=12g tmpfs "$W/ram" || echo "setup: no tmpfs mount: part 1 limits and parts 2 and 3 will use the disk" >&2
try venv          venv venv boto3 awscrt obstore fsspec "numpy<2"
try venv-s3fs     venv venv-s3fs "s3fs>=2024" fsspec aiohttp "numpy<2"
try venv-plasma   venv venv-plasma "pyarrow==11.0.0" "numpy<2"      # the last wheel with plasma_store and its headers
try venv-vineyard venv venv-vineyard vineyard "numpy<2" "pyarrow<18" "setuptools<70"
try versitygw     gobin versitygw github.com/versity/versitygw/cmd/versitygw@v1.8.0
try rclone        gobin rclone github.com/rclone/rclone@v1.76.0
# s5cmd is not installed here; a binary on the PATH or in $W/bin is picked up by part 2.
try freecache     freecache
try larder        scons -C "$tree"
try programs      make -k -C "$here" W="$W"
echo "setup: done in $W${lost:+, but without:$lost}"
