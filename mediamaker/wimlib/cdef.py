# SPDX-License-Identifier: GPL-3.0-or-later
"""What mediamaker calls of libwim's C interface, said again for cffi.

Reference: the interface of libwim.so.15 as its public header documents it (1.13.6; 1.14.5 has
the same). Order and widths are the ABI, and only 64-bit systems have these sizes. Handles that
are only passed on are ``void *``; enumerations are ``int``, which is what they are on Linux.
:data:`STRUCT_SIZES` says what the structures must measure, and ``library`` compares.
"""

from __future__ import annotations

from typing import Final

_PROGRESS: Final = """
typedef struct {
    uint64_t total_bytes, total_streams, completed_bytes, completed_streams;
    uint32_t num_threads;
    int32_t compression_type;
    uint32_t total_parts, completed_parts;
    uint64_t completed_compressed_bytes;
} mm_write_streams;
typedef struct {
    const char *source, *path;
    int status;
    const char *target;
    uint64_t dirs, nondirs, bytes;
} mm_scan;
typedef struct {
    uint32_t image, flags;
    const char *wim_path, *image_name, *target, *reserved;
    uint64_t total_bytes, completed_bytes, total_streams, completed_streams;
    uint32_t part_number, total_parts;
    uint8_t guid[16];
    uint64_t current_files, end_files;
} mm_extract;
typedef struct { const char *from, *to; } mm_rename;
typedef struct { const void *command; size_t completed, total; } mm_update;
typedef struct {
    uint64_t total_bytes, completed_bytes;
    uint32_t total_chunks, completed_chunks, chunk_size;
    const char *path;
} mm_integrity;
typedef struct {
    uint64_t total_bytes, completed_bytes;
    unsigned int part_number, total_parts;
    char *part_name;
} mm_split;
typedef struct { const char *path; } mm_path;
typedef struct { const char *wim_path; uint32_t total_images, current_image; } mm_verify_image;
typedef struct {
    const char *wim_path;
    uint64_t total_streams, total_bytes, completed_streams, completed_bytes;
} mm_verify_streams;
typedef union {
    mm_write_streams write_streams;
    mm_scan scan;
    mm_extract extract;
    mm_rename rename;
    mm_update update;
    mm_integrity integrity;
    mm_split split;
    mm_path path;
    mm_verify_image verify_image;
    mm_verify_streams verify_streams;
} mm_progress;
typedef int (*mm_progress_function)(int message, mm_progress *info, void *context);
"""

_INFO: Final = """
typedef struct {
    uint8_t guid[16];
    uint32_t image_count, boot_index, version, chunk_size;
    uint16_t part_number, total_parts;
    int32_t compression_type;
    uint64_t total_bytes;
    uint32_t bits;
    uint32_t reserved[9];
} mm_wim_info;
typedef struct {
    uint64_t uncompressed_size, compressed_size, offset;
    uint8_t sha1[20];
    uint32_t part_number, reference_count, bits;
    uint64_t raw_offset, raw_compressed_size, raw_uncompressed_size, reserved[1];
} mm_resource;
typedef struct {
    const char *name;
    mm_resource resource;
    uint64_t reserved[4];
} mm_stream;
typedef struct { int64_t seconds; int32_t nanoseconds; } mm_time;
typedef struct {
    const char *name, *short_name, *path;
    size_t depth;
    const char *security;
    size_t security_size;
    uint32_t attributes, reparse_tag, link_count, named_stream_count;
    uint64_t hard_link_group;
    mm_time created, written, accessed;
    uint32_t unix_uid, unix_gid, unix_mode, unix_rdev;
    uint8_t object_id[64];
    int32_t created_high, written_high, accessed_high, reserved2;
    uint64_t reserved[4];
    mm_stream streams[];
} mm_dir_entry;
typedef int (*mm_dir_entry_function)(const mm_dir_entry *entry, void *context);
"""

_UPDATE: Final = """
typedef struct { char *source, *target, *config; int flags; } mm_add;
typedef struct { char *path; int flags; } mm_delete;
typedef struct { char *source, *target; int flags; } mm_rename_command;
typedef struct {
    int op;
    union { mm_add add; mm_delete deletion; mm_rename_command rename; } u;
} mm_command;
"""

_GLOBALS: Final = """
int wimlib_global_init(int flags);
uint32_t wimlib_get_version(void);
const char *wimlib_get_error_string(int code);
int wimlib_set_print_errors(bool show);
int wimlib_set_error_file_by_name(const char *path);
"""

_CODECS: Final = """
int wimlib_create_decompressor(int ctype, size_t block_size_max, void **out);
int wimlib_decompress(const void *packed, size_t packed_size, void *plain, size_t plain_size,
                      void *decompressor);
void wimlib_free_decompressor(void *decompressor);
int wimlib_create_compressor(int ctype, size_t block_size_max, unsigned int level, void **out);
size_t wimlib_compress(const void *plain, size_t plain_size, void *packed, size_t packed_size_max,
                       void *compressor);
void wimlib_free_compressor(void *compressor);
"""

_WIM: Final = """
int wimlib_open_wim_with_progress(const char *path, int flags, void **out,
                                  mm_progress_function function, void *context);
int wimlib_create_new_wim(int ctype, void **out);
void wimlib_free(void *wim);
void wimlib_register_progress_function(void *wim, mm_progress_function function, void *context);

int wimlib_get_wim_info(void *wim, mm_wim_info *out);
int wimlib_set_wim_info(void *wim, const mm_wim_info *info, int which);
int wimlib_get_xml_data(void *wim, void **out, size_t *size_out);
const char *wimlib_get_image_property(const void *wim, int image, const char *name);
int wimlib_set_image_property(void *wim, int image, const char *name, const char *value);
int wimlib_resolve_image(void *wim, const char *name_or_number);
int wimlib_iterate_dir_tree(void *wim, int image, const char *path, int flags,
                            mm_dir_entry_function function, void *context);

int wimlib_set_output_compression_type(void *wim, int ctype);
int wimlib_set_output_chunk_size(void *wim, uint32_t size);
int wimlib_set_output_pack_compression_type(void *wim, int ctype);
int wimlib_set_output_pack_chunk_size(void *wim, uint32_t size);
int wimlib_set_default_compression_level(int ctype, unsigned int level);
int wimlib_write(void *wim, const char *path, int image, int flags, unsigned int threads);
int wimlib_overwrite(void *wim, int flags, unsigned int threads);

int wimlib_add_image(void *wim, const char *source, const char *name, const char *config,
                     int flags);
int wimlib_add_empty_image(void *wim, const char *name, int *number_out);
int wimlib_delete_image(void *wim, int image);
int wimlib_export_image(void *source, int image, void *dest, const char *name,
                        const char *description, int flags);
int wimlib_update_image(void *wim, int image, const mm_command *commands, size_t count, int flags);
int wimlib_reference_template_image(void *wim, int image, void *template_wim, int template_image,
                                    int flags);

int wimlib_extract_image(void *wim, int image, const char *target, int flags);
int wimlib_extract_paths(void *wim, int image, const char *target, const char *const *paths,
                         size_t count, int flags);

int wimlib_reference_resource_files(void *wim, const char *const *paths, unsigned int count,
                                    int flags, int open_flags);
int wimlib_split(void *wim, const char *first_path, uint64_t part_size, int flags);
int wimlib_join_with_progress(const char *const *paths, unsigned int count, const char *output,
                              int open_flags, int write_flags, mm_progress_function function,
                              void *context);
int wimlib_verify_wim(void *wim, int flags);
"""

DECLARATIONS: Final = "".join((_PROGRESS, _INFO, _UPDATE, _GLOBALS, _CODECS, _WIM))
LIBC_DECLARATIONS: Final = "void free(void *memory);"

STRUCT_SIZES: Final = {"mm_progress": 112, "mm_wim_info": 88, "mm_resource": 88}
