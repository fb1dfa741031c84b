/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * Bytes of disks, and their partition tables: GPT (UEFI 2.10, chapter 5.3) and MBR with its
 * chain of logical partitions. A GPT counts only when its checksums and its protective MBR hold.
 */

#include "manager.h"

enum { WINDOW = 32 << 10, SLOTS = 8, MBR_ENTRIES = 0x1BE };

static struct {
    int is_filled;
    unsigned disk;
    uint64_t start;
    uint8_t *data;
} slots[SLOTS];
static unsigned next_slot;
static table tables[DISKS_MAX + 1];

static uint64_t size_of(unsigned disk)
{
    return disk == VIRTUAL_DISK ? virtual_disk_size() : disk_size(disk);
}

static uint32_t shift_of(unsigned disk)
{
    return disk == VIRTUAL_DISK ? 9 : disk_sector_shift(disk);
}

static uint8_t *read_window(unsigned disk, uint64_t start)
{
    uint64_t size = disk_size(disk);
    uint32_t shift = disk_sector_shift(disk), wanted = WINDOW;
    for (unsigned slot = 0; slot < SLOTS; slot++)
        if (slots[slot].is_filled && slots[slot].disk == disk && slots[slot].start == start)
            return slots[slot].data;
    unsigned slot = next_slot++ % SLOTS;
    if (!slots[slot].data)
        slots[slot].data = allocate(WINDOW);
    if (start >= size || !slots[slot].data)
        return 0;
    if (wanted > size - start)
        wanted = (uint32_t)(size - start);
    slots[slot].is_filled = 0;
    if (read_sectors(disk, start >> shift, wanted >> shift, slots[slot].data) != OK)
        return 0;
    slots[slot].is_filled = 1;
    slots[slot].disk = disk;
    slots[slot].start = start;
    return slots[slot].data;
}

int read_bytes(unsigned disk, uint64_t offset, uint64_t size, void *buffer)
{
    uint8_t *to = buffer;
    if (offset + size < offset || offset + size > size_of(disk))
        return bad("a read past the end of the disk");
    if (disk == VIRTUAL_DISK)
        return read_virtual_disk(offset, size, buffer);
    while (size) {
        uint64_t start = offset & ~(uint64_t)(WINDOW - 1);
        uint32_t skipped = (uint32_t)(offset - start), count = WINDOW - skipped;
        const uint8_t *window = read_window(disk, start);
        if (!window)
            return bad("the disk could not be read");
        if (count > size)
            count = (uint32_t)size;
        copy_bytes(to, window + skipped, count);
        to += count;
        offset += count;
        size -= count;
    }
    return OK;
}

static partition *add_partition(unsigned disk, unsigned number, uint64_t lba, uint64_t sectors)
{
    table *into = &tables[disk];
    uint32_t shift = shift_of(disk);
    if (into->partition_count == PARTITIONS_MAX)
        return 0;
    partition *added = &into->partitions[into->partition_count++];
    added->disk = disk;
    added->number = number;
    added->offset = lba << shift;
    added->size = sectors << shift;
    return added;
}

static int read_gpt_at(unsigned disk, uint64_t lba, uint64_t other_lba)
{
    uint32_t shift = shift_of(disk);
    uint8_t header[512], entry[128];
    static const uint8_t unused[16];
    table *into = &tables[disk];
    if (read_bytes(disk, lba << shift, sizeof header, header) != OK)
        return BAD;
    if (!same_bytes(header, "EFI PART", 8))
        return bad("no GPT header");
    uint32_t header_size = get32(header + 12), crc = get32(header + 16);
    uint32_t count = get32(header + 80), entry_size = get32(header + 84);
    if (header_size < 92 || header_size > sizeof header || entry_size != 128 || count > 1024)
        return bad("a GPT header with impossible sizes");
    clear_bytes(header + 16, 4);
    if (~update_crc(~0u, header, header_size) != crc)
        return bad("GPT header checksum");
    if (get64(header + 24) != lba || get64(header + 32) != other_lba)
        return bad("GPT header is not where it says, or its other copy is not");
    uint64_t array = get64(header + 72) << shift;
    uint32_t array_crc = ~0u;
    copy_bytes(into->guid, header + 56, 16);
    into->partition_count = 0;
    for (uint32_t index = 0; index < count; index++) {
        if (read_bytes(disk, array + (uint64_t)index * 128, 128, entry) != OK)
            return BAD;
        array_crc = update_crc(array_crc, entry, 128);
        if (same_bytes(entry, unused, 16))
            continue;
        uint64_t first = get64(entry + 32), last = get64(entry + 40);
        if (first < get64(header + 40) || last < first || last > get64(header + 48))
            return bad("a GPT partition outside of the usable sectors");
        partition *added = add_partition(disk, index + 1, first, last - first + 1);
        if (!added)
            return bad("more partitions than this program has room for");
        copy_bytes(added->type_guid, entry, 16);
        copy_bytes(added->guid, entry + 16, 16);
    }
    if (~array_crc != get32(header + 88))
        return bad("GPT partition array checksum");
    return OK;
}

static int read_gpt(unsigned disk)
{
    uint64_t last = (size_of(disk) >> shift_of(disk)) - 1;
    uint8_t guid[16];
    /* Both copies must be whole; the first one is used. */
    if (read_gpt_at(disk, last, 1) != OK)
        return BAD;
    copy_bytes(guid, tables[disk].guid, 16);
    unsigned count = tables[disk].partition_count;
    if (read_gpt_at(disk, 1, last) != OK)
        return BAD;
    if (!same_bytes(guid, tables[disk].guid, 16) || count != tables[disk].partition_count)
        return bad("the two copies of the GPT differ");
    return OK;
}

static int read_logical(unsigned disk, uint64_t extended)
{
    uint8_t sector[512];
    uint64_t at = extended;
    for (unsigned number = 5; number < 60; number++) {
        if (read_bytes(disk, at << shift_of(disk), sizeof sector, sector) != OK)
            return BAD;
        if (get16(sector + 510) != 0xAA55)
            return bad("a link of the extended partition without its signature");
        const uint8_t *own = sector + MBR_ENTRIES, *next = own + 16;
        if (own[4]) {
            partition *added = add_partition(disk, number, at + get32(own + 8), get32(own + 12));
            if (added)
                added->type_code = own[4];
        }
        if (!next[4])
            return OK;
        at = extended + get32(next + 8);
    }
    return bad("an endless chain of logical partitions");
}

static int read_mbr(unsigned disk)
{
    uint8_t sector[512];
    int has_protective = 0;
    table *into = &tables[disk];
    if (read_bytes(disk, 0, sizeof sector, sector) != OK)
        return BAD;
    if (get16(sector + 510) != 0xAA55)
        return not_found("no partition table");
    into->signature = get32(sector + 0x1B8);
    for (unsigned index = 0; index < 4; index++)
        has_protective |= sector[MBR_ENTRIES + index * 16 + 4] == 0xEE;
    if (has_protective && is_uefi) {
        into->is_gpt = read_gpt(disk) == OK;
        return into->is_gpt ? OK : BAD;
    }
    for (unsigned index = 0; index < 4; index++) {
        const uint8_t *entry = sector + MBR_ENTRIES + index * 16;
        uint8_t code = entry[4];
        if (!code || code == 0xEE)
            continue;
        if (code == 0x05 || code == 0x0F) {
            if (read_logical(disk, get32(entry + 8)) != OK)
                return BAD;
            continue;
        }
        partition *added = add_partition(disk, index + 1, get32(entry + 8), get32(entry + 12));
        if (added)
            added->type_code = code;
    }
    into->is_mbr = 1;
    return OK;
}

int read_table(unsigned disk)
{
    table *into = &tables[disk];
    into->partitions = allocate(PARTITIONS_MAX * sizeof(partition));
    if (!into->partitions)
        return bad("out of memory");
    int status = read_mbr(disk);
    say(disk == VIRTUAL_DISK ? "virtual disk " : "disk ");
    put_decimal(disk);
    if (status != OK) {
        put(status == BAD ? " damaged: " : " ");
        put(reason);
        into->partition_count = 0;
    } else if (into->is_gpt) {
        put(" gpt ");
        put_guid(into->guid);
    } else {
        put(" mbr signature 0x");
        put_hex(into->signature, 8);
    }
    put(" partitions ");
    put_decimal(into->partition_count);
    end_line();
    return status;
}

void read_tables(void)
{
    for (unsigned disk = 0; disk < disk_count(); disk++)
        read_table(disk);
}

const table *disk_table(unsigned disk)
{
    return &tables[disk];
}
