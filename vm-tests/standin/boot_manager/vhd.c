/* SPDX-License-Identifier: GPL-3.0-or-later */
/* A disk in a file: fixed VHD (Microsoft's VHD specification 1.0), whose last sector describes it. */

#include "manager.h"

enum { FOOTER = 512, FIXED = 2 };

static volume holder;
static file content;
static uint64_t content_size;

static uint32_t big32(const uint8_t *at)
{
    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

uint64_t virtual_disk_size(void)
{
    return content_size;
}

int read_virtual_disk(uint64_t offset, uint64_t size, void *buffer)
{
    return read_file(&content, offset, size, buffer);
}

int open_virtual_disk(const volume *from, const char16 *path)
{
    uint8_t footer[FOOTER];
    uint32_t sum = 0;
    if (from->disk == VIRTUAL_DISK)
        return bad("a virtual disk inside of a virtual disk");
    holder = *from;
    if (open_file(&holder, path, &content) != OK)
        return bad("the virtual disk's file is not there");
    if (content.size < 2 * FOOTER ||
        read_file(&content, content.size - FOOTER, FOOTER, footer) != OK)
        return bad("the virtual disk's file is too short");
    for (unsigned at = 0; at < FOOTER; at++)
        if (at < 64 || at >= 68)
            sum += footer[at];
    if (!same_bytes(footer, "conectix", 8) || big32(footer + 64) != ~sum)
        return bad("the virtual disk's file is no VHD");
    content_size = (uint64_t)big32(footer + 48) << 32 | big32(footer + 52);
    if (big32(footer + 60) != FIXED || content_size > content.size - FOOTER)
        return bad("a VHD that is not of fixed size, or not all there");
    return read_table(VIRTUAL_DISK) == OK ? OK : bad("a VHD without a partition table");
}
