/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Which entry starts, and whether it would: the order of the real manager (boot-facts.md 3, 5). */

#include "manager.h"

enum { ORDER_MAX = 24, STORE_SIZE_MAX = 8 << 20, LOADER = 0x10200003, RECOVERIES_MAX = 2 };
enum {
    DEVICE = 0x11000001,
    PATH = 0x12000002,
    DESCRIPTION = 0x12000004,
    RECOVERY_SEQUENCE = 0x14000008,
    RECOVERY_ENABLED = 0x16000009,
    OS_DEVICE = 0x21000001,
    SYSTEM_ROOT = 0x22000002,
    DEFAULT = 0x23000003,
    RESUME = 0x23000003,
    DISPLAY_ORDER = 0x24000001,
    BOOT_SEQUENCE = 0x24000002,
    WINPE = 0x26000022
};

static const uint8_t bootmgr_guid[16] = {0x2C, 0x86, 0xEA, 0x9D, 0xDD, 0x5C, 0x70, 0x4E,
                                         0xAC, 0xC1, 0xF3, 0x2B, 0x34, 0x4D, 0x47, 0x95};

static int run_entry(const store *from, const uint8_t *guid, volume *boot, unsigned recoveries);

static int ends_with(const char16 *path, const char *wanted)
{
    unsigned length = 0, wanted_length = 0;
    while (path[length])
        length++;
    while (wanted[wanted_length])
        wanted_length++;
    if (length < wanted_length)
        return 0;
    for (unsigned at = 0; at < wanted_length; at++)
        if (upper(path[length - wanted_length + at]) != upper((uint8_t)wanted[at]))
            return 0;
    return 1;
}

/* What the loader itself would open: the system's hive, below the root that the entry names. */
static int check_system(const store *from, key object, volume *boot)
{
    static const char16 hive_path[] = u"\\System32\\config\\SYSTEM";
    char16 path[PATH_MAX16];
    device system;
    uint8_t *data;
    uint64_t size;
    hive opened;
    unsigned length = 0;
    if (resolve_device(from, object, OS_DEVICE, boot, &system) != OK)
        return BAD;
    if (element_text(from, object, SYSTEM_ROOT, path) != OK)
        return bad("the entry lacks the system root");
    while (path[length])
        length++;
    if (length + sizeof hive_path / 2 > PATH_MAX16)
        return bad("the system root is too long");
    copy_bytes(path + length, hive_path, sizeof hive_path);
    if (read_whole(&system.volume, path, 64 << 20, &data, &size) != OK)
        return bad("the system's hive is not below the system root");
    if (check_hive(&opened, data, size) != OK)
        return BAD;
    say("system root holds a sound SYSTEM hive");
    end_line();
    return OK;
}

/* Another object that has a device, such as {resume}: it must be there, and so must its device. */
static int check_other(const store *from, key object, uint32_t id, const char *what, volume *boot)
{
    uint8_t guid[1][16];
    unsigned count;
    device found;
    int status = element_guids(from, object, id, guid, 1, &count);
    if (status != OK)
        return status == NOT_FOUND ? OK : status;
    say(what);
    put_guid(guid[0]);
    end_line();
    key other = find_object(from, guid[0]);
    if (!other)
        return bad("an object that the entry names is not in the store");
    return resolve_device(from, other, DEVICE, boot, &found);
}

static int recover(const store *from, key object, volume *boot, unsigned recoveries)
{
    uint8_t guids[ORDER_MAX][16];
    unsigned count;
    say("loader fails: ");
    put(reason);
    end_line();
    if (!element_flag(from, object, RECOVERY_ENABLED))
        return bad("no loader, and recovery is not enabled");
    if (element_guids(from, object, RECOVERY_SEQUENCE, guids, ORDER_MAX, &count) != OK)
        return bad("no loader, and no recovery sequence");
    if (recoveries >= RECOVERIES_MAX)
        return bad("a circle of recovery sequences");
    return run_entry(from, guids[0], boot, recoveries + 1);
}

static int run_entry(const store *from, const uint8_t *guid, volume *boot, unsigned recoveries)
{
    char16 text[PATH_MAX16];
    char token[80];
    uint32_t type;
    device found;
    int status;
    say("entry ");
    put_guid(guid);
    end_line();
    key object = find_object(from, guid);
    if (!object)
        return bad("the entry is not in the store");
    if (object_type(from, object, &type) != OK)
        return BAD;
    if (type != LOADER)
        return bad("the entry is no loader of an operating system");
    if (element_text(from, object, DESCRIPTION, text) != OK)
        return bad("the entry lacks a description");
    say("description ");
    put_path(text);
    end_line();
    if (resolve_device(from, object, DEVICE, boot, &found) != OK)
        return BAD;
    status = element_text(from, object, PATH, text);
    if (status == BAD || (status == NOT_FOUND && !element_flag(from, object, WINPE)))
        return bad("the entry lacks a path");
    if (status == OK) {
        say("path ");
        put_path(text);
        end_line();
        if (!ends_with(text, is_uefi ? ".efi" : ".exe"))
            return bad("the entry's path is for the other kind of firmware");
    }
    if (found.is_ramdisk) {
        device system;
        if (check_ramdisk(from, boot, &found, token) != OK)
            return BAD;
        if (resolve_device(from, object, OS_DEVICE, boot, &system) != OK)
            return BAD;
        if (!system.is_ramdisk || !element_flag(from, object, WINPE))
            return bad("an entry with a ramdisk that is no WinPE");
        put("MM-WINRE: ");
        put(token);
        end_line();
        return OK;
    }
    status = check_loader(&found.volume, text, token);
    if (status != OK)
        return recover(from, object, boot, recoveries);
    if (check_system(from, object, boot) != OK ||
        check_other(from, object, RESUME, "resume ", boot) != OK)
        return BAD;
    put("MM-TOKEN: ");
    put(token);
    end_line();
    return OK;
}

static int choose_entry(const store *from, key manager, uint8_t *guid)
{
    uint8_t order[ORDER_MAX][16];
    unsigned count;
    static const uint32_t ids[3] = {BOOT_SEQUENCE, DEFAULT, DISPLAY_ORDER};
    for (unsigned which = 0; which < 3; which++) {
        int status = element_guids(from, manager, ids[which], order, ORDER_MAX, &count);
        if (status == BAD)
            return BAD;
        if (status == NOT_FOUND)
            continue;
        say(which == 0 ? "bootsequence" : which == 1 ? "default" : "displayorder");
        end_line();
        copy_bytes(guid, order[0], 16);
        return OK;
    }
    return bad("no default and no displayorder");
}

static int run_store(volume *boot)
{
    static const char16 uefi_path[] = u"\\EFI\\Microsoft\\Boot\\BCD", uefi_other[] = u"\\EFI\\Boot\\BCD";
    static const char16 bios_path[] = u"\\Boot\\BCD";
    uint8_t *data, guid[16], order[ORDER_MAX][16];
    uint64_t size;
    unsigned count;
    store opened;
    const char16 *path = is_uefi ? uefi_path : bios_path;
    int status = read_whole(boot, path, STORE_SIZE_MAX, &data, &size);
    if (status == NOT_FOUND && is_uefi) {
        path = uefi_other;
        status = read_whole(boot, path, STORE_SIZE_MAX, &data, &size);
    }
    if (status != OK)
        return status == NOT_FOUND ? bad("no boot store on the volume this came from") : status;
    say("store ");
    put_path(path);
    put(" size ");
    put_decimal((uint32_t)size);
    end_line();
    if (open_store(&opened, data, size) != OK)
        return BAD;
    say("store keys ");
    put_decimal(opened.hive.keys);
    end_line();
    key manager = find_object(&opened, bootmgr_guid);
    if (!manager)
        return bad("{bootmgr} is not in the store");
    if (element_guids(&opened, manager, DISPLAY_ORDER, order, ORDER_MAX, &count) == OK)
        for (unsigned index = 0; index < count; index++)
            if (!find_object(&opened, order[index]))
                return bad("displayorder names an object that is not in the store");
    if (choose_entry(&opened, manager, guid) != OK)
        return BAD;
    return run_entry(&opened, guid, boot, 0);
}

void run_manager(volume *boot)
{
    say("volume of this program: disk ");
    put_decimal(boot->disk);
    put(" at 0x");
    put_hex(boot->offset, 1);
    put(boot->kind == NTFS ? " ntfs" : boot->kind == FAT ? " fat" : " unknown");
    end_line();
    if (run_store(boot) != OK) {
        put("MM-BCD-ERROR: ");
        put(reason);
        end_line();
    }
    put("MM-BCD-END");
    end_line();
}
