; SPDX-License-Identifier: GPL-3.0-or-later
;
; exFAT boot code: loads \BOOTMGR whole to 2000:0000 and hands over to it.
;
; Two parts. Sector 0 is the volume boot record: it finds out where the partition starts and
; loads stage 2, which lies in the extended boot sectors 1-8, in all bytes of each but the last
; four, a signature of the file system's. Stage 2 knows exFAT.
;
; In:   0:7C00 holds sector 0 of the volume; DL = BIOS drive, DS:SI -> partition entry.
; Out:  CS:IP = 2000:0000, DL = drive, SS:SP = 0:7C00, DS = ES = 0, and in memory
;       u16 0:7C0B = bytes per sector, u32 0:7C1C = first LBA of the partition: on disk exFAT has
;       zeros there.
; Or a message, a key, and a restart.
;
; References: Microsoft exFAT file system specification 1.00; BIOS Enhanced Disk Drive
; specification (int 13h 42h); /bootfiles/README.md for contract and memory map.

        cpu     386
        bits    16

        %include "volume.inc"
        %include "stop.inc"
        %include "disk-read.inc"
        %include "bootmgr.inc"

STAGE2          equ 0x9000              ; up to 4064 bytes; a 4 KiB sector 0 ends at 0x8C00
RAW             equ 0xC000              ; stage 2 with signatures in between, up to 8 KiB
FAT_BUFFER      equ 0xC000              ; one sector, up to 4 KiB
ROOT_BUFFER     equ 0xD000              ; one sector, up to 4 KiB

STAGE2_SIZE     equ stage2_end - stage2_start
STAGE2_MAX      equ 8 * (512 - EXTENDED_SIGNATURE_SIZE)
EXTENDED_SIGNATURE_SIZE equ 4
HEAD_SIGNATURE  equ "MMX2"
TAIL_SIGNATURE  equ "2XMM"

CLUSTER_END     equ 0xFFFFFFFF          ; the last cluster of a chain has this
CLUSTER_SHIFT_MAX equ 25                ; clusters have 32 MiB at most
SECTOR_SHIFT_MIN equ 9

TYPE_FILE       equ 0x85                ; directory entries
TYPE_STREAM     equ 0xC0
TYPE_NAME       equ 0xC1
FILE_ATTRIBUTES equ 4
ATTR_DIRECTORY  equ 0x10
STREAM_FLAGS    equ 1
NO_FAT_CHAIN    equ 2
STREAM_UNITS    equ 3                   ; of the name
STREAM_VALID    equ 8
STREAM_CLUSTER  equ 20
STREAM_SIZE     equ 24
NAME_UNITS      equ 2
DIR_ENTRY_SIZE  equ 32

        absolute VBR + 0x0B             ; what BOOTMGR looks at; zeros on disk
bytes_per_sector        resw 1          ; 0x0B
        absolute VBR + 0x1C
hidden_sectors          resd 1          ; 0x1C
        absolute VBR + 64               ; the volume's own fields
partition_offset        resd 2          ; 64
volume_length           resd 2          ; 72
fat_offset              resd 1          ; 80
fat_length              resd 1          ; 84
heap_offset             resd 1          ; 88
cluster_count           resd 1          ; 92
root_cluster            resd 1          ; 96
                        resd 1
                        resw 1
volume_flags            resw 1          ; 106
sector_shift            resb 1          ; 108
cluster_shift           resb 1          ; 109, sectors per cluster
fat_count               resb 1          ; 110
drive                   resb 1          ; 111, DriveSelect

        absolute STATE
        volume_state
cached_fat_sector       resd 1          ; volume sector that FAT_BUFFER holds
active_fat_sector       resd 1          ; volume sector where the FAT in use starts
cluster_sectors         resd 1
last_cluster            resd 1
marked_cluster          resd 1          ; of the root directory: a chain that loops meets it again
until_mark              resd 1          ; clusters until another one is marked
mark_distance           resd 1
stage                   resb 1          ; of a set of entries: 0, 1 file seen, 2 stream seen
is_contiguous           resb 1          ; BOOTMGR has no chain
data_size               resd 2
valid_size              resd 2
first_cluster           resd 1
sectors_left            resd 1          ; of BOOTMGR
run_sector              resd 2          ; a run of neighbouring clusters: first volume sector
run_length              resd 1          ; and its length in sectors
destination             resd 1          ; linear address for the next sector of BOOTMGR
        volume_state_end

; ---------------------------------------------------------------------------------------------
        section sector0 start=0 vstart=VBR

        jmp     short start
        nop
        times 120 - ($ - $$) db 0       ; name and fields are the volume's, not ours

        %define VOLUME_START partition_offset
        %include "sector0-start.inc"

; EAX = first LBA of the partition, kept. CF = 0: stage 2 is loaded and is ours, else SI = why.
load_stage2:
        mov     si, damaged0_text
        mov     cl, [sector_shift]
        sub     cl, SECTOR_SHIFT_MIN
        cmp     cl, 3                   ; larger sectors would overrun our buffers
        ja      .fail
        mov     bx, 1 << SECTOR_SHIFT_MIN
        shl     bx, cl
        mov     [bytes_per_sector], bx
        sub     bx, EXTENDED_SIGNATURE_SIZE
        push    eax
        mov     ax, STAGE2_SIZE - 1
        xor     dx, dx
        div     bx
        inc     ax
        mov     bp, ax                  ; BP = sectors of stage 2, BX = its bytes in each
        pop     eax
        fill_packet RAW
        add     dword [packet.lba], 1
        adc     dword [packet.lba + 4], 0
        read_packet bp, di, .check
        mov     si, read0_text
.fail:
        stc
        ret
.check:
        mov     si, RAW
        mov     di, STAGE2
.piece:
        mov     cx, bx
        rep movsb
        add     si, EXTENDED_SIGNATURE_SIZE
        dec     bp
        jnz     .piece
        %include "sector0-end.inc"

; ---------------------------------------------------------------------------------------------
        section stage2 start=512 vstart=STAGE2

stage2_start:
        dd      HEAD_SIGNATURE

; DS = ES = SS = 0, SP = 7C00; bytes_per_sector, hidden_sectors and drive in memory are right.
stage2_entry:
        call    read_layout
        call    find_bootmgr            ; first_cluster, data_size, valid_size, is_contiguous
        call    check_size              ; sectors_left
        call    load_bootmgr
        call    clear_the_rest

        enter_bootmgr

; -> cluster_sectors, last_cluster, active_fat_sector.
read_layout:
        mov     si, layout_text
        mov     cl, [cluster_shift]
        mov     al, [sector_shift]      ; 9..12: sector 0 has seen to it
        add     al, cl
        jc      stop
        cmp     al, CLUSTER_SHIFT_MAX
        ja      stop
        mov     eax, 1
        shl     eax, cl
        mov     [cluster_sectors], eax
        mov     eax, [cluster_count]
        test    eax, eax
        jz      stop
        inc     eax                     ; clusters are numbered from 2
        jz      stop
        mov     [last_cluster], eax

        mov     eax, [fat_offset]
        test    eax, eax
        jz      stop
        cmp     dword [fat_length], 0
        je      stop
        test    byte [volume_flags], 1  ; ActiveFat: the second one
        jz      .first
        cmp     byte [fat_count], 2
        jb      stop
        add     eax, [fat_length]
        jc      stop
.first:
        mov     [active_fat_sector], eax
        mov     dword [cached_fat_sector], -1
        ret

; \BOOTMGR's set of entries -> first_cluster, data_size, valid_size, is_contiguous. A set is the
; file's own entry, its stream's, and its name's, 15 units each.
find_bootmgr:
        mov     byte [is_contiguous], 0 ; the root directory always has a chain
        mov     byte [stage], 0
        mov     eax, 1
        mov     [until_mark], eax
        mov     [mark_distance], eax
        mov     eax, [root_cluster]
        mov     dword [marked_cluster], 0
.cluster:                               ; EAX = cluster of the root directory
        mov     si, root_text
        push    eax
        call    cluster_to_sector
        mov     ecx, [cluster_sectors]
.sector:                                ; EDX:EAX = sector, ECX = sectors left in this cluster
        pushad
        mov     edi, ROOT_BUFFER
        mov     cx, 1
        call    read_sectors
        mov     bx, ROOT_BUFFER
        mov     cx, [bytes_per_sector]
        add     cx, bx
.entry:
        mov     al, [bx]
        test    al, al                  ; no entries after this one
        jz      .missing
        cmp     al, TYPE_FILE
        je      .file
        cmp     al, TYPE_STREAM
        je      .stream
        cmp     al, TYPE_NAME
        je      .name
.other:
        mov     byte [stage], 0
.next:
        add     bx, DIR_ENTRY_SIZE
        cmp     bx, cx
        jb      .entry
        popad
        add     eax, 1
        adc     edx, 0
        dec     ecx
        jnz     .sector
        pop     eax
        mov     si, root_text
        call    next_cluster
        cmp     eax, CLUSTER_END
        je      .missing
        cmp     eax, [marked_cluster]
        je      stop
        dec     dword [until_mark]
        jnz     .cluster
        mov     [marked_cluster], eax   ; marks get rarer, so a loop of any length holds one
        shl     dword [mark_distance], 1
        mov     ecx, [mark_distance]
        mov     [until_mark], ecx
        jmp     .cluster
.missing:
        mov     si, missing_text
        jmp     stop

.file:
        test    byte [bx + FILE_ATTRIBUTES], ATTR_DIRECTORY
        jnz     .other
        mov     byte [stage], 1
        jmp     .next
.stream:
        cmp     byte [stage], 1
        jne     .other
        cmp     byte [bx + STREAM_UNITS], BOOTMGR_UNITS
        jne     .other
        mov     byte [stage], 2
        mov     al, [bx + STREAM_FLAGS]
        and     al, NO_FAT_CHAIN
        mov     [stream_flag], al
        mov     eax, [bx + STREAM_CLUSTER]
        mov     [first_cluster], eax
        mov     eax, [bx + STREAM_SIZE]
        mov     [data_size], eax
        mov     eax, [bx + STREAM_SIZE + 4]
        mov     [data_size + 4], eax
        mov     eax, [bx + STREAM_VALID]
        mov     [valid_size], eax
        mov     eax, [bx + STREAM_VALID + 4]
        mov     [valid_size + 4], eax
        jmp     .next
.name:
        cmp     byte [stage], 2
        jne     .other
        xor     si, si
.unit:
        mov     di, si
        shl     di, 1
        mov     ax, [bx + di + NAME_UNITS]
        cmp     ax, "a"
        jb      .upper
        cmp     ax, "z"
        ja      .upper
        sub     ax, "a" - "A"
.upper:
        movzx   dx, byte [si + bootmgr_name]
        cmp     ax, dx
        jne     .other
        inc     si
        cmp     si, BOOTMGR_UNITS
        jb      .unit
        mov     al, [stream_flag]
        mov     [is_contiguous], al
        add     sp, 32 + 4              ; registers, cluster
        ret

; data_size must fit between 2000:0000 and the extended BIOS data area, in whole sectors.
check_size:
        mov     si, empty_text
        mov     edx, [data_size]
        mov     eax, [data_size + 4]
        mov     ecx, edx
        or      ecx, eax
        jz      stop
        mov     si, large_text
        test    eax, eax
        jnz     stop
        cmp     edx, MEMORY_END - BOOTMGR
        ja      stop
        movzx   ebx, word [bytes_per_sector]
        lea     eax, [edx + ebx - 1]
        xor     edx, edx
        div     ebx
        mov     [sectors_left], eax
        check_base_memory
        ret

; first_cluster and sectors_left, at least 1. Neighbouring clusters are read in one go. A chain
; must be as long as the file: one that loops is never at its end when the file is.
load_bootmgr:
        mov     dword [destination], BOOTMGR
        mov     eax, [first_cluster]
.run:                                   ; EAX = first cluster of a run
        mov     si, chain_text
        mov     ebp, eax
        call    cluster_to_sector
        mov     [run_sector], eax
        mov     [run_sector + 4], edx
        mov     dword [run_length], 0
.extend:                                ; EBP = cluster to add to the run
        mov     eax, [cluster_sectors]
        add     [run_length], eax
        mov     ecx, [sectors_left]
        cmp     [run_length], ecx
        jae     .last_run
        mov     eax, ebp
        call    next_cluster            ; keeps EBP and SI
        inc     ebp
        cmp     eax, ebp
        jne     .end_run
        cmp     eax, [last_cluster]
        jbe     .extend
        jmp     stop
.end_run:
        push    eax
        call    load_run
        pop     eax
        jmp     .run
.last_run:
        mov     [run_length], ecx       ; the tail of the last cluster is not the file's
        cmp     byte [is_contiguous], 0
        jne     load_run
        mov     eax, ebp
        call    next_cluster
        cmp     eax, CLUSTER_END
        jne     stop
        ; fall through

; Reads run_sector, run_length to destination; sectors_left goes down.
load_run:
        call_sectors word [destination], [run_length]
        mov     eax, [run_sector]
        mov     edx, [run_sector + 4]
        mov     edi, [destination]
        call    read_sectors
        add     [run_sector], ecx
        adc     dword [run_sector + 4], 0
        sub     [sectors_left], ecx
        mov     eax, ecx
        mul     ebx
        add     [destination], eax
        sub     [run_length], ecx
        jnz     load_run
        ret

; What was never written of BOOTMGR reads as zeros.
clear_the_rest:
        clear_unwritten .end
.end:
        ret

; EAX = cluster -> EDX:EAX = its first sector. Not a cluster of this volume: stops with SI.
cluster_to_sector:
        cmp     eax, 2
        jb      stop
        cmp     eax, [last_cluster]
        ja      stop
        sub     eax, 2
        mul     dword [cluster_sectors]
        add     eax, [heap_offset]
        adc     edx, 0
        ret

; EAX = cluster -> EAX = the one after it, or what else its FAT entry says. A free or bad value
; is caught by whoever uses it as a cluster. Keeps EBP and SI.
next_cluster:
        cmp     byte [is_contiguous], 0
        jne     .neighbour
        movzx   ebx, word [bytes_per_sector]
        shr     ebx, 2                  ; FAT entries a sector
        xor     edx, edx
        div     ebx
        cmp     eax, [fat_length]
        jae     stop
        push    dx
        add     eax, [active_fat_sector]
        jc      stop
        cmp     eax, [cached_fat_sector]
        je      .cached
        mov     [cached_fat_sector], eax
        xor     edx, edx
        mov     edi, FAT_BUFFER
        mov     cx, 1
        call    read_sectors
.cached:
        pop     bx
        shl     bx, 2
        mov     eax, [bx + FAT_BUFFER]
        ret
.neighbour:
        inc     eax
        ret

        read_sectors_routine

        stop_routines stop, print, restart_text

BOOTMGR_UNITS   equ 7

stream_flag     db 0                    ; NoFatChain of the set that is being looked at
bootmgr_name    db "BOOTMGR"
missing_text    db "BOOTMGR is missing", 0
empty_text      db "BOOTMGR is empty", 0
large_text      db "BOOTMGR is too large", 0
chain_text      db "BOOTMGR is damaged: its cluster chain is wrong", 0
root_text       db "Root directory is damaged: its cluster chain is wrong", 0
layout_text     db "Not an exFAT volume, or its boot sector is damaged", 0
read_text       db "Disk read error", 0
restart_text    db RESTART_MESSAGE

        times (4 - ($ - $$) % 4) % 4 db 0
        dd      TAIL_SIGNATURE
stage2_end:
        %if STAGE2_SIZE > STAGE2_MAX
        %error "stage 2 outgrows the extended boot sectors"
        %endif
