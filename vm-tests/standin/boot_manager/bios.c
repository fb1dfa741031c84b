/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The stand-in as BOOTMGR: hard disks by int 13h, words on the screen and COM1. */

#include "manager.h"

enum { PACKET = 0x540, PARAMETERS = 0x600, BOUNCE = 0x10000, HARD_DISKS = 0x475, COM1 = 0x3F8 };
enum { ARENA = 0x200000, ARENA_END = 0x2000000 };

extern const uint8_t header[];
int bios_call(uint32_t number, uint32_t eax, uint32_t edx);

int is_uefi = 0;
static uint32_t arena, shifts[DISKS_MAX];
static uint64_t sizes[DISKS_MAX];
static unsigned disks_found;

/* gcc may call these even in freestanding code. */
void *memset(void *target, int value, uint32_t size)
{
    uint8_t *byte = target;
    while (size--)
        *byte++ = (uint8_t)value;
    return target;
}

void *memcpy(void *target, const void *source, uint32_t size)
{
    copy_bytes(target, source, size);
    return target;
}

/* Absolute addresses below 64 KiB, hidden from the compiler, which takes them for null. */
static uint8_t *low_memory(uint32_t address)
{
    __asm__("" : "+r"(address));
    return (uint8_t *)address;
}

static void out8(uint16_t port, uint8_t byte)
{
    __asm__ volatile("outb %0, %1" : : "a"(byte), "Nd"(port));
}

static uint8_t in8(uint16_t port)
{
    uint8_t byte;
    __asm__ volatile("inb %1, %0" : "=a"(byte) : "Nd"(port));
    return byte;
}

void put_char(char c)
{
    for (unsigned wait = 0; wait < 0x10000 && !(in8(COM1 + 5) & 0x20); wait++)
        ;
    out8(COM1, (uint8_t)c);
    bios_call(0x10, 0x0E00 | (uint8_t)c, 0);
}

static void open_serial(void)
{
    out8(COM1 + 1, 0); /* 115200 8N1, FIFO on, no interrupts */
    out8(COM1 + 3, 0x80);
    out8(COM1, 1);
    out8(COM1 + 1, 0);
    out8(COM1 + 3, 3);
    out8(COM1 + 2, 0xC7);
    out8(COM1 + 4, 3);
}

void *allocate(uint64_t size)
{
    if (!arena)
        arena = ARENA;
    if (size > ARENA_END - arena)
        return 0;
    void *given = low_memory(arena);
    clear_bytes(given, size);
    arena += (uint32_t)(size + 15) & ~15u;
    return given;
}

unsigned disk_count(void)
{
    return disks_found;
}

uint32_t disk_sector_shift(unsigned disk)
{
    return shifts[disk];
}

uint64_t disk_size(unsigned disk)
{
    return sizes[disk];
}

static void put16(uint8_t *at, uint32_t number)
{
    at[0] = (uint8_t)number;
    at[1] = (uint8_t)(number >> 8);
}

int read_sectors(unsigned disk, uint64_t lba, uint32_t count, void *buffer)
{
    uint8_t *packet = low_memory(PACKET);
    put16(packet, 16);
    put16(packet + 2, count);
    put16(packet + 4, 0);
    put16(packet + 6, BOUNCE >> 4);
    for (unsigned at = 0; at < 8; at++)
        packet[8 + at] = (uint8_t)(lba >> at * 8);
    if (bios_call(0x13, 0x4200, 0x80 + disk) & 0x1FF00)
        return BAD;
    copy_bytes(buffer, low_memory(BOUNCE), (uint64_t)count << shifts[disk]);
    return OK;
}

static void find_disks(void)
{
    unsigned count = *low_memory(HARD_DISKS);
    for (unsigned disk = 0; disk < count && disk < DISKS_MAX; disk++) {
        uint8_t *parameters = low_memory(PARAMETERS);
        /* DS:SI is always the packet; the parameters go there too, and are copied off. */
        put16(low_memory(PACKET), 0x1E);
        if (bios_call(0x13, 0x4800, 0x80 + disk) & 0x10000)
            return;
        copy_bytes(parameters, low_memory(PACKET), 0x1E);
        shifts[disk] = 9;
        while (1u << shifts[disk] < get16(parameters + 0x18))
            shifts[disk]++;
        sizes[disk] = get64(parameters + 0x10) << shifts[disk];
        disks_found = disk + 1;
    }
}

/* The file as it lies in memory: nothing of it is ever written to. */
static int check_own_file(void)
{
    static const uint8_t zeros[4];
    uint32_t length = get32(header + 16), place = (uint32_t)(header - low_memory(0x20000)) + 20;
    const uint8_t *start = low_memory(0x20000);
    if (length > 0x80000 || length < place + 4)
        return bad("this program's length is impossible");
    uint32_t crc = update_crc(~0u, start, place);
    crc = update_crc(crc, zeros, 4);
    crc = update_crc(crc, start + place + 4, length - place - 4);
    return ~crc == get32(header + 20) ? OK : bad("checksum of this program in memory");
}

static int find_own_volume(uint32_t drive, uint32_t sector_size, uint32_t hidden, volume *boot)
{
    uint64_t offset = (uint64_t)hidden * sector_size;
    say("entered with dl ");
    put_hex(drive, 2);
    put(" bps ");
    put_hex(sector_size, 4);
    put(" hidden ");
    put_hex(hidden, 8);
    end_line();
    if (drive < 0x80 || drive - 0x80 >= disks_found)
        return bad("dl is no hard disk");
    const table *in = disk_table(drive - 0x80);
    for (unsigned index = 0; offset && index < in->partition_count; index++)
        if (in->partitions[index].offset == offset)
            return open_volume(boot, drive - 0x80, offset, in->partitions[index].size);
    return bad("no partition starts at the hidden sectors of 0:7C1C");
}

void bios_main(uint32_t drive)
{
    volume boot;
    uint32_t sector_size = get16(low_memory(0x7C0B)), hidden = get32(low_memory(0x7C1C));
    open_serial();
    put("\r\nmediamaker stand-in for BOOTMGR: free software, starts no Windows\r\n");
    int status = check_own_file();
    find_disks();
    read_tables();
    if (status == OK)
        status = find_own_volume(drive & 0xFF, sector_size, hidden, &boot);
    if (status == OK)
        run_manager(&boot);
    else {
        put("MM-BCD-ERROR: ");
        put(reason);
        put("\r\nMM-BCD-END\r\n");
    }
}
