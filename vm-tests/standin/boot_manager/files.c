/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Files of a volume, whichever file system it has. */

#include "manager.h"

unsigned next_name(const char16 **path, char16 *name)
{
    unsigned length = 0;
    while (**path == '\\')
        ++*path;
    for (; **path && **path != '\\' && length < 255; ++*path)
        name[length++] = **path;
    return length;
}

/* other is UTF-16, perhaps not aligned */
int same_name(const char16 *one, unsigned one_length, const uint8_t *other, unsigned other_length)
{
    if (one_length != other_length)
        return 0;
    for (unsigned at = 0; at < one_length; at++)
        if (upper(one[at]) != upper(get16(other + at * 2)))
            return 0;
    return 1;
}

int open_volume(volume *opened, unsigned disk, uint64_t offset, uint64_t size)
{
    uint8_t sector[512];
    clear_bytes(opened, sizeof *opened);
    opened->disk = disk;
    opened->offset = offset;
    opened->size = size;
    if (read_bytes(disk, offset, sizeof sector, sector) != OK)
        return BAD;
    if (get16(sector + 510) != 0xAA55)
        return bad("no file system");
    return same_bytes(sector + 3, "NTFS    ", 8) ? open_ntfs(opened, sector) : open_fat(opened, sector);
}

int open_file(volume *from, const char16 *path, file *opened)
{
    clear_bytes(opened, sizeof *opened);
    opened->volume = from;
    if (*path != '\\')
        return not_found("a path that does not start with a backslash");
    switch (from->kind) {
    case NTFS:
        return open_ntfs_file(from, path, opened);
    case FAT:
        return open_fat_file(from, path, opened);
    default:
        return bad("no file system");
    }
}

int read_file(file *from, uint64_t offset, uint64_t size, void *buffer)
{
    return from->volume->kind == NTFS ? read_ntfs_file(from, offset, size, buffer)
                                      : read_fat_file(from, offset, size, buffer);
}

int read_whole(volume *from, const char16 *path, uint64_t size_max, uint8_t **data, uint64_t *size)
{
    file opened;
    int status = open_file(from, path, &opened);
    if (status != OK)
        return status;
    if (opened.is_directory || opened.size > size_max)
        return bad("a directory, or a file of an absurd size");
    *size = opened.size;
    *data = allocate(opened.size + 1);
    if (!*data)
        return bad("out of memory");
    return read_file(&opened, 0, opened.size, *data);
}

int crc_file(file *from, uint64_t zeroed_offset, uint32_t *crc)
{
    static uint8_t *chunk;
    enum { CHUNK = 64 << 10 };
    if (!chunk)
        chunk = allocate(CHUNK);
    if (!chunk)
        return bad("out of memory");
    *crc = ~0u;
    for (uint64_t offset = 0; offset < from->size; offset += CHUNK) {
        uint64_t count = from->size - offset < CHUNK ? from->size - offset : CHUNK;
        if (read_file(from, offset, count, chunk) != OK)
            return BAD;
        for (uint64_t at = zeroed_offset; at < zeroed_offset + 4; at++)
            if (at >= offset && at - offset < count)
                chunk[at - offset] = 0;
        *crc = update_crc(*crc, chunk, count);
    }
    *crc = ~*crc;
    return OK;
}
