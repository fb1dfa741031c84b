/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Words on the console, CRC-32 (IEEE 802.3, reflected), and little-endian numbers. */

#include "manager.h"

const char *reason;

int bad(const char *why)
{
    reason = why;
    return BAD;
}

int not_found(const char *why)
{
    reason = why;
    return NOT_FOUND;
}

void put(const char *text)
{
    while (*text)
        put_char(*text++);
}

void put_hex(uint64_t value, unsigned least_digits)
{
    unsigned digits = 16;
    while (digits > least_digits && digits > 1 && !(value >> (digits - 1) * 4))
        digits--;
    while (digits--)
        put_char("0123456789abcdef"[value >> digits * 4 & 15]);
}

void put_decimal(uint32_t value)
{
    char digits[12];
    unsigned at = sizeof digits;
    do {
        digits[--at] = (char)('0' + value % 10);
        value /= 10;
    } while (value);
    while (at < sizeof digits)
        put_char(digits[at++]);
}

void put_guid(const uint8_t *guid)
{
    put_char('{');
    put_hex(get32(guid), 8);
    put_char('-');
    put_hex(get16(guid + 4), 4);
    put_char('-');
    put_hex(get16(guid + 6), 4);
    put_char('-');
    for (int at = 8; at < 16; at++) {
        if (at == 10)
            put_char('-');
        put_hex(guid[at], 2);
    }
    put_char('}');
}

void put_path(const char16 *path)
{
    for (unsigned used = 0; *path && used < 60; path++, used++)
        put_char(*path >= 0x20 && *path < 0x7F ? (char)*path : '?');
}

void say(const char *text)
{
    put("MM-BCD: ");
    put(text);
}

void end_line(void)
{
    put("\r\n");
}

uint32_t update_crc(uint32_t crc, const void *data, uint64_t size)
{
    static uint32_t entries[256];
    const uint8_t *byte = data;
    if (!entries[1])
        for (unsigned index = 0; index < 256; index++) {
            uint32_t entry = index;
            for (int bit = 0; bit < 8; bit++)
                entry = entry >> 1 ^ (entry & 1 ? 0xEDB88320u : 0);
            entries[index] = entry;
        }
    while (size--)
        crc = crc >> 8 ^ entries[(crc ^ *byte++) & 0xFF];
    return crc;
}

int same_bytes(const void *one, const void *other, uint64_t size)
{
    const uint8_t *left = one, *right = other;
    while (size--)
        if (*left++ != *right++)
            return 0;
    return 1;
}

void copy_bytes(void *target, const void *source, uint64_t size)
{
    uint8_t *to = target;
    const uint8_t *from = source;
    while (size--)
        *to++ = *from++;
}

void clear_bytes(void *target, uint64_t size)
{
    uint8_t *to = target;
    while (size--)
        *to++ = 0;
}

/* Latin-1 is enough for the names that a boot manager looks for. */
char16 upper(char16 c)
{
    if ((c >= 'a' && c <= 'z') || (c >= 0xE0 && c <= 0xFE && c != 0xF7))
        return (char16)(c - 0x20);
    return c == 0xFF ? 0x178 : c;
}

uint16_t get16(const void *at)
{
    const uint8_t *byte = at;
    return (uint16_t)(byte[0] | byte[1] << 8);
}

uint32_t get32(const void *at)
{
    return get16(at) | (uint32_t)get16((const uint8_t *)at + 2) << 16;
}

uint64_t get64(const void *at)
{
    return get32(at) | (uint64_t)get32((const uint8_t *)at + 4) << 32;
}
