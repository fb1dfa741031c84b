/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * The stand-in as a Linux program, for tests of a second instead of a machine's start:
 *   host uefi|bios BOOT-DISK BOOT-OFFSET SECTOR-SIZE IMAGE...
 *   host store FILE                  checks a store and lists its objects and elements
 */

#define _GNU_SOURCE
#define _FILE_OFFSET_BITS 64
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "manager.h"

int is_uefi = 1;
static int descriptors[DISKS_MAX];
static uint64_t sizes[DISKS_MAX];
static unsigned disks;
static uint32_t sector_shift = 9;

void put_char(char c)
{
    if (c != '\r')
        putchar(c);
}

void *allocate(uint64_t size)
{
    return calloc(1, size);
}

unsigned disk_count(void)
{
    return disks;
}

uint32_t disk_sector_shift(unsigned disk)
{
    (void)disk;
    return sector_shift;
}

uint64_t disk_size(unsigned disk)
{
    return sizes[disk];
}

int read_sectors(unsigned disk, uint64_t lba, uint32_t count, void *buffer)
{
    size_t size = (size_t)count << sector_shift;
    ssize_t got = pread(descriptors[disk], buffer, size, (off_t)(lba << sector_shift));
    return got == (ssize_t)size ? OK : BAD;
}

static void add_disk(const char *path)
{
    struct stat facts;
    descriptors[disks] = open(path, O_RDONLY);
    if (disks == DISKS_MAX - 1 || descriptors[disks] < 0 || fstat(descriptors[disks], &facts)) {
        perror(path);
        exit(2);
    }
    sizes[disks++] = (uint64_t)facts.st_size;
}

static void list_store(const store *from)
{
    char name[64];
    for (unsigned index = 0; index < subkey_count(&from->hive, from->objects); index++) {
        key object = subkey_at(&from->hive, from->objects, index);
        key elements = find_subkey(&from->hive, object, "Elements");
        uint32_t type;
        key_name(&from->hive, object, name, sizeof name);
        printf("object %s", name);
        if (object_type(from, object, &type) == OK)
            printf(" %08x", type);
        putchar('\n');
        for (unsigned at = 0; elements && at < subkey_count(&from->hive, elements); at++) {
            value found;
            key element = subkey_at(&from->hive, elements, at);
            key_name(&from->hive, element, name, sizeof name);
            uint32_t id = (uint32_t)strtoul(name, 0, 16);
            if (find_element(from, object, id, &found) != OK) {
                printf("element %08x bad: %s\n", id, reason);
                continue;
            }
            printf("element %08x type %u ", id, found.type);
            for (unsigned byte = 0; byte < found.size; byte++)
                printf("%02x", found.data[byte]);
            putchar('\n');
        }
    }
}

int main(int count, char **words)
{
    volume boot;
    if (count == 3 && !strcmp(words[1], "store")) {
        uint8_t *data = allocate(64 << 20);
        FILE *input = fopen(words[2], "rb");
        store opened;
        if (!input) {
            perror(words[2]);
            return 2;
        }
        uint64_t size = fread(data, 1, 64 << 20, input);
        if (open_store(&opened, data, size) != OK) {
            printf("MM-BCD-ERROR: %s\n", reason);
            return 1;
        }
        list_store(&opened);
        return 0;
    }
    if (count < 6)
        return 2;
    is_uefi = !strcmp(words[1], "uefi");
    while (1u << sector_shift < strtoul(words[4], 0, 0))
        sector_shift++;
    for (int at = 5; at < count; at++)
        add_disk(words[at]);
    read_tables();
    unsigned disk = (unsigned)strtoul(words[2], 0, 0);
    uint64_t offset = strtoull(words[3], 0, 0), size = sizes[disk] - offset;
    for (unsigned index = 0; index < disk_table(disk)->partition_count; index++)
        if (disk_table(disk)->partitions[index].offset == offset)
            size = disk_table(disk)->partitions[index].size;
    open_volume(&boot, disk, offset, size);
    run_manager(&boot);
    return 0;
}
