; SPDX-License-Identifier: GPL-3.0-or-later
;
; Stand-in for the Windows BIOS boot manager: checks that it was started as the real one must
; be (boot-facts 1.1), and says a per-run token on screen and COM1 only if all of it holds.
;
; programs.py patches length, CRC-32 and token into the header and appends the filling that
; makes the file as big as today's BOOTMGR. References: BIOS Enhanced Disk Drive specification
; (int 13h 42h, 48h); National Semiconductor PC16550D for the UART.

        cpu     386
        bits    16
        org     0

LOAD_SEGMENT    equ 0x2000
VBR             equ 0x7C00
VBR_BPS         equ 0x7C0B
VBR_HIDDEN      equ 0x7C1C
COM1            equ 0x3F8
SIZE_MAX        equ 0x80000             ; 2000:0000 up to A000:0000

; Variables lie outside the file, in segment 0: the checksum covers every byte of the file.
        absolute 0x1000
drive           resb 1
                resb 1
bps             resw 1
hidden          resd 1
failures        resw 1
expected_crc    resd 1
entry_ss        resw 1
entry_sp        resw 1
entry_cs        resw 1
entry_ip        resw 1
packet          resb 16
parameters      resb 32
CRC_TABLE       equ 0x2000              ; 256 dwords
SECTOR          equ 0x8000              ; up to 4 KiB
STACK           equ 0x7000

        section .text

        db      0xE9                    ; as the real one: E9 xx 01
        dw      main - ($ + 2)
        times 0x10 - ($ - $$) db 0
        db      "MEDIAMAKER-BIOS!"      ; 0x10: programs.py finds the header by this
length  dd      0                       ; 0x20
crc     dd      0                       ; 0x24: CRC-32 of the whole file with this field 0
token   times 40 db 0                   ; 0x28: ASCII, ends with 0

; ---------------------------------------------------------------------------------------------
put_char:                               ; AL, to screen and COM1; keeps all registers
        pushad
        push    ax
        mov     ah, 0x0E
        mov     bx, 0x0007
        int     0x10
        mov     cx, 0xFFFF              ; no UART answers ready for ever or never
.wait:
        mov     dx, COM1 + 5
        in      al, dx
        test    al, 0x20                ; transmitter holding register empty
        loopz   .wait
        pop     ax
        mov     dx, COM1
        out     dx, al
        popad
        ret

put_text:                               ; CS:SI, ends with 0
        push    ax
.next:
        cs lodsb
        test    al, al
        jz      .end
        call    put_char
        jmp     .next
.end:
        pop     ax
        ret

put_hex:                                ; the low CX digits of EAX
        pushad
        mov     dx, cx
        neg     cl
        add     cl, 8
        shl     cl, 2
        shl     eax, cl
.digit:
        rol     eax, 4
        push    ax
        and     al, 0x0F
        cmp     al, 10
        jb      .decimal
        add     al, 'a' - '0' - 10
.decimal:
        add     al, '0'
        call    put_char
        pop     ax
        dec     dx
        jnz     .digit
        popad
        ret

new_line:
        push    si
        mov     si, new_line_text
        call    put_text
        pop     si
        ret

        times 0x103 - ($ - $$) db 0x90  ; main must be reached by a displacement of 01xx

; ---------------------------------------------------------------------------------------------
main:
        mov     bx, ss
        mov     cx, sp
        xor     ax, ax
        mov     ds, ax
        mov     es, ax
        mov     [drive], dl
        cli
        mov     ss, ax
        mov     sp, STACK
        sti
        cld
        mov     [entry_ss], bx
        mov     [entry_sp], cx
        mov     ax, cs
        mov     [entry_cs], ax
        call    .here
.here:
        pop     bx
        mov     [entry_ip], bx
        sub     bx, .here               ; entered as 1FFF:0010, say: find our own texts all
        shr     bx, 4                   ; the same
        add     ax, bx
        push    ax
        push    word .normalised
        retf
.normalised:
        mov     ax, [VBR_BPS]
        mov     [bps], ax
        mov     eax, [VBR_HIDDEN]
        mov     [hidden], eax
        mov     word [failures], 0
        call    open_serial
        mov     ax, 0x0003              ; 80 x 25 text, cleared
        int     0x10
        mov     si, title_text
        call    put_text
        mov     si, stack_text
        call    put_text
        movzx   eax, word [entry_ss]
        mov     cx, 4
        call    put_hex
        mov     al, ':'
        call    put_char
        mov     ax, [entry_sp]
        call    put_hex
        call    new_line

        mov     si, segment_text
        movzx   eax, word [entry_cs]
        mov     edx, LOAD_SEGMENT
        call    check
        mov     si, offset_text
        movzx   eax, word [entry_ip]
        mov     edx, .here
        call    check
        call    check_whole
        call    check_drive

        cmp     word [failures], 0
        jne     halt
        mov     si, ok_text
        call    put_text
        mov     si, token
        call    put_text
        mov     si, dl_text
        call    put_text
        mov     al, [drive]
        mov     cx, 2
        call    put_hex
        mov     si, bps_text
        call    put_text
        mov     ax, [bps]
        mov     cx, 4
        call    put_hex
        mov     si, hidden_text
        call    put_text
        mov     eax, [hidden]
        mov     cx, 8
        call    put_hex
        call    new_line
halt:
        cli
        hlt
        jmp     halt

; SI = what, EAX = got, EDX = expected: says which, counts a failure.
check:
        pushad
        cmp     eax, edx
        jne     .fail
        push    si
        mov     si, fine_text
        call    put_text
        pop     si
        call    put_text
        mov     si, is_text
        jmp     .value
.fail:
        inc     word [failures]
        push    si
        mov     si, fail_text
        call    put_text
        pop     si
        call    put_text
        mov     si, expected_text
        call    put_text
        xchg    eax, edx
        mov     cx, 8
        call    put_hex
        xchg    eax, edx
        mov     si, got_text
.value:
        call    put_text
        mov     cx, 8
        call    put_hex
        call    new_line
        popad
        ret

; CRC-32 (IEEE 802.3, reflected) over the file as it lies in memory from 2000:0000 on.
check_whole:
        mov     ax, LOAD_SEGMENT
        mov     es, ax
        mov     eax, [es:crc]
        mov     [expected_crc], eax
        mov     dword [es:crc], 0
        mov     ecx, [es:length]
        mov     si, length_text
        xor     eax, eax
        cmp     ecx, SIZE_MAX
        ja      .bad_length
        cmp     ecx, end_of_program
        jae     .table
.bad_length:
        inc     eax
        xor     edx, edx
        jmp     check

.table:
        xor     di, di                  ; DI = byte whose table entry is made
.entry:
        movzx   eax, di
        mov     bx, 8
.bit:
        shr     eax, 1
        jnc     .no_carry
        xor     eax, 0xEDB88320
.no_carry:
        dec     bx
        jnz     .bit
        mov     bx, di
        shl     bx, 2
        mov     [CRC_TABLE + bx], eax
        inc     di
        cmp     di, 256
        jb      .entry

        mov     eax, 0xFFFFFFFF
        mov     bp, LOAD_SEGMENT
.block:                                 ; ECX bytes are left, at BP:0000
        mov     es, bp
        add     bp, 0x8000 >> 4
        xor     si, si
        mov     edx, 0x8000
        cmp     ecx, edx
        jae     .whole
        mov     edx, ecx
.whole:
        sub     ecx, edx
.byte:
        movzx   ebx, al
        xor     bl, [es:si]
        shr     eax, 8
        xor     eax, [CRC_TABLE + ebx * 4]
        inc     si
        dec     dx
        jnz     .byte
        test    ecx, ecx
        jnz     .block
        not     eax
        mov     edx, [expected_crc]
        mov     si, crc_text
        jmp     check

; The drive must answer, agree about its sector size, and hold a partition that starts at the
; hidden sectors that were handed over, with a boot sector in it.
check_drive:
        mov     si, drive_text
        movzx   eax, byte [drive]
        mov     edx, eax
        or      dl, 0x80
        call    check
        cmp     eax, edx
        jne     .end

        mov     word [parameters], 0x1E
        mov     si, parameters
        mov     dl, [drive]
        mov     ah, 0x48
        int     0x13
        mov     si, parameters_text
        call    .check_status
        jne     .end
        movzx   eax, word [bps]
        movzx   edx, word [parameters + 0x18]
        mov     si, bps_name
        call    check

        xor     eax, eax
        call    read_sector
        mov     si, read_mbr_text
        call    .check_status
        jne     .end
        movzx   eax, word [SECTOR + 510]
        mov     edx, 0xAA55
        mov     si, mbr_text
        call    check

        mov     eax, [hidden]
        xor     ebx, ebx                ; EBX = 1: an entry starts there
        mov     di, SECTOR + 0x1BE
.entry:
        cmp     byte [di + 4], 0
        je      .next
        cmp     [di + 8], eax
        jne     .next
        mov     bl, 1
.next:
        add     di, 16
        cmp     di, SECTOR + 0x1FE
        jb      .entry
        test    eax, eax
        setne   al
        and     al, bl                  ; 0 is the MBR's own place, never a partition's
        movzx   eax, al
        mov     edx, 1
        mov     si, in_table_text
        call    check
        cmp     eax, edx
        je      .read_vbr
        mov     si, hidden_was_text
        call    put_text
        mov     eax, [hidden]
        mov     cx, 8
        call    put_hex
        call    new_line
        ret

.read_vbr:
        mov     eax, [hidden]
        call    read_sector
        mov     si, read_vbr_text
        call    .check_status
        jne     .end
        movzx   eax, word [SECTOR + 510]
        mov     edx, 0xAA55
        mov     si, vbr_text
        jmp     check

.check_status:                          ; CF and AH after int 13h -> ZF = 1 when all is well
        mov     al, ah
        jc      .failed
        xor     al, al
.carry_clear:
        movzx   eax, al
        xor     edx, edx
        call    check
        cmp     eax, edx
.end:
        ret
.failed:
        test    al, al
        jnz     .carry_clear
        dec     al                      ; a failure with status 0 is still one
        jmp     .carry_clear

read_sector:                            ; LBA EAX to SECTOR; CF and AH as int 13h leaves them
        mov     di, packet
        mov     dword [di], 0x00010010
        mov     dword [di + 4], SECTOR
        mov     [di + 8], eax
        mov     dword [di + 12], 0
        mov     word [SECTOR + 510], 0  ; nothing left from the last read may pass
        mov     si, di
        mov     dl, [drive]
        mov     ah, 0x42
        int     0x13
        ret

open_serial:                            ; 115200 8N1, FIFO on, no interrupts
        mov     si, serial_setup
        mov     cx, 7
.next:
        cs lodsb
        movzx   dx, al
        add     dx, COM1
        cs lodsb
        out     dx, al
        loop    .next
        ret

serial_setup    db 1, 0x00, 3, 0x80, 0, 0x01, 1, 0x00, 3, 0x03, 2, 0xC7, 4, 0x03

title_text      db "mediamaker stand-in for BOOTMGR: free software, starts no Windows"
new_line_text   db 13, 10, 0
stack_text      db "    entered with ss:sp ", 0
fine_text       db "    ok ", 0
is_text         db " = ", 0
fail_text       db "MEDIAMAKER-STANDIN BIOS FAIL ", 0
expected_text   db " expected ", 0
got_text        db " got ", 0
segment_text    db "code segment", 0
offset_text     db "code offset", 0
length_text     db "length field", 0
crc_text        db "checksum of the whole file", 0
drive_text      db "dl is a hard disk", 0
parameters_text db "int 13h 48h status", 0
bps_name        db "bytes per sector at 0:7C0B", 0
read_mbr_text   db "reading the MBR, status", 0
mbr_text        db "MBR signature", 0
in_table_text   db "hidden sectors at 0:7C1C start a partition", 0
hidden_was_text db "    0:7C1C holds ", 0
read_vbr_text   db "reading the VBR, status", 0
vbr_text        db "VBR signature", 0
ok_text         db "MEDIAMAKER-STANDIN BIOS OK token=", 0
dl_text         db " dl=", 0
bps_text        db " bps=", 0
hidden_text     db " hidden=", 0

end_of_program:
