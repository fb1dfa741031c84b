/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * Stand-in for bootx64.efi: checks, through the firmware's own FAT driver, that the volume it
 * was started from holds what it should, and says a per-run token only if all of it does.
 *
 *   - its own file, as the firmware names it: length and CRC-32 (patched in by programs.py)
 *   - \standin.sum: lines "crc32hex size path\n", ASCII, paths like \sources\boot.wim
 *   - \standin.tok, where there is one: the same token, so that a stale volume is noticed
 *
 * One console line per finding; the verdict stays under 80 columns because the firmware's
 * serial console breaks longer ones.
 */

#include "uefi.h"

#define CHUNK (1u << 20)
#define SUM_SIZE_MAX (16u << 20)
#define PATH_MAX 512

/* programs.py finds this by its magic. Volatile: the compiler must not believe the zeros. */
static volatile struct {
    char magic[16];
    uint32_t length; /* of the file */
    uint32_t crc;    /* of the file, with this field zero */
    char token[40];  /* ASCII, ends with NUL */
} header = {.magic = {'M', 'E', 'D', 'I', 'A', 'M', 'A', 'K', 'E', 'R', '-', 'U', 'E', 'F', 'I', '!'},
            .length = 0x5A5A5A5A};

static const efi_guid loaded_image_guid = {
    0x5B1B31A1, 0x9562, 0x11D2, {0x8E, 0x3F, 0x00, 0xA0, 0xC9, 0x69, 0x72, 0x3B}};
static const efi_guid file_system_guid = {
    0x964E5B22, 0x6459, 0x11D2, {0x8E, 0x39, 0x00, 0xA0, 0xC9, 0x69, 0x72, 0x3B}};
static const efi_guid file_info_guid = {
    0x09576E92, 0x6D3F, 0x11D2, {0x8E, 0x39, 0x00, 0xA0, 0xC9, 0x69, 0x72, 0x3B}};

static efi_system_table *system;
static uint32_t crc_tables[8][256];
static uint8_t *chunk;
static unsigned failures;

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
    uint8_t *to = target;
    const uint8_t *from = source;
    while (size--)
        *to++ = *from++;
    return target;
}

/* ---- console ---- */

static void put_char16(char16 c)
{
    char16 text[2] = {c, 0};
    system->con_out->output_string(system->con_out, text);
}

static void put(const char *text)
{
    char16 wide[64];
    unsigned used = 0;
    for (; *text; text++) {
        wide[used++] = (uint8_t)*text;
        if (used == 63 || !text[1]) {
            wide[used] = 0;
            system->con_out->output_string(system->con_out, wide);
            used = 0;
        }
    }
}

static void put_number(uint64_t value, unsigned base, unsigned least_digits)
{
    char digits[24];
    unsigned at = sizeof digits;
    digits[--at] = 0;
    do {
        digits[--at] = "0123456789abcdef"[value % base];
        value /= base;
    } while (value || sizeof digits - 1 - at < least_digits);
    put(digits + at);
}

static void put_path(const char16 *path)
{
    for (; *path; path++)
        put_char16(*path);
}

static void fail(const char *what, const char16 *path, uint64_t expected, uint64_t got)
{
    failures++;
    put("MEDIAMAKER-STANDIN UEFI FAIL ");
    put(what);
    if (path) {
        put(" ");
        put_path(path);
    }
    put(" expected 0x");
    put_number(expected, 16, 1);
    put(" got 0x");
    put_number(got, 16, 1);
    put("\r\n");
}

/* ---- CRC-32 (IEEE 802.3, reflected), eight bytes a step: install.wim is big ---- */

static void make_crc_tables(void)
{
    for (unsigned byte = 0; byte < 256; byte++) {
        uint32_t crc = byte;
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (crc & 1 ? 0xEDB88320u : 0);
        crc_tables[0][byte] = crc;
    }
    for (unsigned byte = 0; byte < 256; byte++)
        for (int table = 1; table < 8; table++) {
            uint32_t before = crc_tables[table - 1][byte];
            crc_tables[table][byte] = before >> 8 ^ crc_tables[0][before & 0xFF];
        }
}

static uint32_t update_crc(uint32_t crc, const uint8_t *data, uint64_t size)
{
    for (; size >= 8; size -= 8, data += 8) {
        uint32_t low = crc ^ (data[0] | data[1] << 8 | data[2] << 16 | (uint32_t)data[3] << 24);
        crc = crc_tables[7][low & 0xFF] ^ crc_tables[6][low >> 8 & 0xFF] ^
              crc_tables[5][low >> 16 & 0xFF] ^ crc_tables[4][low >> 24] ^
              crc_tables[3][data[4]] ^ crc_tables[2][data[5]] ^ crc_tables[1][data[6]] ^
              crc_tables[0][data[7]];
    }
    while (size--)
        crc = crc >> 8 ^ crc_tables[0][(crc ^ *data++) & 0xFF];
    return crc;
}

/* ---- files ---- */

static efi_status read_size(efi_file *file, uint64_t *size)
{
    efi_file_info info;
    uint64_t info_size = sizeof info;
    efi_status status = file->get_info(file, &file_info_guid, &info_size, &info);
    *size = info.file_size;
    return status;
}

/* Four bytes at zeroed_offset count as zeros, for a file that holds its own checksum. */
static void check_file(efi_file *root, const char16 *path, uint64_t expected_size,
                       uint32_t expected_crc, uint64_t zeroed_offset)
{
    efi_file *file;
    efi_status status = root->open(root, &file, path, EFI_OPEN_READ, 0);
    if (status != EFI_SUCCESS) {
        fail("opening", path, EFI_SUCCESS, status);
        return;
    }
    uint64_t size = 0, done = 0;
    uint32_t crc = 0xFFFFFFFFu;
    status = read_size(file, &size);
    if (status != EFI_SUCCESS)
        fail("asking the size of", path, EFI_SUCCESS, status);
    else if (size != expected_size)
        fail("size of", path, expected_size, size);
    else {
        while (done < size) {
            uint64_t got = CHUNK;
            status = file->read(file, &got, chunk);
            if (status != EFI_SUCCESS || got == 0)
                break;
            for (uint64_t at = zeroed_offset; at < zeroed_offset + 4; at++)
                if (at >= done && at - done < got)
                    chunk[at - done] = 0;
            crc = update_crc(crc, chunk, got);
            done += got;
        }
        crc = ~crc;
        if (status != EFI_SUCCESS || done != size)
            fail("reading", path, size, status != EFI_SUCCESS ? status : done);
        else if (crc != expected_crc)
            fail("CRC-32 of", path, expected_crc, crc);
    }
    file->close(file);
}

/* Whole file into new memory with a NUL after it; null when there is none or it is absurd. */
static char *read_text(efi_file *root, const char16 *path, efi_status *status)
{
    efi_file *file;
    uint64_t size = 0, done = 0;
    char *text = 0;
    *status = root->open(root, &file, path, EFI_OPEN_READ, 0);
    if (*status != EFI_SUCCESS)
        return 0;
    *status = read_size(file, &size);
    if (*status == EFI_SUCCESS && size <= SUM_SIZE_MAX)
        *status = system->boot_services->allocate_pool(EFI_LOADER_DATA, size + 1, (void **)&text);
    while (text && *status == EFI_SUCCESS && done < size) {
        uint64_t got = size - done;
        *status = file->read(file, &got, text + done);
        if (got == 0)
            break;
        done += got;
    }
    file->close(file);
    if (!text || *status != EFI_SUCCESS || done != size)
        return 0;
    text[size] = 0;
    return text;
}

/* ---- the three checks ---- */

/* File path nodes (4, 4) hold UTF-16 without alignment; the firmware may split a path. */
static void read_own_path(const efi_device_path *node, char16 path[PATH_MAX])
{
    unsigned used = 0;
    while (node && !(node->type == 0x7F && node->sub_type == 0xFF)) {
        unsigned length = node->length[0] | node->length[1] << 8;
        const uint8_t *bytes = (const uint8_t *)node;
        if (length < 4)
            break;
        if (node->type == 4 && node->sub_type == 4) {
            if (used && path[used - 1] != '\\' && used < PATH_MAX - 1)
                path[used++] = '\\';
            for (unsigned at = 4; at + 1 < length && used < PATH_MAX - 1; at += 2) {
                char16 c = (char16)(bytes[at] | bytes[at + 1] << 8);
                if (!c)
                    break;
                path[used++] = c;
            }
        }
        node = (const efi_device_path *)(bytes + length);
    }
    path[used] = 0;
}

static int parse_number(char **at, unsigned base, uint64_t *value)
{
    char *start = *at;
    for (*value = 0;; ++*at) {
        unsigned digit = (unsigned char)**at;
        digit = digit >= 'a' ? digit - 'a' + 10 : digit >= 'A' ? digit - 'A' + 10 : digit - '0';
        if (digit >= base)
            break;
        *value = *value * base + digit;
    }
    return *at != start;
}

static unsigned check_listed_files(efi_file *root)
{
    static const char16 sum_path[] = u"\\standin.sum";
    efi_status status;
    unsigned files = 0, line = 0;
    char *at = read_text(root, sum_path, &status);
    if (!at) {
        fail("reading", sum_path, EFI_SUCCESS, status);
        return 0;
    }
    while (*at) {
        char16 path[PATH_MAX];
        uint64_t crc, size;
        unsigned used = 0;
        line++;
        int good = parse_number(&at, 16, &crc) && *at++ == ' ' &&
                   parse_number(&at, 10, &size) && *at++ == ' ' && *at == '\\';
        while (good && *at && *at != '\n' && used < PATH_MAX - 1)
            path[used++] = (uint8_t)*at++;
        path[good ? used : 0] = 0;
        if (!good || *at != '\n') {
            fail("line (number of the first bad one) in", sum_path, 0, line);
            return files;
        }
        at++;
        check_file(root, path, size, (uint32_t)crc, ~0ull - 8);
        files++;
    }
    if (!files)
        fail("number of files (at least) in", sum_path, 1, 0);
    return files;
}

static void check_token(efi_file *root)
{
    static const char16 token_path[] = u"\\standin.tok";
    efi_status status;
    char *text = read_text(root, token_path, &status);
    unsigned at = 0;
    if (!text)
        return;
    while (header.token[at] && header.token[at] == text[at])
        at++;
    while (!header.token[at] && (text[at] == '\r' || text[at] == '\n'))
        text++;
    if (header.token[at] || text[at])
        fail("token, first difference at, in", token_path, sizeof header.token, at);
}

static unsigned check_volume(efi_handle image_handle)
{
    efi_boot_services *services = system->boot_services;
    efi_loaded_image *image;
    efi_file_system *file_system;
    efi_file *root;
    static char16 own_path[PATH_MAX];
    efi_status status;

    status = services->handle_protocol(image_handle, &loaded_image_guid, (void **)&image);
    if (status == EFI_SUCCESS)
        status = services->handle_protocol(image->device_handle, &file_system_guid,
                                           (void **)&file_system);
    if (status == EFI_SUCCESS)
        status = file_system->open_volume(file_system, &root);
    if (status == EFI_SUCCESS)
        status = services->allocate_pool(EFI_LOADER_DATA, CHUNK, (void **)&chunk);
    if (status != EFI_SUCCESS) {
        fail("opening the volume this was started from", 0, EFI_SUCCESS, status);
        return 0;
    }
    read_own_path(image->file_path, own_path);
    put("    started as ");
    put_path(own_path);
    put("\r\n");
    uint64_t crc_offset = 0; /* found in the file by its magic: sections move in memory */
    efi_status own_status;
    char *own = read_text(root, own_path, &own_status);
    for (uint64_t at = 0; own && at + sizeof header <= header.length; at++) {
        unsigned same = 0;
        while (same < 16 && own[at + same] == header.magic[same])
            same++;
        if (same == 16) {
            crc_offset = at + 20;
            break;
        }
    }
    check_file(root, own_path, header.length, header.crc, crc_offset);
    check_token(root);
    return check_listed_files(root);
}

efi_status EFIAPI efi_main(efi_handle image_handle, efi_system_table *table)
{
    system = table;
    system->boot_services->set_watchdog_timer(0, 0, 0, 0);
    put("\r\nmediamaker stand-in for bootx64.efi: free software, starts no Windows\r\n");
    make_crc_tables();
    unsigned files = check_volume(image_handle);
    if (!failures) {
        char token[sizeof header.token];
        for (unsigned at = 0; at < sizeof token; at++)
            token[at] = header.token[at];
        token[sizeof token - 1] = 0;
        put("MEDIAMAKER-STANDIN UEFI OK token=");
        put(token);
        put(" files=");
        put_number(files, 10, 1);
        put("\r\n");
    }
    for (;;)
        system->boot_services->stall(1000000);
}
