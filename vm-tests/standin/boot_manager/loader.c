/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * What would be started: a loader file (made by programs.build_loader), or a WIM file as
 * ramdisk with its boot.sdi (boot-facts.md 5 and 8; WIM header after Microsoft's description).
 */

#include "manager.h"

enum { TAIL = 64, MAGIC = 16, MACHINE = 0x8664, XML_SIZE_MAX = 4 << 20, SUMMED_MAX = 64 << 20 };

static void say_sum(const char *what, file *of)
{
    uint32_t crc;
    if (of->size > SUMMED_MAX || crc_file(of, ~0ull - 8, &crc) != OK)
        return;
    say(what);
    put(" size 0x");
    put_hex(of->size, 1);
    put(" crc32 ");
    put_hex(crc, 8);
    end_line();
}

int check_loader(volume *from, const char16 *path, char *token)
{
    file opened;
    uint8_t head[512], tail[TAIL];
    uint32_t crc;
    int status = open_file(from, path, &opened);
    if (status != OK)
        return status == NOT_FOUND ? not_found("the loader is not there") : status;
    if (opened.is_directory || opened.size < sizeof head + TAIL)
        return bad("the loader is no file, or too short");
    if (read_file(&opened, 0, sizeof head, head) != OK ||
        read_file(&opened, opened.size - TAIL, TAIL, tail) != OK)
        return BAD;
    uint32_t pe = get32(head + 0x3C);
    if (!same_bytes(head, "MZ", 2) || pe > sizeof head - 24 || !same_bytes(head + pe, "PE\0\0", 4))
        return bad("the loader is no PE file");
    if (get16(head + pe + 4) != MACHINE)
        return bad("the loader is for another processor");
    if (!same_bytes(tail, "MEDIAMAKER-LOAD!", MAGIC) || get32(tail + 16) != opened.size)
        return bad("the loader is not the stand-in, or not all of it");
    if (crc_file(&opened, opened.size - TAIL + 20, &crc) != OK)
        return BAD;
    if (crc != get32(tail + 20))
        return bad("checksum of the loader");
    copy_bytes(token, tail + 24, 40);
    token[39] = 0;
    return OK;
}

/* ASCII only, as the tokens are. */
static unsigned find_text(const uint8_t *xml, uint64_t size, uint64_t start, const char *wanted,
                          uint64_t *after)
{
    for (uint64_t at = start; at + 2 <= size; at += 2) {
        unsigned same = 0;
        while (wanted[same] && at + same * 2 + 2 <= size && get16(xml + at + same * 2) == (uint8_t)wanted[same])
            same++;
        if (!wanted[same]) {
            *after = at + same * 2;
            return 1;
        }
    }
    return 0;
}

static int read_description(const uint8_t *xml, uint64_t size, uint32_t image, char *token)
{
    char opening[] = "<IMAGE INDEX=\"0\">";
    uint64_t at, end;
    unsigned used = 0;
    if (image > 9)
        return bad("a boot index above 9");
    opening[14] = (char)('0' + image);
    if (!find_text(xml, size, 0, opening, &at) || !find_text(xml, size, at, "</IMAGE>", &end))
        return bad("the WIM file's XML does not have the boot image");
    if (!find_text(xml, end, at, "<DESCRIPTION>", &at))
        return bad("the boot image has no description");
    for (; at < end && get16(xml + at) != '<' && used < 79; at += 2)
        token[used++] = (char)get16(xml + at);
    token[used] = 0;
    return OK;
}

static int check_wim(file *wim, char *token)
{
    uint8_t header[208];
    if (wim->size < sizeof header || read_file(wim, 0, sizeof header, header) != OK)
        return bad("the WIM file is too short");
    if (!same_bytes(header, "MSWIM\0\0\0", 8) || get32(header + 8) != sizeof header)
        return bad("the ramdisk's file is no WIM file");
    uint32_t image = get32(header + 0x78);
    if (!image || image > get32(header + 0x2C))
        return bad("the WIM file has no boot index");
    if (get16(header + 0x28) != 1 || get16(header + 0x2A) != 1)
        return bad("a part of a split WIM file");
    uint64_t metadata_size = get64(header + 0x60) & 0xFFFFFFFFFFFFFFull;
    uint64_t metadata = get64(header + 0x68);
    if (!metadata_size || metadata + metadata_size > wim->size)
        return bad("the WIM file's boot metadata is not in it");
    uint64_t xml_size = get64(header + 0x48) & 0xFFFFFFFFFFFFFFull, xml = get64(header + 0x50);
    if (xml_size > XML_SIZE_MAX || xml + xml_size > wim->size)
        return bad("the WIM file's XML is not in it");
    uint8_t *text = allocate(xml_size + 1);
    if (!text || read_file(wim, xml, xml_size, text) != OK)
        return bad("the WIM file's XML could not be read");
    say("  boot image ");
    put_decimal(image);
    end_line();
    return read_description(text, xml_size, image, token);
}

static int check_sdi(volume *from, const char16 *path)
{
    file sdi;
    uint8_t head[0x440], sum = 0;
    say("  sdi ");
    put_path(path);
    end_line();
    if (open_file(from, path, &sdi) != OK)
        return bad("boot.sdi is not there");
    if (sdi.size < 0x2000 || read_file(&sdi, 0, sizeof head, head) != OK)
        return bad("boot.sdi is too short");
    if (!same_bytes(head, "$SDI0001", 8))
        return bad("boot.sdi has no SDI header");
    for (unsigned at = 0; at < 0x200; at++)
        sum = (uint8_t)(sum + head[at]);
    say("  sdi sum ");
    put_hex(sum, 2);
    end_line();
    if (!same_bytes(head + 0x400, "PART", 4) || get64(head + 0x410) + get64(head + 0x418) > sdi.size)
        return bad("boot.sdi has no partition in it");
    say_sum("  sdi", &sdi);
    return OK;
}

int check_ramdisk(const store *from, volume *boot, device *ram, char *token)
{
    file wim;
    device sdi;
    uint32_t type;
    char16 path[PATH_MAX16];
    if (open_file(&ram->volume, ram->path, &wim) != OK)
        return bad("the ramdisk's WIM file is not there");
    int status = check_wim(&wim, token);
    if (status != OK)
        return status;
    key options = find_object(from, ram->options);
    say("  options ");
    put_guid(ram->options);
    end_line();
    if (!options)
        return bad("the ramdisk's options object is not in the store");
    if (object_type(from, options, &type) == OK && type != 0x30000000)
        return bad("the ramdisk's options object has another type");
    status = find_element(from, options, 0x31000003, &(value){0});
    if (status == BAD)
        return BAD;
    if (status == OK) {
        if (resolve_device(from, options, 0x31000003, boot, &sdi) != OK)
            return BAD;
    } else
        sdi = *ram;
    if (element_text(from, options, 0x32000004, path) != OK)
        return bad("the ramdisk's options lack the path of boot.sdi");
    if (check_sdi(&sdi.volume, path) != OK)
        return BAD;
    say_sum("  wim", &wim);
    return OK;
}
