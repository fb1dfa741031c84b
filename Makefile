# SPDX-License-Identifier: GPL-3.0-or-later
# The supported commands; `make help` lists them.
.DEFAULT_GOAL := help
.PHONY: help setup setup-test demo check test bench real-trees solid-big faults secure-boot bootfiles clean

PYTHON := .venv/bin/python

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## install what is missing: apt packages, .venv with .venv/bin/mediamaker
	@scripts/setup.sh

setup-test: ## the same, with what only the tests need
	@scripts/setup.sh test

demo: setup ## a stand-in Windows ISO -> image file -> verify -> boot under BIOS and UEFI
	@scripts/demo.sh

check: setup-test ## the fast loop: ruff, mypy --strict, tests without the VM tests
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	$(PYTHON) -m pytest -q tests

test: setup-test ## everything: ruff, mypy --strict, tests, vm-tests
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	$(PYTHON) -m pytest -q -n 2 --dist loadfile tests vm-tests

bench: setup-test ## the benchmark table, measured here and now (benchmarks/README.md)
	$(PYTHON) benchmarks/create.py
	$(PYTHON) benchmarks/wim.py
	$(PYTHON) benchmarks/install.py

TREE := /usr
SMALL_TREE := /usr/include

real-trees: setup-test ## every wim verb on TREE (/usr), judged by wimlib-imagex, 7z, ntfs-3g, diff
	scripts/wim_real_trees.sh $(TREE) $(SMALL_TREE)

solid-big: setup-test ## create from an ISO with a solid install.wim over 4 GiB, parts judged, booted
	$(PYTHON) vm-tests/solid_big.py

FAULTS :=

faults: setup-test ## every fault done to every verb, again and again (hours; FAULTS="--only REGEX --keep")
	$(PYTHON) vm-tests/faults/run.py --page docs/faults.md $(FAULTS)

secure-boot: setup-test ## the whole Secure Boot table, a boot a cell, into docs/secure-boot-table.md
	$(PYTHON) vm-tests/secure_boot.py

bootfiles: setup ## assemble the boot programs again; their digests go into MANIFEST.toml
	cd bootfiles && for name in mbr fat32-vbr ntfs-vbr exfat-vbr accel-probe; do \
		nasm -Werror -f bin -o $$name.bin $$name.asm || exit 1; done && sha256sum *.bin

clean: ## remove what tests and demo left in out/
	rm -rf out
