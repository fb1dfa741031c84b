/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * Reading NTFS: records with their fixups, attribute lists, runs, and directories as trees of
 * index entries (all of a directory is looked through, so that no sort order is believed).
 * After the NTFS documentation of the Linux-NTFS project. No compression, no encryption.
 */

#include "manager.h"

enum { IN_USE = 1, IS_DIRECTORY = 2, HAS_SUBNODE = 1, IS_LAST = 2, ROOT_RECORD = 5 };
enum { ATTRIBUTE_LIST = 0x20, DATA = 0x80, INDEX_ROOT = 0x90, INDEX_ALLOCATION = 0xA0 };
enum { RUNS_MAX = 8192, DEPTH_MAX = 8, LIST_SIZE_MAX = 1 << 20 };
#define REFERENCE 0xFFFFFFFFFFFFull
#define HOLE (~0ull)

static int apply_fixups(uint8_t *block, uint32_t size)
{
    uint32_t offset = get16(block + 4), count = get16(block + 6);
    if (count != size / 512 + 1 || offset + count * 2 > 512 - 2)
        return bad("an NTFS record with impossible fixups");
    for (uint32_t index = 1; index < count; index++) {
        uint8_t *place = block + index * 512 - 2;
        if (get16(place) != get16(block + offset))
            return bad("a torn NTFS record: its fixups don't match");
        copy_bytes(place, block + offset + index * 2, 2);
    }
    return OK;
}

static int read_attribute(volume *from, const attribute *of, uint64_t offset, uint64_t size,
                          void *buffer)
{
    uint8_t *to = buffer;
    if (offset + size < offset || offset + size > of->size)
        return bad("a read past the end of an NTFS attribute");
    if (of->is_resident) {
        copy_bytes(to, of->value + offset, size);
        return OK;
    }
    for (unsigned index = 0; index < of->run_count && size; index++) {
        const run *at = &of->runs[index];
        uint64_t start = at->vcn << from->cluster_shift, end = start + (at->count << from->cluster_shift);
        if (offset < start || offset >= end)
            continue;
        uint64_t count = end - offset < size ? end - offset : size;
        if (at->lcn == HOLE || offset >= of->initialized_size)
            clear_bytes(to, count);
        else {
            uint64_t place = (at->lcn << from->cluster_shift) + (offset - start);
            if (place + count > from->size)
                return bad("an NTFS run past the end of the partition");
            if (read_bytes(from->disk, from->offset + place, count, to) != OK)
                return BAD;
            if (offset + count > of->initialized_size) {
                uint64_t known = of->initialized_size - offset;
                clear_bytes(to + known, count - known);
            }
        }
        to += count;
        offset += count;
        size -= count;
    }
    return size ? bad("an NTFS attribute with runs missing") : OK;
}

static int read_record(volume *from, uint64_t number, uint8_t *record)
{
    if (read_attribute(from, &from->mft, number * from->record_size, from->record_size, record) != OK)
        return BAD;
    if (!same_bytes(record, "FILE", 4))
        return bad("an MFT record without its signature");
    if (apply_fixups(record, from->record_size) != OK)
        return BAD;
    if (!(get16(record + 0x16) & IN_USE))
        return bad("an MFT record that is not in use");
    return OK;
}

static int parse_runs(attribute *into, const uint8_t *at, const uint8_t *end)
{
    uint64_t lcn = 0;
    if (!into->runs)
        into->runs = allocate(RUNS_MAX * sizeof(run));
    if (!into->runs)
        return bad("out of memory");
    while (at < end && *at) {
        unsigned count_size = *at & 15, place_size = *at >> 4;
        uint64_t count = 0, delta = 0;
        if (!count_size || count_size > 8 || place_size > 8 || at + 1 + count_size + place_size > end)
            return bad("an impossible NTFS run");
        for (unsigned byte = 0; byte < count_size; byte++)
            count |= (uint64_t)at[1 + byte] << byte * 8;
        for (unsigned byte = 0; byte < place_size; byte++)
            delta |= (uint64_t)at[1 + count_size + byte] << byte * 8;
        if (place_size && place_size < 8 && at[count_size + place_size] & 0x80)
            delta |= ~0ull << place_size * 8;
        lcn += delta;
        if (into->run_count == RUNS_MAX)
            return bad("an NTFS attribute in more runs than this program has room for");
        run *added = &into->runs[into->run_count++];
        added->vcn = into->next_vcn;
        added->count = count;
        added->lcn = place_size ? lcn : HOLE;
        into->next_vcn += count;
        at += 1 + count_size + place_size;
    }
    return OK;
}

static int has_name(const uint8_t *name, unsigned length, const char *wanted)
{
    for (unsigned at = 0; at < length; at++)
        if (!wanted[at] || get16(name + at * 2) != (uint8_t)wanted[at])
            return 0;
    return !wanted[length];
}

/* One piece of an attribute, from its header. */
static int add_piece(const volume *from, attribute *into, const uint8_t *header)
{
    uint32_t length = get32(header + 4);
    if (header[8] == 0) {
        uint32_t size = get32(header + 16), offset = get16(header + 20);
        if (offset + size > length)
            return bad("a resident attribute that is longer than its record");
        into->is_resident = 1;
        into->size = into->initialized_size = size;
        into->flags = get16(header + 12);
        into->value = allocate(size + 1);
        if (!into->value)
            return bad("out of memory");
        copy_bytes(into->value, header + offset, size);
        return OK;
    }
    if (length < 0x40 || get16(header + 0x20) > length)
        return bad("an impossible attribute header");
    if (get64(header + 16) != into->next_vcn)
        return bad("pieces of an attribute that don't follow each other");
    if (into->next_vcn == 0) {
        into->flags = get16(header + 12);
        into->size = get64(header + 0x30);
        into->initialized_size = get64(header + 0x38);
    }
    (void)from;
    return parse_runs(into, header + get16(header + 0x20), header + length);
}

/* The attribute's header in one record; vcn tells pieces apart. */
static const uint8_t *find_header(const volume *from, const uint8_t *record, uint32_t type,
                                  const char *name, uint64_t vcn)
{
    uint32_t at = get16(record + 0x14);
    while (at + 24 <= from->record_size) {
        const uint8_t *header = record + at;
        uint32_t length = get32(header + 4);
        if (get32(header) == 0xFFFFFFFF)
            return 0;
        if (length < 24 || length > from->record_size - at)
            return 0;
        if (get32(header) == type && get16(header + 10) + header[9] * 2u <= length &&
            has_name(header + get16(header + 10), header[9], name) &&
            (header[8] ? get64(header + 16) : 0) == vcn)
            return header;
        at += length;
    }
    return 0;
}

static int collect(volume *from, uint64_t number, const uint8_t *record, uint32_t type,
                   const char *name, attribute *into)
{
    clear_bytes(into, sizeof *into);
    const uint8_t *header = find_header(from, record, ATTRIBUTE_LIST, "", 0);
    if (!header) {
        header = find_header(from, record, type, name, 0);
        return header ? add_piece(from, into, header) : not_found("no such attribute");
    }
    attribute list;
    clear_bytes(&list, sizeof list);
    if (add_piece(from, &list, header) != OK)
        return BAD;
    uint8_t *entries = list.size < LIST_SIZE_MAX ? allocate(list.size + 1) : 0;
    uint8_t *other = allocate(from->record_size);
    if (!entries || !other)
        return bad("an attribute list that is too long");
    if (read_attribute(from, &list, 0, list.size, entries) != OK)
        return BAD;
    int is_found = 0;
    for (uint64_t at = 0; at + 26 <= list.size;) {
        const uint8_t *entry = entries + at;
        uint32_t length = get16(entry + 4);
        if (length < 26 || length > list.size - at || entry[7] + entry[6] * 2u > length)
            return bad("an impossible entry in an attribute list");
        if (get32(entry) == type && has_name(entry + entry[7], entry[6], name)) {
            uint64_t holder = get64(entry + 16) & REFERENCE;
            const uint8_t *in = record;
            if (holder != number) {
                if (read_record(from, holder, other) != OK)
                    return BAD;
                if ((get64(other + 0x20) & REFERENCE) != number)
                    return bad("an extension record that belongs to another file");
                in = other;
            }
            header = find_header(from, in, type, name, get64(entry + 8));
            if (!header)
                return bad("an attribute is not where its list says");
            if (add_piece(from, into, header) != OK)
                return BAD;
            is_found = 1;
        }
        at += length;
    }
    return is_found ? OK : not_found("no such attribute");
}

int open_ntfs(volume *opened, const uint8_t *sector)
{
    uint32_t sector_size = get16(sector + 11), clusters = sector[13];
    int8_t record_clusters = (int8_t)sector[0x40];
    uint64_t mft = get64(sector + 0x30), sectors = get64(sector + 0x28);
    uint32_t shift = 0, cluster_size;
    if (sector_size < 512 || sector_size > 4096 || sector_size & (sector_size - 1))
        return bad("NTFS with an impossible sector size");
    /* Above 128 the byte is a negative power of two. */
    cluster_size = clusters <= 128 ? sector_size * clusters : sector_size << (256 - clusters);
    while (1u << shift < cluster_size && shift < 22)
        shift++;
    if (!clusters || 1u << shift != cluster_size)
        return bad("NTFS with an impossible cluster size");
    opened->cluster_shift = shift;
    opened->record_size = record_clusters > 0 ? (uint32_t)record_clusters << shift : 1u << -record_clusters;
    if (opened->record_size < 512 || opened->record_size > 65536)
        return bad("NTFS with an impossible record size");
    if (sectors * sector_size >= opened->size)
        return bad("an NTFS volume that is larger than its partition");
    uint8_t *record = allocate(opened->record_size);
    if (!record)
        return bad("out of memory");
    /* The MFT's own record says where the rest of it is. */
    opened->mft.size = opened->mft.initialized_size = 1ull << 40;
    run *first = allocate(sizeof *first);
    if (!first)
        return bad("out of memory");
    first->lcn = mft;
    first->count = 16;
    opened->mft.runs = first;
    opened->mft.run_count = 1;
    attribute whole;
    clear_bytes(&whole, sizeof whole);
    if (read_record(opened, 0, record) != OK)
        return BAD;
    const uint8_t *header = find_header(opened, record, DATA, "", 0);
    if (!header || add_piece(opened, &whole, header) != OK)
        return bad("an MFT without data");
    opened->mft = whole;
    int status = collect(opened, 0, record, DATA, "", &whole);
    opened->mft = whole;
    opened->kind = NTFS;
    return status;
}

/* ---- directories ---- */

typedef struct {
    volume *from;
    attribute nodes;
    uint32_t node_size;
    uint8_t *buffers[DEPTH_MAX];
    const char16 *name;
    unsigned name_length;
    uint64_t found;
} search;

/* header: entries offset, used size; then the entries, and below them the nodes they point to */
static int search_node(search *in, const uint8_t *header, uint32_t room, unsigned depth)
{
    uint32_t at = get32(header), used = get32(header + 4);
    if (used > room || depth >= DEPTH_MAX)
        return bad("an impossible NTFS index");
    while (at + 16 <= used) {
        const uint8_t *entry = header + at;
        uint32_t length = get16(entry + 8), flags = get16(entry + 12);
        if (length < 16 || length > used - at)
            return bad("an impossible NTFS index entry");
        if (flags & HAS_SUBNODE) {
            uint64_t vcn = get64(entry + length - 8), node_offset;
            /* Nodes smaller than a cluster are counted in 512-byte units. */
            uint32_t unit = in->node_size < 1u << in->from->cluster_shift ? 9 : in->from->cluster_shift;
            node_offset = vcn << unit;
            if (!in->buffers[depth])
                in->buffers[depth] = allocate(in->node_size);
            uint8_t *node = in->buffers[depth];
            if (!node)
                return bad("out of memory");
            if (read_attribute(in->from, &in->nodes, node_offset, in->node_size, node) != OK)
                return BAD;
            if (!same_bytes(node, "INDX", 4) || get64(node + 16) != vcn)
                return bad("an NTFS index node without its signature");
            if (apply_fixups(node, in->node_size) != OK)
                return BAD;
            int status = search_node(in, node + 24, in->node_size - 24, depth + 1);
            if (status != NOT_FOUND)
                return status;
        }
        if (flags & IS_LAST)
            return not_found("no such name in a directory");
        if (length >= 16 + 0x42 && length >= 16u + 0x42 + entry[16 + 0x40] * 2u &&
            same_name(in->name, in->name_length, entry + 16 + 0x42, entry[16 + 0x40])) {
            in->found = get64(entry) & REFERENCE;
            return OK;
        }
        at += length;
    }
    return bad("an NTFS index without a last entry");
}

static int find_in_directory(volume *from, uint64_t number, const uint8_t *record,
                             const char16 *name, unsigned length, uint64_t *found)
{
    attribute root;
    search in;
    clear_bytes(&in, sizeof in);
    if (collect(from, number, record, INDEX_ROOT, "$I30", &root) != OK || root.size < 32)
        return bad("a directory without an index");
    if (collect(from, number, record, INDEX_ALLOCATION, "$I30", &in.nodes) == BAD)
        return BAD;
    in.from = from;
    in.node_size = get32(root.value + 8);
    in.name = name;
    in.name_length = length;
    if (in.node_size < 512 || in.node_size > 65536)
        return bad("a directory with impossible index nodes");
    int status = search_node(&in, root.value + 16, (uint32_t)root.size - 16, 0);
    *found = in.found;
    return status;
}

int open_ntfs_file(volume *from, const char16 *path, file *opened)
{
    char16 name[256];
    uint64_t number = ROOT_RECORD;
    unsigned length;
    uint8_t *record = allocate(from->record_size);
    if (!record)
        return bad("out of memory");
    if (read_record(from, number, record) != OK)
        return BAD;
    while ((length = next_name(&path, name))) {
        if (!(get16(record + 0x16) & IS_DIRECTORY))
            return not_found("a file where a directory was expected");
        int status = find_in_directory(from, number, record, name, length, &number);
        if (status != OK)
            return status;
        if (read_record(from, number, record) != OK)
            return BAD;
    }
    opened->is_directory = get16(record + 0x16) & IS_DIRECTORY;
    if (opened->is_directory)
        return OK;
    if (collect(from, number, record, DATA, "", &opened->data) != OK)
        return bad("a file without data");
    if (opened->data.flags & 0x40FF)
        return bad("a compressed or encrypted file");
    opened->size = opened->data.size;
    return OK;
}

int read_ntfs_file(file *from, uint64_t offset, uint64_t size, void *buffer)
{
    return read_attribute(from->volume, &from->data, offset, size, buffer);
}
