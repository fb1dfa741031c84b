; SPDX-License-Identifier: GPL-3.0-or-later
;
; The stand-in as BOOTMGR: real mode at 2000:0000 with DL (boot-facts 1.1), then 32 bits flat, and
; back to real mode for each call of the BIOS. References: Intel SDM 3A 9.9 (mode switches);
; BIOS Enhanced Disk Drive specification (int 13h 42h, 48h).
;
; Memory: 0x0538 packet, 0x0600 parameters, up to 0x7000 the real mode stack, 0x7C00 what the boot
; sector left, 0x10000 the sectors just read, 0x20000 this file, 0x100000 variables, then stack.

        cpu     386
        section .start progbits alloc exec nowrite
        global  start, bios_call, header
        extern  bios_main, variables, variables_end

BASE            equ 0x20000
PACKET          equ 0x540
STACK16         equ 0x7000
STACK32         equ 0x1F0000
CODE32          equ 0x08
DATA32          equ 0x10
CODE16          equ 0x18
DATA16          equ 0x20

        bits    16
start:
        db      0xE9                    ; as the real one: E9 xx 01
        dw      main16 - ($ + 2)
        times 0x10 - ($ - start) db 0
header:
        db      "MEDIAMAKER-BIOS!"      ; 0x10: programs.py finds the header by this
        dd      0                       ; 0x20 length
        dd      0                       ; 0x24 CRC-32 of the whole file with this field 0
        times 40 db 0                   ; 0x28 token

        align   8
gdt:                                    ; all marked accessed: the processor would write it here
        dq      0
        dq      0x00CF9B000000FFFF      ; code, 32 bits, flat
        dq      0x00CF93000000FFFF      ; data, flat
        dq      0x00009B020000FFFF      ; code, 16 bits, from BASE
        dq      0x000093000000FFFF      ; data, 64 KiB from 0
gdt_end:
gdt_pointer:
        dw      gdt_end - gdt - 1
        dd      BASE + (gdt - start)
idt_pointer:
        dw      0x3FF                   ; the real mode table
        dd      0

        times 0x103 - ($ - start) db 0x90  ; main16 is reached by a displacement of 01xx

main16:
        cli
        xor     ax, ax
        mov     ss, ax
        mov     sp, STACK16
        mov     ds, ax
        mov     es, ax
        cld
        sti
        push    dx
        mov     ax, 0x2401              ; A20 on, by the BIOS and by the fast gate
        int     0x15
        in      al, 0x92
        or      al, 2
        and     al, 0xFE
        out     0x92, al
        mov     ax, 0x0003              ; 80 x 25 text, cleared
        int     0x10
        pop     dx
        movzx   edx, dl
        mov     ebx, BASE + (entered - start)
        jmp     enter32

; To the 32-bit address in EBX, with interrupts off.
enter32:
        cli
        xor     ax, ax
        mov     ds, ax
        mov     ax, 0x2000
        mov     ds, ax
        lgdt    [gdt_pointer - start]
        mov     eax, cr0
        or      al, 1
        mov     cr0, eax
        jmp     dword CODE32:BASE + (flat - start)

        bits    32
flat:
        mov     ax, DATA32
        mov     ds, ax
        mov     es, ax
        mov     fs, ax
        mov     gs, ax
        mov     ss, ax
        jmp     ebx

entered:
        mov     esp, STACK32
        push    edx
        mov     edi, variables
        mov     ecx, variables_end
        sub     ecx, edi
        xor     eax, eax
        rep stosb
        call    bios_main
.halt:
        hlt
        jmp     .halt

; int bios_call(uint32_t number (0x10 or 0x13), uint32_t eax, uint32_t edx): EBX = 7, DS:SI = the
; packet; gives AX, with bit 16 for the carry.
bios_call:
        push    ebp
        mov     ebp, esp
        push    ebx
        push    esi
        push    edi
        mov     al, [ebp + 8]
        mov     [PACKET - 4], al
        mov     eax, [ebp + 12]
        mov     edx, [ebp + 16]
        mov     [PACKET - 8], esp
        jmp     CODE16:(leave32 - start)

        bits    16
leave32:
        mov     bx, DATA16
        mov     ds, bx
        mov     es, bx
        mov     fs, bx
        mov     gs, bx
        mov     ss, bx
        mov     ebx, cr0
        and     bl, 0xFE
        mov     cr0, ebx
        jmp     0x2000:(real - start)
real:
        xor     bx, bx
        mov     ds, bx
        mov     es, bx
        mov     ss, bx
        mov     fs, bx
        mov     gs, bx
        mov     sp, STACK16
        o32 lidt [cs:idt_pointer - start]
        mov     si, PACKET
        mov     bx, 7
        sti
        cmp     byte [PACKET - 4], 0x13
        je      .disk
        int     0x10
        jmp     .done
.disk:
        int     0x13
.done:
        cli
        cld
        movzx   ecx, ax
        jnc     .no_carry
        or      ecx, 0x10000
.no_carry:
        mov     ebx, BASE + (back - start)
        jmp     enter32

        bits    32
back:
        mov     esp, [PACKET - 8]
        mov     eax, ecx
        pop     edi
        pop     esi
        pop     ebx
        pop     ebp
        ret
