; SPDX-License-Identifier: GPL-3.0-or-later
; El Torito boot program (no emulation, 4096 bytes) of the stand-in ISO. The real one would
; load BOOTMGR from the UDF file system; ours only says that the medium is not meant to be
; started as a CD, so that no proof can come from the ISO instead of the stick.
; El Torito 1.0: loaded at 07C0:0000 by default; some firmware starts it as 0000:7C00.

        bits 16
        org 0

start:
        cli
        call here
here:   pop si                          ; real offset of here, whatever CS is
        add si, message - here
        push cs
        pop ds
        xor ax, ax
        mov ss, ax
        mov sp, 0x7C00
        sti
        cld
        mov bx, 0x0007
next:   lodsb
        test al, al
        jz halt
        mov ah, 0x0E
        int 0x10
        jmp next
halt:   hlt
        jmp halt

message:
        db "mediamaker stand-in: make a stick from this ISO, it does not start as a CD.", 13, 10, 0

        times 4096 - ($ - $$) db 0
