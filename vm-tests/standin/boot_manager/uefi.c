/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The stand-in as bootmgfw.efi: every block device of the firmware, and the volume it came from. */

#include "../uefi.h"
#include "manager.h"

enum { HANDLES_MAX = 64, BY_PROTOCOL = 2, MEDIA = 4, HARD_DRIVE = 1, FILE_PATH = 4, END = 0x7F };

/* programs.py finds this by its magic. Volatile: the compiler must not believe the zeros. */
static volatile struct {
    char magic[16];
    uint32_t length; /* of the file */
    uint32_t crc;    /* of the file, with this field zero */
    char token[40];  /* which generation of boot files this is */
} header = {.magic = {'M', 'E', 'D', 'I', 'A', 'M', 'A', 'K', 'E', 'R', '-', 'U', 'E', 'F', 'I', '!'},
            .length = 0x5A5A5A5A};

static const efi_guid loaded_image_guid = {
    0x5B1B31A1, 0x9562, 0x11D2, {0x8E, 0x3F, 0x00, 0xA0, 0xC9, 0x69, 0x72, 0x3B}};
static const efi_guid block_io_guid = {
    0x964E5B21, 0x6459, 0x11D2, {0x8E, 0x39, 0x00, 0xA0, 0xC9, 0x69, 0x72, 0x3B}};
static const efi_guid device_path_guid = {
    0x09576E91, 0x6D3F, 0x11D2, {0x8E, 0x39, 0x00, 0xA0, 0xC9, 0x69, 0x72, 0x3B}};

int is_uefi = 1;
static efi_system_table *system;
static efi_block_io *disks[DISKS_MAX];
static efi_device_path *disk_paths[DISKS_MAX];
static unsigned disks_found;

/* gcc may call these even in freestanding code. */
void *memset(void *target, int value, uint64_t size)
{
    uint8_t *byte = target;
    while (size--)
        *byte++ = (uint8_t)value;
    return target;
}

void *memcpy(void *target, const void *source, uint64_t size)
{
    copy_bytes(target, source, size);
    return target;
}

void put_char(char c)
{
    char16 text[2] = {(uint8_t)c, 0};
    system->con_out->output_string(system->con_out, text);
}

void *allocate(uint64_t size)
{
    void *buffer;
    if (system->boot_services->allocate_pool(EFI_LOADER_DATA, size, &buffer) != EFI_SUCCESS)
        return 0;
    clear_bytes(buffer, size);
    return buffer;
}

unsigned disk_count(void)
{
    return disks_found;
}

uint32_t disk_sector_shift(unsigned disk)
{
    uint32_t shift = 9;
    while (1u << shift < disks[disk]->media->block_size)
        shift++;
    return shift;
}

uint64_t disk_size(unsigned disk)
{
    return (disks[disk]->media->last_block + 1) << disk_sector_shift(disk);
}

int read_sectors(unsigned disk, uint64_t lba, uint32_t count, void *buffer)
{
    efi_block_io *io = disks[disk];
    uint64_t size = (uint64_t)count << disk_sector_shift(disk);
    efi_status status = io->read_blocks(io, io->media->media_id, lba, size, buffer);
    return status == EFI_SUCCESS ? OK : BAD;
}

static unsigned node_length(const efi_device_path *node)
{
    unsigned length = node->length[0] | node->length[1] << 8;
    return length < 4 ? 4 : length;
}

static const efi_device_path *next_node(const efi_device_path *node)
{
    return (const efi_device_path *)((const uint8_t *)node + node_length(node));
}

static void find_disks(void)
{
    static efi_handle handles[HANDLES_MAX];
    uint64_t size = sizeof handles;
    efi_boot_services *services = system->boot_services;
    if (services->locate_handle(BY_PROTOCOL, &block_io_guid, 0, &size, handles) != EFI_SUCCESS)
        return;
    for (unsigned at = 0; at < size / sizeof *handles && disks_found < DISKS_MAX; at++) {
        efi_block_io *io;
        void *path;
        if (services->handle_protocol(handles[at], &block_io_guid, (void **)&io) != EFI_SUCCESS ||
            services->handle_protocol(handles[at], &device_path_guid, &path) != EFI_SUCCESS)
            continue;
        if (io->media->is_partition || !io->media->is_present || !io->media->last_block ||
            (io->media->block_size != 512 && io->media->block_size != 4096))
            continue;
        disks[disks_found] = io;
        disk_paths[disks_found++] = path;
    }
}

/* The disk whose path is the volume's up to the hard drive node, which says where it starts. */
static int find_own_volume(efi_handle device, volume *opened)
{
    void *whole;
    if (system->boot_services->handle_protocol(device, &device_path_guid, &whole) != EFI_SUCCESS)
        return bad("no device path of the volume this came from");
    const efi_device_path *node = whole;
    while (node->type != END && !(node->type == MEDIA && node->sub_type == HARD_DRIVE))
        node = next_node(node);
    unsigned prefix = (unsigned)((const uint8_t *)node - (const uint8_t *)whole);
    for (unsigned disk = 0; disk < disks_found; disk++) {
        const efi_device_path *end = disk_paths[disk];
        while (end->type != END)
            end = next_node(end);
        if ((unsigned)((const uint8_t *)end - (const uint8_t *)disk_paths[disk]) != prefix ||
            !same_bytes(disk_paths[disk], whole, prefix))
            continue;
        if (node->type == END)
            return open_volume(opened, disk, 0, disk_size(disk));
        uint32_t shift = disk_sector_shift(disk);
        const uint8_t *bytes = (const uint8_t *)node;
        return open_volume(opened, disk, get64(bytes + 8) << shift, get64(bytes + 16) << shift);
    }
    return bad("the disk of the volume this came from was not found");
}

/* File path nodes hold UTF-16 without alignment; the firmware may split a path. */
static void read_own_path(const efi_device_path *node, char16 *path)
{
    unsigned used = 0;
    for (; node && node->type != END; node = next_node(node)) {
        const uint8_t *bytes = (const uint8_t *)node;
        if (node->type != MEDIA || node->sub_type != FILE_PATH)
            continue;
        if (used && path[used - 1] != '\\' && used < PATH_MAX16 - 1)
            path[used++] = '\\';
        for (unsigned at = 4; at + 1 < node_length(node) && used < PATH_MAX16 - 1; at += 2) {
            if (!get16(bytes + at))
                break;
            path[used++] = get16(bytes + at);
        }
    }
    path[used] = 0;
}

/* This very file, read by our own driver: is it whole? Sections move in memory, so by magic. */
static int check_own_file(volume *boot, const efi_device_path *own)
{
    char16 path[PATH_MAX16];
    char magic[16], token[40];
    uint8_t *data;
    uint64_t size, at = 0;
    for (unsigned byte = 0; byte < sizeof token; byte++)
        token[byte] = header.token[byte];
    for (unsigned byte = 0; byte < sizeof magic; byte++)
        magic[byte] = header.magic[byte];
    read_own_path(own, path);
    say("started as ");
    put_path(path);
    end_line();
    say(token);
    end_line();
    if (read_whole(boot, path, 16 << 20, &data, &size) != OK)
        return BAD;
    if (size != header.length)
        return bad("this program's file has the wrong size");
    while (at + sizeof header <= size && !same_bytes(data + at, magic, sizeof magic))
        at++;
    if (at + sizeof header > size)
        return bad("this program's file is another one");
    clear_bytes(data + at + 20, 4);
    return ~update_crc(~0u, data, size) == header.crc ? OK : bad("checksum of this program's file");
}

efi_status EFIAPI efi_main(efi_handle image_handle, efi_system_table *table)
{
    efi_loaded_image *image;
    volume boot;
    int status;
    system = table;
    system->boot_services->set_watchdog_timer(0, 0, 0, 0);
    put("\r\nmediamaker stand-in for bootmgfw.efi: free software, starts no Windows\r\n");
    find_disks();
    read_tables();
    if (system->boot_services->handle_protocol(image_handle, &loaded_image_guid, (void **)&image) !=
        EFI_SUCCESS)
        status = bad("no loaded image protocol");
    else
        status = find_own_volume(image->device_handle, &boot);
    if (status == OK)
        status = check_own_file(&boot, image->file_path);
    if (status == OK)
        run_manager(&boot);
    else {
        put("MM-BCD-ERROR: ");
        put(reason);
        put("\r\nMM-BCD-END\r\n");
    }
    for (;;)
        system->boot_services->stall(1000000);
}
