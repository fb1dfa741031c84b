#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
# The whole job on a stand-in Windows ISO: inspect, create, verify, boot under BIOS and UEFI.
set -euo pipefail
cd "$(dirname "$0")/.."
out=out/demo
iso=$out/standin-windows.iso
stick=$out/stick.img
mkdir -p "$out"
rm -rf "$out/bios" "$out/uefi"

run() {
    printf '\n$ %s\n' "$*"
    "$@"
}
mediamaker=.venv/bin/mediamaker

echo "Building a stand-in Windows ISO: the names and tree of a real one, boot programs of our own."
token=$(.venv/bin/python -c 'import secrets; print(secrets.token_hex(8))')
run .venv/bin/python vm-tests/standin/make_iso.py "$iso" --token "$token"

run "$mediamaker" inspect "$iso"
run "$mediamaker" plan "$iso" --size auto --seed demo
run "$mediamaker" create "$iso" "$stick" --seed demo --force
run "$mediamaker" verify "$stick" "$iso"
for firmware in bios uefi; do
    run "$mediamaker" boot "$stick" --firmware "$firmware" --expect "token=$token" \
        --screenshot "$out/$firmware"
done

printf '\nBoth firmwares booted it. Screenshots:\n'
find "$PWD/$out/bios" "$PWD/$out/uefi" -name '*.png'
