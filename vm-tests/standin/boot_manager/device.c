/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Device elements (boot-facts.md 3.5), resolved against the tables that the disks really have. */

#include "manager.h"

enum { RAMDISK = 0, BOOT = 5, PARTITION = 6, LOCATE = 8, LOCAL_RAMDISK = 3, FILE_PATH = 5 };
enum { LOCAL_FILE = 5, LOCAL_VHD = 6, LOCATE_SIZE = 0x1E, VHD_FILE = 0x28, FILE_PARENT = 0x20 };
enum { STYLE_GPT = 0, STYLE_MBR = 1, SIZE_FIXED = 0x48 };

static const uint8_t no_bytes[32];

static int open_partition(const partition *at, volume *opened)
{
    say("  is disk ");
    put_decimal(at->disk);
    put(" partition ");
    put_decimal(at->number);
    put(" at 0x");
    put_hex(at->offset, 1);
    end_line();
    return open_volume(opened, at->disk, at->offset, at->size);
}

static int resolve_gpt(const uint8_t *wanted, const uint8_t *disk_guid, volume *found)
{
    int is_disk_there = 0;
    say("  gpt disk ");
    put_guid(disk_guid);
    end_line();
    say("  partition ");
    put_guid(wanted);
    end_line();
    if (!is_uefi)
        return bad("a GPT partition in a store for BIOS");
    for (unsigned disk = 0; disk < disk_count(); disk++) {
        const table *in = disk_table(disk);
        if (!in->is_gpt || !same_bytes(in->guid, disk_guid, 16))
            continue;
        is_disk_there = 1;
        for (unsigned index = 0; index < in->partition_count; index++)
            if (same_bytes(in->partitions[index].guid, wanted, 16))
                return open_partition(&in->partitions[index], found);
    }
    return bad(is_disk_there ? "no partition of that disk has this GUID" : "no disk has this GUID");
}

static int resolve_mbr(uint64_t offset, uint32_t signature, volume *found)
{
    int is_disk_there = 0;
    say("  mbr disk 0x");
    put_hex(signature, 8);
    put(" offset 0x");
    put_hex(offset, 1);
    end_line();
    for (unsigned disk = 0; disk < disk_count(); disk++) {
        const table *in = disk_table(disk);
        if (!in->is_mbr || in->signature != signature)
            continue;
        is_disk_there = 1;
        for (unsigned index = 0; index < in->partition_count; index++)
            if (in->partitions[index].offset == offset)
                return open_partition(&in->partitions[index], found);
    }
    return bad(is_disk_there ? "no partition of that disk has this offset"
                             : "no disk has this signature");
}

static int locate_on(unsigned disk, const char16 *path, volume *found)
{
    file opened;
    const table *in = disk_table(disk);
    for (unsigned index = 0; index < in->partition_count; index++) {
        const partition *at = &in->partitions[index];
        if (open_volume(found, disk, at->offset, at->size) == OK &&
            open_file(found, path, &opened) == OK)
            return open_partition(at, found);
    }
    return NOT_FOUND;
}

/* On any disk, or on the virtual one only. */
static int locate(const char16 *path, int is_virtual, volume *found)
{
    say("  locate ");
    put_path(path);
    end_line();
    if (is_virtual && locate_on(VIRTUAL_DISK, path, found) == OK)
        return OK;
    for (unsigned disk = 0; !is_virtual && disk < disk_count(); disk++)
        if (locate_on(disk, path, found) == OK)
            return OK;
    return bad("no partition has the path to locate");
}

/* A path with its final NUL, of exactly that many bytes. */
static int copy_path(const uint8_t *bytes, uint32_t size, char16 *path)
{
    uint32_t length = size / 2;
    if (size % 2 || length < 2 || length > PATH_MAX16 || get16(bytes + size - 2))
        return bad("a path in a device is not closed, or too long");
    for (uint32_t at = 0; at < length; at++) {
        path[at] = get16(bytes + at * 2);
        if (!path[at] && at + 1 < length)
            return bad("a path in a device ends before its place");
    }
    return OK;
}

static int resolve_descriptor(const store *from, key object, const uint8_t *at, uint32_t room,
                              volume *boot, volume *found);

/* Type 0, of a virtual disk, whose only content is the descriptor of a file. */
static int open_vhd(const store *from, key object, const uint8_t *at, uint32_t room, volume *boot)
{
    char16 path[PATH_MAX16];
    volume holder;
    const uint8_t *inner = at + VHD_FILE;
    if (room < VHD_FILE + FILE_PARENT + 0x18 || get32(at) != 0 || get32(at + 8) != room ||
        get32(at + 0x10) != LOCAL_VHD || !same_bytes(at + 0x14, no_bytes, 20))
        return bad("a parent that is no virtual disk");
    uint32_t size = room - VHD_FILE;
    if (get32(inner) != 0 || get32(inner + 8) != size || get32(inner + 0x10) != LOCAL_FILE ||
        get32(inner + 0x18) != size - 0x14 || get32(inner + 0x1C) != FILE_PATH)
        return bad("a virtual disk without its file");
    uint32_t parent_size = get32(inner + FILE_PARENT + 8);
    if (parent_size < 0x18 || parent_size > size - FILE_PARENT)
        return bad("a virtual disk with an impossible parent");
    if (copy_path(inner + FILE_PARENT + parent_size, size - FILE_PARENT - parent_size, path) != OK)
        return BAD;
    say("  vhd ");
    put_path(path);
    end_line();
    if (resolve_descriptor(from, object, inner + FILE_PARENT, parent_size, boot, &holder) != OK)
        return BAD;
    return open_virtual_disk(&holder, path);
}

static int resolve_descriptor(const store *from, key object, const uint8_t *at, uint32_t room,
                              volume *boot, volume *found)
{
    char16 path[PATH_MAX16];
    uint32_t type = get32(at), size = get32(at + 8);
    if (size > room || size < 0x18 || get32(at + 12))
        return bad("a device of the wrong size");
    if ((type == BOOT || type == PARTITION) && size != SIZE_FIXED)
        return bad("a device of the wrong size");
    switch (type) {
    case BOOT:
        say("  boot");
        end_line();
        *found = *boot;
        return OK;
    case PARTITION:
        if (get32(at + 0x20) != 0)
            return bad("a partition that is not on a hard disk");
        if (get32(at + 0x24) == STYLE_GPT)
            return resolve_gpt(at + 0x10, at + 0x28, found);
        if (get32(at + 0x24) == STYLE_MBR) {
            if (!same_bytes(at + 0x18, no_bytes, 8) || !same_bytes(at + 0x2C, no_bytes, 0x1C))
                return bad("an MBR device with more than offset and signature");
            return resolve_mbr(get64(at + 0x10), get32(at + 0x28), found);
        }
        return bad("a partition of an unknown style");
    case LOCATE:
        if (get32(at + 0x10) == 0) {
            uint32_t parent = get32(at + 0x18);
            if (parent && (parent != LOCATE_SIZE || size < LOCATE_SIZE + VHD_FILE))
                return bad("a locate device with an impossible parent");
            if (parent && open_vhd(from, object, at + parent, size - parent, boot) != OK)
                return BAD;
            if (element_text(from, object, get32(at + 0x14), path) != OK)
                return bad("no element with the path to locate");
            return locate(path, parent != 0, found);
        }
        if (size < 0x20 || copy_path(at + 0x1C, size - 0x1C, path) != OK)
            return bad("a locate device without a path");
        return locate(path, 0, found);
    default:
        return bad("a kind of device that this program does not know");
    }
}

int resolve_device(const store *from, key object, uint32_t id, volume *boot, device *found)
{
    value element;
    clear_bytes(found, sizeof *found);
    say("device ");
    put_hex(id, 8);
    end_line();
    int status = find_element(from, object, id, &element);
    if (status != OK)
        return status == NOT_FOUND ? bad("an entry lacks a device") : status;
    const uint8_t *at = element.data + 0x10;
    uint32_t size = element.size - 0x10;
    if (get32(at + 8) != size)
        return bad("a device whose size is not that of its element");
    copy_bytes(found->options, element.data, 16);
    if (get32(at) != RAMDISK) {
        if (!same_bytes(found->options, no_bytes, 16))
            return bad("options of a device that takes none");
        return resolve_descriptor(from, object, at, size, boot, &found->volume);
    }
    if (size < 0x34 + 0x18 || get32(at + 0x10) != LOCAL_RAMDISK)
        return bad("a kind of device that this program does not know");
    uint32_t length = get32(at + 0x2C), nested_size = get32(at + 0x3C);
    if (length != size - 0x28 || get32(at + 0x30) != FILE_PATH)
        return bad("a ramdisk whose file path has the wrong size");
    if (nested_size > size - 0x34 || nested_size < 0x18)
        return bad("a ramdisk with an impossible parent");
    found->is_ramdisk = 1;
    if (copy_path(at + 0x34 + nested_size, size - 0x34 - nested_size, found->path) != OK)
        return BAD;
    say("  ramdisk ");
    put_path(found->path);
    end_line();
    if (get32(at + 0x34) == LOCATE && get32(at + 0x44) == 0)
        return bad("a ramdisk on a device located by element");
    return resolve_descriptor(from, object, at + 0x34, nested_size, boot, &found->volume);
}
