/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The boot store: objects and their elements, with the registry types of boot-facts.md 3.2. */

#include "manager.h"

enum { SZ = 1, BINARY = 3, DWORD = 4, MULTI_SZ = 7 };

int open_store(store *opened, uint8_t *data, uint64_t size)
{
    if (check_hive(&opened->hive, data, size) != OK)
        return BAD;
    if (!find_subkey(&opened->hive, opened->hive.root, "Description"))
        return bad("the store has no Description");
    opened->objects = find_subkey(&opened->hive, opened->hive.root, "Objects");
    return opened->objects ? OK : bad("the store has no Objects");
}

static int hex_digit(char16 c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c = upper(c);
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* {xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx} in UTF-16; 0 when it is none */
static int parse_guid(const uint8_t *text, unsigned length, uint8_t *guid)
{
    static const uint8_t places[16] = {3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15};
    unsigned at = 1;
    if (length != 38 || get16(text) != '{' || get16(text + 74) != '}')
        return 0;
    for (unsigned byte = 0; byte < 16; byte++) {
        if (byte == 4 || byte == 6 || byte == 8 || byte == 10)
            if (get16(text + at++ * 2) != '-')
                return 0;
        int high = hex_digit(get16(text + at * 2)), low = hex_digit(get16(text + at * 2 + 2));
        if (high < 0 || low < 0)
            return 0;
        guid[places[byte]] = (uint8_t)(high << 4 | low);
        at += 2;
    }
    return 1;
}

key find_object(const store *from, const uint8_t *guid)
{
    for (unsigned index = 0; index < subkey_count(&from->hive, from->objects); index++) {
        char name[48];
        uint8_t wide[96], found[16];
        key object = subkey_at(&from->hive, from->objects, index);
        unsigned length = key_name(&from->hive, object, name, sizeof name);
        for (unsigned at = 0; at < length; at++) {
            wide[at * 2] = (uint8_t)name[at];
            wide[at * 2 + 1] = 0;
        }
        if (parse_guid(wide, length, found) && same_bytes(found, guid, 16))
            return object;
    }
    return 0;
}

int object_type(const store *from, key object, uint32_t *type)
{
    value found;
    key description = find_subkey(&from->hive, object, "Description");
    if (!description || find_value(&from->hive, description, "Type", &found) != OK)
        return not_found("an object has no type");
    if (found.type != DWORD || found.size != 4)
        return bad("an object's type is no number");
    *type = get32(found.data);
    return OK;
}

int find_element(const store *from, key object, uint32_t id, value *found)
{
    char name[9];
    for (unsigned at = 0; at < 8; at++)
        name[at] = "0123456789ABCDEF"[id >> (28 - at * 4) & 15];
    name[8] = 0;
    key elements = find_subkey(&from->hive, object, "Elements");
    key element = elements ? find_subkey(&from->hive, elements, name) : 0;
    if (!element)
        return not_found("no such element");
    if (find_value(&from->hive, element, "Element", found) != OK)
        return bad("an element's value is not named Element");
    unsigned format = id >> 24 & 15;
    unsigned wanted = format == 2 || format == 3 ? SZ : format == 4 ? MULTI_SZ : BINARY;
    if (found->type != wanted)
        return bad("an element has the wrong registry type");
    if ((format == 6 && found->size != 1) || (format == 5 && (!found->size || found->size > 8)) ||
        (format == 7 && (!found->size || found->size % 8)) || (format == 1 && found->size < 0x20) ||
        ((format == 2 || format == 3 || format == 4) && found->size % 2))
        return bad("an element has the wrong size");
    return OK;
}

int element_text(const store *from, key object, uint32_t id, char16 *text)
{
    value found;
    unsigned used = 0;
    int status = find_element(from, object, id, &found);
    if (status != OK)
        return status;
    for (; used < found.size / 2 && get16(found.data + used * 2); used++) {
        if (used == PATH_MAX16 - 1)
            return bad("an element's text is too long");
        text[used] = get16(found.data + used * 2);
    }
    text[used] = 0;
    return OK;
}

int element_guids(const store *from, key object, uint32_t id, uint8_t (*guids)[16], unsigned room,
                  unsigned *count)
{
    value found;
    int status = find_element(from, object, id, &found);
    *count = 0;
    if (status != OK)
        return status;
    for (unsigned at = 0; at < found.size / 2;) {
        unsigned length = 0;
        while (at + length < found.size / 2 && get16(found.data + (at + length) * 2))
            length++;
        if (!length)
            break;
        if (*count == room)
            return bad("an element names too many objects");
        if (!parse_guid(found.data + at * 2, length, guids[*count]))
            return bad("an element names an object by no GUID");
        ++*count;
        at += length + 1;
    }
    return *count ? OK : not_found("an empty list of objects");
}

int element_flag(const store *from, key object, uint32_t id)
{
    value found;
    return find_element(from, object, id, &found) == OK && found.data[0] != 0;
}
