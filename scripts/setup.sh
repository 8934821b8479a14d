#!/bin/sh
# Installs what the build needs and is missing. Debian 12, Ubuntu 24.04 and later; as root or with sudo.
#   scripts/setup.sh        compiler, libraries, Python for lint and the report, procps for the tests
set -eu

if ! command -v apt-get >/dev/null 2>&1; then
    echo "setup: this is no Debian or Ubuntu. Install by hand: g++ >= 12, make, oneDNN, xxHash," >&2
    echo "       PCRE2, utf8proc, nlohmann-json, Open MPI, Catch2, Python 3, procps." >&2
    exit 0
fi

packages="g++ make libdnnl-dev libxxhash-dev libpcre2-dev libutf8proc-dev nlohmann-json3-dev libopenmpi-dev openmpi-bin catch2 python3 procps"
missing=""
for package in $packages; do
    status=$(dpkg-query -W -f='${Status}' "$package" 2>/dev/null || true)
    [ "$status" = "install ok installed" ] || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

sudo=""
if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo >/dev/null 2>&1; then
        echo "setup: not root, and no sudo. As root, once:" >&2
        echo "    apt-get update && apt-get install -y --no-install-recommends$missing" >&2
        exit 1
    fi
    sudo=sudo
fi
echo "setup: installing$missing"
log=$(mktemp)
# shellcheck disable=SC2086
if ! { $sudo apt-get update -qq &&
    $sudo env DEBIAN_FRONTEND=noninteractive DEBCONF_NOWARNINGS=yes apt-get install -y -qq --no-install-recommends $missing; } >"$log" 2>&1; then
    tail -20 "$log" >&2
    echo "setup: apt-get could not install them; what it said is above" >&2
    exit 1
fi
rm -f "$log"
