/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Reading FAT12, FAT16 and FAT32 with long names (Microsoft FAT specification 1.03). */

#include "manager.h"

enum { ENTRY = 32, LONG_NAME = 0x0F, IS_LABEL = 0x08, IS_DIRECTORY = 0x10 };

int open_fat(volume *opened, const uint8_t *sector)
{
    uint32_t sector_size = get16(sector + 11), clusters = sector[13];
    uint32_t reserved = get16(sector + 14), fats = sector[16], root_entries = get16(sector + 17);
    uint32_t sectors = get16(sector + 19) ? get16(sector + 19) : get32(sector + 32);
    uint32_t fat_sectors = get16(sector + 22) ? get16(sector + 22) : get32(sector + 36);
    uint32_t shift = 0;
    if (sector_size < 512 || sector_size > 4096 || sector_size & (sector_size - 1) || !clusters ||
        clusters & (clusters - 1) || !reserved || !fats || fats > 2 || !fat_sectors)
        return bad("no file system that is known here");
    while (1u << shift < sector_size * clusters)
        shift++;
    if ((uint64_t)sectors * sector_size > opened->size)
        return bad("a FAT volume that is larger than its partition");
    opened->cluster_shift = shift;
    opened->fat_offset = (uint64_t)reserved * sector_size;
    opened->root_offset = opened->fat_offset + (uint64_t)fats * fat_sectors * sector_size;
    opened->root_size = (root_entries * ENTRY + sector_size - 1) & ~(sector_size - 1);
    opened->data_offset = opened->root_offset + opened->root_size;
    uint64_t data_size = (uint64_t)sectors * sector_size - opened->data_offset;
    opened->cluster_count = (uint32_t)(data_size >> shift);
    opened->fat_bits = opened->cluster_count < 4085 ? 12 : opened->cluster_count < 65525 ? 16 : 32;
    if ((opened->fat_bits == 32) != (root_entries == 0))
        return bad("a FAT volume whose kind is not clear");
    opened->root_cluster = opened->fat_bits == 32 ? get32(sector + 44) : 0;
    opened->kind = FAT;
    return OK;
}

/* 0 at the end of the chain */
static int next_cluster(volume *from, uint32_t cluster, uint32_t *next)
{
    uint8_t bytes[4] = {0};
    uint32_t offset = from->fat_bits == 12 ? cluster + cluster / 2 : cluster * (from->fat_bits / 8);
    uint32_t size = from->fat_bits == 32 ? 4 : 2, end;
    if (read_bytes(from->disk, from->offset + from->fat_offset + offset, size, bytes) != OK)
        return BAD;
    *next = get32(bytes);
    if (from->fat_bits == 12)
        *next = cluster & 1 ? *next >> 4 : *next & 0xFFF;
    *next &= 0x0FFFFFFF;
    end = from->fat_bits == 12 ? 0xFF8 : from->fat_bits == 16 ? 0xFFF8 : 0x0FFFFFF8;
    if (*next >= end)
        *next = 0;
    else if (*next < 2 || *next >= from->cluster_count + 2)
        return bad("a FAT chain that leads outside of the volume");
    return OK;
}

int read_fat_file(file *from, uint64_t offset, uint64_t size, void *buffer)
{
    volume *in = from->volume;
    uint8_t *to = buffer;
    if (offset + size < offset || offset + size > from->size)
        return bad("a read past the end of a FAT file");
    if (!from->first_cluster && size) { /* the root of FAT12 and FAT16 */
        if (!from->is_directory)
            return bad("a FAT file without clusters");
        return read_bytes(in->disk, in->offset + in->root_offset + offset, size, to);
    }
    while (size) {
        uint32_t index = (uint32_t)(offset >> in->cluster_shift);
        uint32_t skipped = (uint32_t)(offset & ((1u << in->cluster_shift) - 1));
        uint64_t count = (1u << in->cluster_shift) - skipped;
        if (count > size)
            count = size;
        if (!from->at_cluster || index < from->at_index) {
            from->at_cluster = from->first_cluster;
            from->at_index = 0;
        }
        while (from->at_index < index) {
            uint32_t next;
            if (next_cluster(in, from->at_cluster, &next) != OK)
                return BAD;
            if (!next)
                return from->is_directory ? not_found("end of a directory")
                                          : bad("a FAT chain shorter than its file");
            from->at_cluster = next;
            from->at_index++;
        }
        uint64_t place = in->data_offset + ((uint64_t)(from->at_cluster - 2) << in->cluster_shift);
        if (read_bytes(in->disk, in->offset + place + skipped, count, to) != OK)
            return BAD;
        to += count;
        offset += count;
        size -= count;
    }
    return OK;
}

static unsigned short_name(const uint8_t *entry, uint8_t *name)
{
    unsigned length = 0;
    for (unsigned at = 0; at < 11; at++) {
        if (at == 8 && entry[8] != ' ') {
            name[length * 2] = '.';
            name[length++ * 2 + 1] = 0;
        }
        if (entry[at] == ' ')
            continue;
        name[length * 2] = entry[at];
        name[length++ * 2 + 1] = 0;
    }
    return length;
}

static int find_entry(file *directory, const char16 *name, unsigned length, uint8_t *entry)
{
    uint8_t long_name[20 * 26], plain[24];
    unsigned long_length = 0;
    for (uint64_t offset = 0; offset < directory->size; offset += ENTRY) {
        int status = read_fat_file(directory, offset, ENTRY, entry);
        if (status != OK)
            return status;
        if (!entry[0])
            return not_found("no such name in a directory");
        if (entry[0] == 0xE5) {
            long_length = 0;
            continue;
        }
        if ((entry[11] & 0x3F) == LONG_NAME) {
            unsigned part = entry[0] & 0x1F;
            if (!part || part > 20)
                return bad("an impossible long name in a FAT directory");
            uint8_t *to = long_name + (part - 1) * 26;
            copy_bytes(to, entry + 1, 10);
            copy_bytes(to + 10, entry + 14, 12);
            copy_bytes(to + 22, entry + 28, 4);
            if (entry[0] & 0x40) {
                long_length = part * 13;
                for (unsigned at = 0; at < 13; at++)
                    if (!get16(to + at * 2)) {
                        long_length = (part - 1) * 13 + at;
                        break;
                    }
            }
            continue;
        }
        unsigned plain_length = short_name(entry, plain);
        if (!(entry[11] & IS_LABEL) && ((long_length && same_name(name, length, long_name, long_length)) ||
                                        same_name(name, length, plain, plain_length)))
            return OK;
        long_length = 0;
    }
    return not_found("no such name in a directory");
}

int open_fat_file(volume *from, const char16 *path, file *opened)
{
    char16 name[256];
    unsigned length;
    uint8_t entry[ENTRY];
    opened->is_directory = 1;
    opened->first_cluster = from->root_cluster;
    opened->size = from->fat_bits == 32 ? 1u << 21 : from->root_size;
    while ((length = next_name(&path, name))) {
        if (!opened->is_directory)
            return not_found("a file where a directory was expected");
        int status = find_entry(opened, name, length, entry);
        if (status != OK)
            return status;
        opened->is_directory = entry[11] & IS_DIRECTORY;
        opened->first_cluster = get16(entry + 26) | (uint32_t)get16(entry + 20) << 16;
        opened->at_cluster = 0;
        opened->size = opened->is_directory ? 1u << 21 : get32(entry + 28);
    }
    return OK;
}
