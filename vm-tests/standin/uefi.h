/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * The few UEFI declarations that the UEFI programs here need, written from the UEFI Specification 2.10:
 * 4.3 system table, 4.4 boot services, 9.1 loaded image, 10.3.5.4 file path node,
 * 12.4 simple text output, 13.9 block I/O, 13.4 simple file system, 13.5 file. Members that are never called
 * stand as void pointers.
 */

#ifndef STANDIN_UEFI_H
#define STANDIN_UEFI_H

#include <stdint.h>

#if defined(__x86_64__)
#define EFIAPI __attribute__((ms_abi))
#else /* aarch64: UEFI's convention is the processor's own (2.10, 2.3.6.4) */
#define EFIAPI
#endif
#define EFI_SUCCESS 0
#define EFI_OPEN_READ 1ull
#define EFI_LOADER_DATA 2

typedef uint64_t efi_status;
typedef uint16_t char16;
typedef void *efi_handle;

typedef struct {
    uint32_t data1;
    uint16_t data2, data3;
    uint8_t data4[8];
} efi_guid;

typedef struct {
    uint64_t signature;
    uint32_t revision, header_size, crc32, reserved;
} efi_table_header;

typedef struct efi_text_output {
    void *reset;
    efi_status(EFIAPI *output_string)(struct efi_text_output *, const char16 *);
} efi_text_output;

typedef struct {
    efi_table_header header;
    void *raise_tpl, *restore_tpl;
    void *allocate_pages, *free_pages, *get_memory_map;
    efi_status(EFIAPI *allocate_pool)(int type, uint64_t size, void **buffer);
    efi_status(EFIAPI *free_pool)(void *buffer);
    void *create_event, *set_timer, *wait_for_event, *signal_event, *close_event, *check_event;
    void *install_protocol, *reinstall_protocol, *uninstall_protocol;
    efi_status(EFIAPI *handle_protocol)(efi_handle, const efi_guid *, void **interface);
    void *reserved, *register_protocol_notify;
    efi_status(EFIAPI *locate_handle)(int search_type, const efi_guid *, void *key, uint64_t *size,
                                      efi_handle *buffer);
    void *locate_device_path;
    void *install_configuration_table;
    void *load_image, *start_image, *exit, *unload_image, *exit_boot_services;
    void *get_next_monotonic_count;
    efi_status(EFIAPI *stall)(uint64_t microseconds);
    efi_status(EFIAPI *set_watchdog_timer)(uint64_t seconds, uint64_t code, uint64_t size,
                                           const char16 *data);
} efi_boot_services;

typedef struct {
    efi_table_header header;
    const char16 *firmware_vendor;
    uint32_t firmware_revision;
    efi_handle console_in_handle;
    void *con_in;
    efi_handle console_out_handle;
    efi_text_output *con_out;
    efi_handle standard_error_handle;
    efi_text_output *std_err;
    void *runtime_services;
    efi_boot_services *boot_services;
} efi_system_table;

typedef struct {
    uint8_t type, sub_type;
    uint8_t length[2];
} efi_device_path;

typedef struct {
    uint32_t revision;
    efi_handle parent_handle;
    efi_system_table *system_table;
    efi_handle device_handle;
    efi_device_path *file_path;
} efi_loaded_image;

typedef struct {
    uint32_t media_id;
    uint8_t is_removable, is_present, is_partition, is_read_only, is_caching;
    uint32_t block_size, io_align;
    uint64_t last_block;
} efi_block_media;

typedef struct efi_block_io {
    uint64_t revision;
    efi_block_media *media;
    void *reset;
    efi_status(EFIAPI *read_blocks)(struct efi_block_io *, uint32_t media_id, uint64_t lba,
                                    uint64_t size, void *buffer);
} efi_block_io;

typedef struct {
    uint64_t size, file_size, physical_size;
    uint8_t times[48];
    uint64_t attribute;
    char16 file_name[256];
} efi_file_info;

typedef struct efi_file {
    uint64_t revision;
    efi_status(EFIAPI *open)(struct efi_file *, struct efi_file **, const char16 *name,
                             uint64_t mode, uint64_t attributes);
    efi_status(EFIAPI *close)(struct efi_file *);
    void *delete;
    efi_status(EFIAPI *read)(struct efi_file *, uint64_t *size, void *buffer);
    void *write, *get_position, *set_position;
    efi_status(EFIAPI *get_info)(struct efi_file *, const efi_guid *, uint64_t *size,
                                 void *buffer);
} efi_file;

typedef struct efi_file_system {
    uint64_t revision;
    efi_status(EFIAPI *open_volume)(struct efi_file_system *, efi_file **root);
} efi_file_system;

#endif
