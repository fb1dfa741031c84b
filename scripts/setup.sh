#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
# Installs what is missing, and nothing else: apt packages and the venv.
# usage: scripts/setup.sh [test]    "test" adds what only the tests need
# A second run installs nothing and takes no network.
set -euo pipefail
cd "$(dirname "$0")/.."

# run: build pyparted and libwim's users, boot in QEMU; then the stand-in ISO of the demo
packages=(
    python3 python3-venv python3-dev gcc libc6-dev pkg-config libparted-dev
    qemu-system-x86 ovmf util-linux libwim15
    ntfs-3g mtools fuse3 libfuse2
    binutils nasm genisoimage wimtools p7zip-full
)
# judges (they read what we wrote), real hybrid media, a kernel for guests with real disks,
# a browser for reports, and an X server for windows
test_packages=(
    file dosfstools e2fsprogs xfsprogs btrfs-progs exfatprogs attr libhivex-bin python3-hivex grub-pc-bin fdisk gdisk parted xorriso qemu-utils libnbd-bin nbdkit nbdkit-plugin-python strace udev
    memtest86+ grub-rescue-pc debian-installer-12-netboot-amd64
    isolinux syslinux-common grub-efi-amd64-bin grub-common
    linux-image-amd64 busybox-static kmod
    chromium xvfb x11-utils xdotool qemu-system-gui
    shim-signed grub-efi-amd64-signed sbsigntool openssl
    qemu-system-arm qemu-efi-aarch64 clang lld
    # kinds of disk that must be refused, built for real in a guest
    lvm2 mdadm cryptsetup-bin dmsetup multipath-tools zfs-fuse
)
[ "${1:-}" = test ] && packages+=("${test_packages[@]}")

missing=()
for package in "${packages[@]}"; do
    state=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
    [ "$state" = installed ] || missing+=("$package")
done
if [ "${#missing[@]}" -gt 0 ]; then
    as_root=()
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null || { echo "setup: not root and no sudo; install: ${missing[*]}" >&2; exit 1; }
        as_root=(sudo)
    fi
    echo "setup: installing ${missing[*]}"
    # Only guests need these services: none is started now, nor with the next boot.
    declare -A services=([mdadm]="mdmonitor mdadm" [multipath-tools]="multipathd multipath-tools"
        [zfs-fuse]=zfs-fuse)
    if [ ! -e /usr/sbin/policy-rc.d ]; then
        trap '"${as_root[@]}" rm -f /usr/sbin/policy-rc.d' EXIT
        printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" install -m 755 /dev/stdin /usr/sbin/policy-rc.d
    fi
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get update -q
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -q -y --no-install-recommends "${missing[@]}"
    for package in "${missing[@]}"; do
        for service in ${services[$package]:-}; do
            "${as_root[@]}" systemctl disable "$service" 2>/dev/null ||
                "${as_root[@]}" update-rc.d "$service" disable 2>/dev/null || true
        done
    done
fi

# The interpreter: python3 of the PATH where it is new enough, else Debian's own.
python=python3
"$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
    python=/usr/bin/python3
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "setup: Python 3.11 or newer is needed, this is $("$python" --version)" >&2
    exit 1
}
stamp=.venv/.setup-stamp
wanted="$(pwd) $(sha256sum pyproject.toml)"
if [ "$(cat "$stamp" 2>/dev/null || true)" != "$wanted" ]; then
    echo "setup: making .venv"
    "$python" -m venv --clear .venv
    .venv/bin/pip install --quiet --quiet --disable-pip-version-check -e '.[dev]'
    echo "$wanted" >"$stamp"
fi
