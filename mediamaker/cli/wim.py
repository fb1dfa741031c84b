# SPDX-License-Identifier: GPL-3.0-or-later
"""``mediamaker wim``: look into WIM files, verify, split, join, optimise, capture, apply, edit."""

from __future__ import annotations

import argparse

from mediamaker.cli import wim_cache, wim_images, wim_read, wim_write
from mediamaker.cli.output import Output
from mediamaker.cli.subverbs import SubVerb, add_subverbs, run_subverb
from mediamaker.errors import ExitCode

SUBVERBS = (
    SubVerb(
        "info",
        "images, editions, sizes, compression, parts and integrity",
        "mediamaker wim info install.wim",
        wim_read.add_info_arguments,
        wim_read.run_info,
    ),
    SubVerb(
        "ls",
        "list the files of an image",
        "mediamaker wim ls install.wim:1 /Windows/System32",
        wim_read.add_ls_arguments,
        wim_read.run_ls,
    ),
    SubVerb(
        "cat",
        "write the content of a file to standard output",
        "mediamaker wim cat boot.wim:2 /Windows/Boot/EFI/boot.stl > boot.stl",
        wim_read.add_cat_arguments,
        wim_read.run_cat,
    ),
    SubVerb(
        "extract",
        "copy files and folders of an image into a folder",
        "mediamaker wim extract install.wim:1 --to out /Windows/Boot",
        wim_read.add_extract_arguments,
        wim_read.run_extract,
    ),
    SubVerb(
        "verify",
        "compare every blob with its SHA-1, and name the damaged files and their images",
        "mediamaker wim verify install.wim",
        wim_read.add_verify_arguments,
        wim_read.run_verify,
    ),
    SubVerb(
        "split",
        "cut into parts (SWM) without recompressing",
        "mediamaker wim split install.wim install.swm --size 4GiB",
        wim_write.add_split_arguments,
        wim_write.run_split,
    ),
    SubVerb(
        "join",
        "make one WIM of its parts",
        "mediamaker wim join install.swm install.wim",
        wim_write.add_join_arguments,
        wim_write.run_join,
    ),
    SubVerb(
        "optimize",
        "keep what is wanted, merged and as small as the purpose allows",
        "mediamaker wim optimize install.esd install.wim --images 1,6 --fit 4GiB",
        wim_write.add_optimize_arguments,
        wim_write.run_optimize,
    ),
    SubVerb(
        "capture",
        "capture a folder or NTFS volume into a new WIM",
        "mediamaker wim capture /dev/sdX3 windows.wim --name 'Windows 11'",
        wim_images.add_capture_arguments,
        wim_images.run_capture,
    ),
    SubVerb(
        "append",
        "capture a folder or NTFS volume into a WIM that is there",
        "mediamaker wim append tree install.wim --name Second",
        wim_images.add_append_arguments,
        wim_images.run_append,
    ),
    SubVerb(
        "apply",
        "apply an image to a folder or an empty NTFS volume",
        "mediamaker wim apply install.wim:1 /dev/sdX3",
        wim_images.add_apply_arguments,
        wim_images.run_apply,
    ),
    SubVerb(
        "update",
        "add, delete and rename files of an image without mounting it",
        "echo 'add driver.sys /Windows/driver.sys' | mediamaker wim update boot.wim:2",
        wim_images.add_update_arguments,
        wim_images.run_update,
    ),
    SubVerb(
        "set",
        "set name, description, flags, any XML text, or the boot image",
        "mediamaker wim set boot.wim:2 NAME='Setup' --boot",
        wim_images.add_set_arguments,
        wim_images.run_set,
    ),
    SubVerb(
        "delete",
        "delete images and what only they refer to",
        "mediamaker wim delete install.wim 2 3",
        wim_images.add_delete_arguments,
        wim_images.run_delete,
    ),
    SubVerb(
        "export",
        "copy images into a new or existing WIM",
        "mediamaker wim export install.wim:6 pro.wim",
        wim_write.add_export_arguments,
        wim_write.run_export,
    ),
    SubVerb(
        "cache",
        "list or remove the install images that were prepared for sticks",
        "mediamaker wim cache --clear",
        wim_cache.add_cache_arguments,
        wim_cache.run_cache,
    ),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the sub-verbs and their arguments."""
    add_subverbs(parser, SUBVERBS)


def run(args: argparse.Namespace, output: Output) -> ExitCode:
    """Do what the sub-verb says."""
    return run_subverb(args, output)
