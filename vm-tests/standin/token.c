/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * The least UEFI program that proves it was started: it says a per-run token. Unlike bootx64.c it
 * does not read its own file, so that it may be signed, and altered, after it was built.
 */

#include "uefi.h"

/* programs.py finds this by its magic, and puts the token in. */
static volatile struct {
    char magic[16];
    uint32_t length, crc;
    char token[40]; /* ASCII, ends with NUL */
} header = {.magic = {'M', 'E', 'D', 'I', 'A', 'M', 'A', 'K', 'E', 'R', '-', 'T', 'O', 'K', 'N', '!'},
            .length = 0x5A5A5A5A};

static efi_text_output *console;

static void put(const volatile char *text)
{
    for (; *text; text++) {
        char16 wide[2] = {(uint8_t)*text, 0};
        console->output_string(console, wide);
    }
}

efi_status EFIAPI efi_main(efi_handle image_handle, efi_system_table *table)
{
    (void)image_handle;
    console = table->con_out;
    table->boot_services->set_watchdog_timer(0, 0, 0, 0);
    put("\r\nmediamaker token program: free software, starts nothing\r\nMEDIAMAKER-TOKEN token=");
    put(header.token);
    put("\r\n");
    for (;;)
        table->boot_services->stall(1000000);
}
