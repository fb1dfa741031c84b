/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * Registry hives, by the rules that boot managers were seen to enforce (boot-facts.md 3.1), and
 * stricter: every cell that is used must begin where its bin says that one does, names must be
 * sorted everywhere, every key must have a security cell that is in use.
 */

#include "manager.h"

enum { BASE = 4096, DEPTH_MAX = 16, KEYS_MAX = 100000 };
#define INLINE 0x80000000u
#define NONE 0xFFFFFFFFu

static int check_base(hive *opened, const uint8_t *data, uint64_t size)
{
    uint32_t sum = 0, minor;
    if (size < BASE * 2 || !same_bytes(data, "regf", 4))
        return bad("not a hive");
    for (unsigned at = 0; at < 0x1FC; at += 4)
        sum ^= get32(data + at);
    sum = sum == NONE ? NONE - 1 : sum == 0 ? 1 : sum;
    if (get32(data + 0x1FC) != sum)
        return bad("hive header checksum");
    if (get32(data + 4) != get32(data + 8))
        return bad("hive sequence numbers differ");
    minor = get32(data + 0x18);
    if (get32(data + 0x14) != 1 || minor < 3 || minor > 6)
        return bad("hive version");
    if (get32(data + 0x1C) != 0 || get32(data + 0x20) != 1)
        return bad("hive file type or format");
    opened->root = get32(data + 0x24);
    opened->size = get32(data + 0x28);
    if (opened->size % BASE || !opened->size || opened->size > size - BASE)
        return bad("hive size");
    return OK;
}

static int check_bins(hive *opened)
{
    for (uint32_t bin = 0; bin < opened->size;) {
        const uint8_t *header = opened->bins + bin;
        uint32_t size = get32(header + 8);
        if (!same_bytes(header, "hbin", 4) || get32(header + 4) != bin)
            return bad("a bin of the hive without its signature");
        if (size % BASE || !size || size > opened->size - bin)
            return bad("size of a bin of the hive");
        for (uint32_t cell = bin + 0x20; cell < bin + size;) {
            int32_t length = (int32_t)get32(opened->bins + cell);
            uint32_t room = length < 0 ? 0u - (uint32_t)length : (uint32_t)length;
            if (room < 8 || room % 8 || room > bin + size - cell)
                return bad("size of a cell of the hive");
            if (length < 0)
                opened->starts[cell / 64] |= (uint8_t)(1 << cell / 8 % 8);
            cell += room;
        }
        bin += size;
    }
    return OK;
}

/* The content of a used cell with at least this many bytes, or null. */
static const uint8_t *cell_at(const hive *from, uint32_t offset, uint32_t size)
{
    if (offset % 8 || offset >= from->size || !(from->starts[offset / 64] & 1 << offset / 8 % 8))
        return 0;
    uint32_t room = 0u - get32(from->bins + offset);
    return size <= room - 4 ? from->bins + offset + 4 : 0;
}

static const uint8_t *key_at(const hive *from, uint32_t offset)
{
    const uint8_t *record = cell_at(from, offset, 0x4C);
    if (!record || !same_bytes(record, "nk", 2))
        return 0;
    return cell_at(from, offset, 0x4C + get16(record + 0x48));
}

static const uint8_t *list_at(const hive *from, uint32_t offset, unsigned *count, unsigned *step)
{
    const uint8_t *list = cell_at(from, offset, 4);
    if (!list)
        return 0;
    *count = get16(list + 2);
    *step = same_bytes(list, "lf", 2) || same_bytes(list, "lh", 2) ? 8 : 4;
    if (*step == 4 && !same_bytes(list, "li", 2) && !same_bytes(list, "ri", 2))
        return 0;
    return cell_at(from, offset, 4 + *count * *step);
}

unsigned subkey_count(const hive *from, key parent)
{
    const uint8_t *record = key_at(from, parent);
    return record ? get32(record + 0x14) : 0;
}

key subkey_at(const hive *from, key parent, unsigned index)
{
    unsigned count, step;
    const uint8_t *record = key_at(from, parent);
    const uint8_t *list = record ? list_at(from, get32(record + 0x1C), &count, &step) : 0;
    if (!list)
        return 0;
    if (same_bytes(list, "ri", 2)) {
        for (unsigned part = 0, parts = count; part < parts; part++) {
            const uint8_t *leaf = list_at(from, get32(list + 4 + part * 4), &count, &step);
            if (!leaf || same_bytes(leaf, "ri", 2))
                return 0;
            if (index < count)
                return get32(leaf + 4 + index * step);
            index -= count;
        }
        return 0;
    }
    return index < count ? get32(list + 4 + index * step) : 0;
}

/* One character of a key's or value's name, 0 past its end. */
static char16 name_char(const uint8_t *name, unsigned size, int is_latin1, unsigned at)
{
    if (is_latin1)
        return at < size ? name[at] : 0;
    return at * 2 + 1 < size ? get16(name + at * 2) : 0;
}

static char16 key_char(const uint8_t *record, unsigned at)
{
    return name_char(record + 0x4C, get16(record + 0x48), get16(record + 2) & 0x20, at);
}

unsigned key_name(const hive *from, key of, char *name, unsigned room)
{
    const uint8_t *record = key_at(from, of);
    unsigned used = 0;
    for (; record && used + 1 < room && key_char(record, used); used++) {
        char16 c = key_char(record, used);
        name[used] = c < 0x7F ? (char)c : '?';
    }
    name[used] = 0;
    return used;
}

static int compare_keys(const uint8_t *one, const uint8_t *other)
{
    for (unsigned at = 0;; at++) {
        char16 left = upper(key_char(one, at)), right = upper(key_char(other, at));
        if (left != right)
            return left < right ? -1 : 1;
        if (!left)
            return 0;
    }
}

key find_subkey(const hive *from, key parent, const char *name)
{
    for (unsigned index = 0; index < subkey_count(from, parent); index++) {
        key found = subkey_at(from, parent, index);
        const uint8_t *record = key_at(from, found);
        unsigned at = 0;
        while (record && name[at] && upper(key_char(record, at)) == upper((uint8_t)name[at]))
            at++;
        if (record && !name[at] && !key_char(record, at))
            return found;
    }
    return 0;
}

/* Null unless the record, its name and its data lie in used cells. */
static const uint8_t *value_at(const hive *from, const uint8_t *record, unsigned index, value *found)
{
    const uint8_t *list = cell_at(from, get32(record + 0x28), get32(record + 0x24) * 4);
    uint32_t offset = list ? get32(list + index * 4) : 0;
    const uint8_t *entry = cell_at(from, offset, 0x14);
    if (!entry || !same_bytes(entry, "vk", 2) || !cell_at(from, offset, 0x14 + get16(entry + 2)))
        return 0;
    found->type = get32(entry + 12);
    found->size = get32(entry + 4);
    if (found->size & INLINE) {
        found->size &= ~INLINE;
        found->data = entry + 8;
        return found->size <= 4 ? entry : 0;
    }
    found->data = found->size ? cell_at(from, get32(entry + 8), found->size) : entry;
    return found->data ? entry : 0;
}

int find_value(const hive *from, key of, const char *name, value *found)
{
    const uint8_t *record = key_at(from, of);
    for (unsigned index = 0; record && index < get32(record + 0x24); index++) {
        const uint8_t *entry = value_at(from, record, index, found);
        unsigned at = 0, size = entry ? get16(entry + 2) : 0;
        int is_latin1 = entry ? get16(entry + 16) & 1 : 0;
        while (entry && name[at] &&
               upper(name_char(entry + 0x14, size, is_latin1, at)) == upper((uint8_t)name[at]))
            at++;
        if (entry && !name[at] && !name_char(entry + 0x14, size, is_latin1, at))
            return OK;
    }
    return not_found("no such value");
}

static int check_key(hive *from, uint32_t offset, uint32_t parent, unsigned depth)
{
    const uint8_t *record = key_at(from, offset), *before = 0;
    value found;
    if (!record)
        return bad("a key of the hive is not where its list says");
    if (depth >= DEPTH_MAX || ++from->keys > KEYS_MAX)
        return bad("a hive that is too deep or too large");
    if (depth && get32(record + 0x10) != parent && get32(record + 0x10) != 0)
        return bad("a key of the hive names another parent");
    const uint8_t *security = cell_at(from, get32(record + 0x2C), 0x14);
    if (!security || !same_bytes(security, "sk", 2))
        return bad("a key of the hive has no security cell");
    if (get32(security + 0x10) < 20 ||
        !cell_at(from, get32(record + 0x2C), 0x14 + get32(security + 0x10)) || security[0x14] != 1)
        return bad("a security cell of the hive without a descriptor");
    uint32_t values = get32(record + 0x24);
    if (values > 4096 || (values && !cell_at(from, get32(record + 0x28), values * 4)))
        return bad("a key of the hive without its list of values");
    for (unsigned index = 0; index < values; index++)
        if (!value_at(from, record, index, &found))
            return bad("a value of the hive is not where its list says");
    uint32_t count = subkey_count(from, offset);
    if (count > KEYS_MAX)
        return bad("a key of the hive with too many subkeys");
    for (unsigned index = 0; index < count; index++) {
        uint32_t child = subkey_at(from, offset, index);
        if (check_key(from, child, offset, depth + 1) != OK)
            return BAD;
        const uint8_t *now = key_at(from, child);
        if (before && compare_keys(before, now) >= 0)
            return bad("subkeys of the hive are not sorted");
        before = now;
    }
    if (count && subkey_at(from, offset, count))
        return bad("a list of the hive holds more subkeys than its key says");
    return OK;
}

int check_hive(hive *opened, uint8_t *data, uint64_t size)
{
    clear_bytes(opened, sizeof *opened);
    if (check_base(opened, data, size) != OK)
        return BAD;
    opened->bins = data + BASE;
    opened->starts = allocate(opened->size / 64 + 1);
    if (!opened->starts)
        return bad("out of memory");
    if (check_bins(opened) != OK)
        return BAD;
    return check_key(opened, opened->root, 0, 0);
}
