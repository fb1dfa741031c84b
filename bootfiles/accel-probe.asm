; SPDX-License-Identifier: GPL-3.0-or-later
; A boot sector that shows whether an accelerator runs what BIOS boot managers do: real mode and
; BIOS calls, 16-bit protected mode, and back, many times. There are hosts on which KVM opens and
; then hangs in the second, or steps through it instruction by instruction: 16.8 million rounds of a
; loop, which QEMU's TCG does in 0.2 s, took 37 s on one. So the time limit tells them apart by far.
;
; In: started by a BIOS, 0:7C00. The text at TEXT_OFFSET, a zero after it, is stored with every
; byte XORed with MASK. Each round turns it once, in protected mode and by protected mode's own
; selectors; after an odd number of rounds it can be read, and goes out on COM1. Whoever does not
; get through protected mode says nothing, or something else.

ROUNDS          equ 257                 ; odd
SPINS           equ 0xFFFF
TEXT_OFFSET     equ 0x180
MASK            equ 0x5A

bits 16
org 0x7C00

        jmp     0:start
start:  xor     ax, ax
        mov     ds, ax
        mov     ss, ax
        mov     sp, 0x7C00
        sti
        mov     bp, ROUNDS

round:  push    bp
        mov     ah, 1                   ; is a key waiting? BIOS and interrupts still work
        int     0x16
        cli
        lgdt    [gdt_place]
        mov     eax, cr0
        or      al, 1
        mov     cr0, eax
        jmp     code - gdt:protected

protected:
        mov     ax, data - gdt
        mov     ds, ax
        mov     ss, ax
        mov     cx, SPINS
.spin:  inc     word [0x6000]          ; not in the page of the code
        loop    .spin
        mov     si, 0x7C00 + TEXT_OFFSET
.turn:  cmp     byte [si], 0
        je      .back
        xor     byte [si], MASK
        inc     si
        jmp     .turn
.back:  mov     eax, cr0
        and     al, 0xFE
        mov     cr0, eax
        jmp     0:real

real:   xor     ax, ax
        mov     ds, ax
        mov     ss, ax
        sti
        pop     bp
        dec     bp
        jnz     round

        mov     si, 0x7C00 + TEXT_OFFSET
        mov     dx, 0x3F8
.say:   lodsb
        test    al, al
        jz      done
        out     dx, al
        jmp     .say
done:   hlt
        jmp     done

        align   8, db 0
gdt:    dq      0
code:   dw      0xFFFF, 0, 0x9A00, 0    ; 16-bit code and data from 0, 64 KiB
data:   dw      0xFFFF, 0, 0x9200, 0
gdt_place:
        dw      gdt_place - gdt - 1
        dd      gdt

        times   TEXT_OFFSET - ($ - $$) db 0
        times   510 - ($ - $$) db 0
        dw      0xAA55
