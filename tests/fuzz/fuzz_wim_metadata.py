# SPDX-License-Identifier: GPL-3.0-or-later
"""A metadata resource by itself: in a WIM its SHA-1 would refuse nearly every mutation."""

from mediamaker.formats.wim_metadata import WimMetadata, show_name
from tests.fuzz import runner
from tests.fuzz.rule import refused


def test_one_input(data):
    with refused():
        metadata = WimMetadata(data, what="fuzz")
        with refused():
            metadata.security_descriptors()
        with refused():
            for _ in metadata.scan_sha1s():
                pass
        last = metadata.root
        with refused():
            for count, entry in enumerate(metadata.walk()):
                last = entry
                if count < 50:
                    show_name(entry.path)
                assert entry.data is None or not entry.data.is_empty
                assert entry.reparse_data is None or entry.attributes & 0x400
        with refused():
            metadata.find(last.path)
        with refused():
            metadata.find(last.path.upper() + "\\nothing")


def main():
    runner.start("fuzz_wim_metadata")


if __name__ == "__main__":
    main()
