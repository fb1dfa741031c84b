; SPDX-License-Identifier: GPL-3.0-or-later
;
; A floppy boot sector that starts the test disk (drive 80h) as some other firmware or loader
; would. What it does is set when it is assembled:
;
;   SECTOR_SHIFT  3: the disk looks as if it had 4096-byte sectors (no SeaBIOS driver has
;                 them): int 13h 42h and 48h for drive 80h are translated. 0: no translation.
;   STRICT        1: reads that cross a 64 KiB boundary or take over 127 sectors fail, as they
;                 do with BIOSes that are less forgiving than SeaBIOS
;   FIRST_LBA, SECTOR_COUNT                   what to read
;   LOAD_SEGMENT, LOAD_OFFSET                 where it is put and entered
;   PASS_DL       drive number to pass on
;   SI_LBA        start LBA in the partition entry that DS:SI points to; 0 leaves all of it 0
;   SET_BPS, SET_HIDDEN                       values for 0:7C0B and 0:7C1C, -1: leave alone

        cpu     386
        bits    16
        org     0x7C00

RESIDENT        equ 0x0500              ; 256 bytes that neither BIOS nor boot code use
DISK            equ 0x80

%define at(label) (RESIDENT + label - resident_start)

start:
        cli
        xor     ax, ax
        mov     ss, ax
        mov     sp, 0x7C00
        mov     ds, ax
        mov     es, ax
        cld
        mov     si, resident_start
        mov     di, RESIDENT
        mov     cx, resident_end - resident_start
        rep movsb
        %if SECTOR_SHIFT + STRICT
        mov     eax, [0x13 * 4]
        mov     [at(old_int13)], eax
        mov     word [0x13 * 4], at(int13)
        mov     word [0x13 * 4 + 2], 0
        %endif
        sti
        jmp     0:at(load)

resident_start:
load:
        mov     bp, SECTOR_COUNT
.next:                                  ; one sector a call: slow and sure
        mov     si, at(packet)
        mov     dl, DISK
        mov     ah, 0x42
        int     0x13
        jc      $                       ; hangs: the test sees neither token nor message
        inc     dword [at(packet.lba)]
        add     word [at(packet.segment)], (512 << SECTOR_SHIFT) >> 4
        dec     bp
        jnz     .next
        %if SET_BPS >= 0
        mov     word [0x7C0B], SET_BPS
        %endif
        %if SET_HIDDEN >= 0
        mov     dword [0x7C1C], SET_HIDDEN
        %endif
        mov     si, at(entry)
        mov     dl, PASS_DL
        jmp     LOAD_SEGMENT:LOAD_OFFSET

        %if SECTOR_SHIFT + STRICT
int13:
        cmp     dl, DISK
        jne     .pass
        cmp     ah, 0x42
        je      .read
        cmp     ah, 0x48
        je      .parameters
.pass:
        jmp     far [cs:at(old_int13)]
.read:                                  ; DS:SI = packet in the sectors we pretend
        push    eax
        %if STRICT
        push    ecx
        movzx   eax, word [si + 6]
        shl     eax, 4
        movzx   ecx, word [si + 4]
        add     eax, ecx                ; first byte
        movzx   ecx, word [si + 2]
        cmp     cx, 127
        ja      .refuse
        shl     ecx, 9 + SECTOR_SHIFT
        add     ecx, eax
        dec     ecx                     ; last byte
        xor     eax, ecx
        shr     eax, 16
        jnz     .refuse
        pop     ecx
        %endif
        mov     eax, [si]
        mov     [cs:at(inner)], eax
        shl     word [cs:at(inner + 2)], SECTOR_SHIFT
        mov     eax, [si + 4]
        mov     [cs:at(inner + 4)], eax
        mov     eax, [si + 8]
        shl     eax, SECTOR_SHIFT
        mov     [cs:at(inner + 8)], eax
        pop     eax
        push    ds
        push    si
        push    cs
        pop     ds
        mov     si, at(inner)
        pushf
        call    far [cs:at(old_int13)]
        pop     si
        pop     ds
        retf    2                       ; flags as the inner call left them
        %if STRICT
.refuse:
        pop     ecx
        pop     eax
        mov     ah, 0x09                ; data boundary error
        stc
        retf    2
        %endif
.parameters:
        pushf
        call    far [cs:at(old_int13)]
        mov     word [si + 0x18], 512 << SECTOR_SHIFT
        retf    2
inner           times 16 db 0
old_int13       dd 0
        %endif

packet          db 16, 0
                dw 1
                dw LOAD_OFFSET
.segment        dw LOAD_SEGMENT
.lba            dd FIRST_LBA, 0
        %if SI_LBA
entry           db 0x80, 0, 0, 0, 0x0C, 0, 0, 0
                dd SI_LBA, 0x10000
        %else
entry           times 16 db 0
        %endif
resident_end:
        %if resident_end - resident_start > 256
        %error "resident part outgrows its place"
        %endif
        times 510 - ($ - $$) db 0
        dw      0xAA55
