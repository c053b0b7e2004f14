#!/usr/bin/env bash
# bootstrap.sh BUNDLE SHA256: installs Orchard on a node of EMR on EC2, before Spark starts.
#
# BUNDLE is the S3 address of the bundle that `make bundle-emr` has made, and SHA256 its digest: a bundle that was changed in
# the bucket is refused. A node needs no internet, only S3, through the VPC's endpoint.
set -euo pipefail

bundle=${1:?usage: bootstrap.sh BUNDLE SHA256} digest=${2:?usage: bootstrap.sh BUNDLE SHA256}
home=${ORCHARD_HOME:-/opt/orchard}
fail() { echo "orchard: $*" >&2; exit 1; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
aws s3 cp --only-show-errors "$bundle" "$work/bundle.tar" || fail "$bundle cannot be read: check the instance profile"
echo "$digest  $work/bundle.tar" | sha256sum --check --quiet --status ||
	fail "$bundle is not what was submitted: its SHA-256 is not $digest"
tar --extract --no-same-owner --file "$work/bundle.tar" --directory "$work"

# Amazon Linux's packages are in S3 too.
python=python$(cat "$work/python-version")
command -v "$python" >/dev/null || sudo dnf install --quiet --assumeyes "$python" ||
	fail "there is no $python: let the S3 endpoint's policy reach Amazon Linux's packages, or take an image that has it"

if [[ $home == /opt/* ]]; then
	sudo install --directory --owner="$(id -u)" --group="$(id -g)" "$home"
fi
"$python" -m venv "$home"
# spark-submit puts Spark's own PySpark on the path, so the bundle holds none.
"$home/bin/python" -m pip install --quiet --no-index --no-deps --no-compile "$work"/wheels/*.whl
install --mode=644 "$work/main.py" "$home/main.py"
