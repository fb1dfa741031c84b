; SPDX-License-Identifier: GPL-3.0-or-later
;
; Master boot record code: starts the one active partition's boot sector by LBA.
;
; In:   BIOS has read LBA 0 to linear 0x7C00 and jumped there; DL = its drive number.
; Out:  0:7C00 holds the first sector of the active partition; CS:IP = 0:7C00, DL = drive,
;       DS:SI = DS:BP = the 16-byte partition entry (in our relocated copy), SS:SP = 0:7C00.
;
; References: BIOS Enhanced Disk Drive specification (int 13h 41h, 42h); UEFI 2.10 section 5.2.1
; for the table; /bootfiles/README.md for the contract. Sector size does not matter here: one
; sector is read, whatever its size (up to 4 KiB lands at 0x7C00..0x8BFF), and only its first
; 512 bytes are looked at.

        cpu     386
        bits    16
        org     0x0600

        %include "stop.inc"

LOAD            equ 0x7C00
CODE_SIZE       equ 440                 ; the NT disk signature starts here
TABLE           equ 0x0600 + 0x1BE
ENTRY_SIZE      equ 16
ENTRY_COUNT     equ 4
READ_TRIES      equ 5

start:
        cli
        xor     ax, ax
        mov     ss, ax
        mov     sp, LOAD
        mov     ds, ax
        mov     es, ax
        sti
        cld
        mov     si, LOAD                ; out of the way of the sector we will load
        mov     di, start
        mov     cx, 256
        rep movsw
        jmp     0:relocated             ; some BIOSes enter at 07C0:0000

relocated:
        mov     [drive], dl
        mov     si, TABLE
        xor     bp, bp                  ; BP = the active entry, 0 = none yet
        mov     cx, ENTRY_COUNT
.entry:
        mov     al, [si]
        cmp     al, 0x80
        je      .active
        test    al, al                  ; anything but 00 and 80: not a partition table
        jnz     bad_table
        jmp     short .next
.active:
        test    bp, bp
        jnz     several_active
        mov     bp, si
.next:
        add     si, ENTRY_SIZE
        loop    .entry

        mov     si, none_text
        test    bp, bp
        jz      stop
        cmp     byte [bp + 4], 0        ; type 0 = unused entry
        je      bad_table
        mov     eax, [bp + 8]           ; first LBA
        test    eax, eax
        jz      bad_table
        mov     [packet.lba], eax

        mov     ah, 0x41                ; int 13h extensions there?
        mov     bx, 0x55AA
        mov     dl, [drive]
        push    bp
        int     0x13
        pop     bp
        mov     si, no_lba_text
        jc      stop
        cmp     bx, 0xAA55
        jne     stop
        test    cl, 1                   ; bit 0: the packet calls (42h) are
        jz      stop

        mov     di, READ_TRIES
.read:
        mov     word [packet.count], 1  ; a failed call may have changed it
        mov     si, packet
        mov     dl, [drive]
        mov     ah, 0x42
        pusha
        int     0x13
        popa
        jnc     .done
        xor     ax, ax                  ; reset the disk, then again
        pusha
        int     0x13
        popa
        dec     di
        jnz     .read
        mov     si, read_text
        jmp     short stop
.done:
        mov     si, no_boot_sector_text
        cmp     word [LOAD + 510], 0xAA55
        jne     stop
        mov     si, bp
        mov     dl, [drive]
        jmp     0:LOAD

several_active:
        mov     si, several_text
        jmp     short stop
bad_table:
        mov     si, bad_table_text
        stop_routines stop, print, restart_text

none_text               db "No active partition", 0
several_text            db "More than one active partition", 0
bad_table_text          db "Partition table is damaged", 0
no_lba_text             db "BIOS cannot read this disk by LBA", 0
read_text               db "Disk read error", 0
no_boot_sector_text     db "Active partition has no boot sector", 0
restart_text            db RESTART_MESSAGE

packet:                                 ; disk address packet of int 13h 42h
        db      16, 0
.count  dw      1
        dw      LOAD, 0                 ; offset, segment
.lba    dd      0, 0
drive   db      0

        times CODE_SIZE - ($ - $$) db 0
