/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * A free stand-in for the Windows boot manager. It reads the boot store itself, resolves the
 * entry that would start against the real disks, checks what would be loaded, and says the token
 * in it; it starts nothing. One C program for UEFI, BIOS and, for quick tests, Linux.
 *
 * Every line on the console stays under 80 columns: firmware breaks longer ones. MM-BCD: is a
 * finding, MM-BCD-ERROR: the reason why nothing would start, MM-TOKEN: and MM-WINRE: say a
 * token, MM-BCD-END is always last.
 *
 * No tables of pointers here (the UEFI program has no relocations), and no division of 64-bit
 * numbers (the BIOS program has no libgcc).
 */

#ifndef STANDIN_MANAGER_H
#define STANDIN_MANAGER_H

#include <stdint.h>

typedef uint16_t char16;

enum { OK, NOT_FOUND, BAD };
enum { PATH_MAX16 = 300, DISKS_MAX = 8, PARTITIONS_MAX = 128 };
enum { VIRTUAL_DISK = DISKS_MAX }; /* the content of a VHD file, after the firmware's disks */

/* ---- what a platform gives ---- */
extern int is_uefi;
void put_char(char c);
void *allocate(uint64_t size); /* zeros, never freed; null when there is no more */
unsigned disk_count(void);
uint32_t disk_sector_shift(unsigned disk);
uint64_t disk_size(unsigned disk); /* bytes */
int read_sectors(unsigned disk, uint64_t lba, uint32_t count, void *buffer); /* OK or BAD */

/* ---- text.c ---- */
extern const char *reason; /* of the last BAD or NOT_FOUND */
int bad(const char *why);
int not_found(const char *why);
void put(const char *text);
void put_hex(uint64_t value, unsigned least_digits);
void put_decimal(uint32_t value);
void put_guid(const uint8_t *guid);
void put_path(const char16 *path);
void say(const char *text); /* starts a finding */
void end_line(void);
uint32_t update_crc(uint32_t crc, const void *data, uint64_t size); /* starts and ends inverted */
int same_bytes(const void *one, const void *other, uint64_t size);
void copy_bytes(void *target, const void *source, uint64_t size);
void clear_bytes(void *target, uint64_t size);
char16 upper(char16 c);
uint16_t get16(const void *at);
uint32_t get32(const void *at);
uint64_t get64(const void *at);

/* ---- disks.c ---- */
typedef struct {
    unsigned disk, number;
    uint64_t offset, size; /* bytes */
    uint8_t type_guid[16], guid[16];
    uint8_t type_code;
} partition;

typedef struct {
    int is_gpt, is_mbr;
    uint8_t guid[16];
    uint32_t signature;
    unsigned partition_count;
    partition *partitions;
} table;

int read_bytes(unsigned disk, uint64_t offset, uint64_t size, void *buffer);
void read_tables(void); /* says what it finds */
int read_table(unsigned disk);
const table *disk_table(unsigned disk);

/* ---- ntfs.c, fat.c, files.c; vhd.c ---- */
typedef struct {
    uint64_t vcn, lcn, count;
} run;

typedef struct {
    int is_resident;
    uint16_t flags;
    uint8_t *value;
    uint64_t size, initialized_size;
    run *runs;
    unsigned run_count;
    uint64_t next_vcn;
} attribute;

typedef struct {
    enum { NO_FILE_SYSTEM, NTFS, FAT } kind;
    unsigned disk;
    uint64_t offset, size;
    uint32_t cluster_shift;
    /* NTFS */
    uint32_t record_size;
    attribute mft;
    /* FAT */
    unsigned fat_bits;
    uint32_t cluster_count, root_cluster, root_size;
    uint64_t fat_offset, root_offset, data_offset;
} volume;

typedef struct {
    volume *volume;
    int is_directory;
    uint64_t size;
    attribute data;                                   /* NTFS */
    uint32_t first_cluster, at_cluster, at_index;     /* FAT */
} file;

int open_volume(volume *opened, unsigned disk, uint64_t offset, uint64_t size);
int open_file(volume *from, const char16 *path, file *opened);
int read_file(file *from, uint64_t offset, uint64_t size, void *buffer);
int read_whole(volume *from, const char16 *path, uint64_t size_max, uint8_t **data, uint64_t *size);
int open_virtual_disk(const volume *from, const char16 *path); /* a fixed VHD, with its table */
uint64_t virtual_disk_size(void);
int read_virtual_disk(uint64_t offset, uint64_t size, void *buffer);
int crc_file(file *from, uint64_t zeroed_offset, uint32_t *crc); /* 4 bytes there count as 0 */

int open_ntfs(volume *opened, const uint8_t *boot_sector);
int open_ntfs_file(volume *from, const char16 *path, file *opened);
int read_ntfs_file(file *from, uint64_t offset, uint64_t size, void *buffer);
int open_fat(volume *opened, const uint8_t *boot_sector);
int open_fat_file(volume *from, const char16 *path, file *opened);
int read_fat_file(file *from, uint64_t offset, uint64_t size, void *buffer);
/* Copies the next name of a path, and moves on; 0 at the end. */
unsigned next_name(const char16 **path, char16 *name);
int same_name(const char16 *one, unsigned one_length, const uint8_t *other, unsigned other_length);

/* ---- hive.c ---- */
typedef struct {
    uint8_t *bins;
    uint32_t size, root;
    uint8_t *starts; /* a bit for every 8 bytes where a used cell begins */
    unsigned keys;
} hive;

typedef uint32_t key; /* offset of the cell */
typedef struct {
    uint32_t type, size;
    const uint8_t *data;
} value;

int check_hive(hive *opened, uint8_t *data, uint64_t size);
unsigned subkey_count(const hive *from, key parent);
key subkey_at(const hive *from, key parent, unsigned index);
unsigned key_name(const hive *from, key of, char *name, unsigned room); /* ASCII, ends with 0 */
key find_subkey(const hive *from, key parent, const char *name);        /* 0: none */
int find_value(const hive *from, key of, const char *name, value *found);

/* ---- store.c ---- */
typedef struct {
    hive hive;
    key objects;
} store;

int open_store(store *opened, uint8_t *data, uint64_t size);
key find_object(const store *from, const uint8_t *guid);
int find_element(const store *from, key object, uint32_t id, value *found); /* checks its type */
int element_text(const store *from, key object, uint32_t id, char16 *text);
int element_guids(const store *from, key object, uint32_t id, uint8_t (*guids)[16], unsigned room,
                  unsigned *count); /* of one object or a list */
int element_flag(const store *from, key object, uint32_t id); /* 0 when absent */
int object_type(const store *from, key object, uint32_t *type);

/* ---- device.c ---- */
typedef struct {
    int is_ramdisk;
    volume volume; /* of the file, for a ramdisk */
    uint8_t options[16];
    char16 path[PATH_MAX16];
} device;

int resolve_device(const store *from, key object, uint32_t id, volume *boot, device *found);

/* ---- loader.c ---- */
int check_loader(volume *from, const char16 *path, char *token);            /* 40 bytes */
int check_ramdisk(const store *from, volume *boot, device *ram, char *token); /* 80 bytes */

/* ---- manager.c ---- */
void run_manager(volume *boot);

#endif
