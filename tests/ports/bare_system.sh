#!/usr/bin/env bash
# Installs a repaired wheel in a Debian 12 without compilers or other Python packages, and runs the README's example.
#     bash tests/ports/bare_system.sh WHEEL ROOT
# Needs Debian and root: it installs debootstrap, and unpacks the system in ROOT unless that exists.
set -euo pipefail
readme=$(realpath "$(dirname "$0")/../../README.md")
wheel=$(realpath "$1")
root=$2

if ! [ -d "$root/etc" ]; then
    apt-get install -qq -y debootstrap > /dev/null
    debootstrap --variant=minbase --include=python3,python3-venv bookworm "$root" > /dev/null
fi
rm -rf "$root/wheels" "$root/venv"
pip download --quiet --only-binary=:all: --platform manylinux_2_28_x86_64 --platform manylinux_2_34_x86_64 \
    --platform manylinux_2_17_x86_64 --python-version 311 -d "$root/wheels" "$wheel"
sed -n '/^```python$/,/^```$/p' "$readme" | sed '1d;/^```$/,$d' > "$root/example.py"

in_root() { env -i HOME=/ PATH=/usr/sbin:/usr/bin:/bin LC_ALL=C.UTF-8 chroot "$root" "$@"; }
if in_root sh -c "command -v gcc || command -v c++ || command -v cmake"; then exit 1; fi
in_root python3 -m venv /venv
before=$(du -sk "$root/venv" | cut -f1)
begin=$(date +%s.%N)
in_root /venv/bin/pip install --quiet --no-index --find-links /wheels fastoptim
end=$(date +%s.%N)
in_root /venv/bin/python /example.py
echo "wheel: $(stat -c %s "$wheel") bytes; pip install: $(awk "BEGIN{printf \"%.1f\", $end - $begin}") s," \
    "$(($(du -sk "$root/venv" | cut -f1) - before)) KiB, of which fastoptim and its libraries $(du -sck "$root"/venv/lib/python3*/site-packages/fastoptim* | tail -1 | cut -f1) KiB"
