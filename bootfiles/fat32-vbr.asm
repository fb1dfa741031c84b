; SPDX-License-Identifier: GPL-3.0-or-later
;
; FAT32 boot code: loads \BOOTMGR whole to 2000:0000 and hands over to it.
;
; Two parts. Sector 0 is the volume boot record: it finds out where the partition starts and
; loads stage 2, which lies in the reserved area from sector 16 on. Sectors 2-5 and 8-15 would
; be free too, but mtools' mlabel, which partition editors call to set label and serial, writes
; 8 sectors from the backup at 6 on. Stage 2 knows FAT32.
;
; In:   0:7C00 holds sector 0 of the volume; DL = BIOS drive, DS:SI -> partition entry.
; Out:  CS:IP = 2000:0000, DL = drive, SS:SP = 0:7C00, DS = ES = 0, and in memory
;       u16 0:7C0B = bytes per sector, u32 0:7C1C = first LBA of the partition.
; Or a message, a key, and a restart.
;
; References: Microsoft FAT32 File System Specification 1.03 (fatgen103); BIOS Enhanced Disk
; Drive specification (int 13h 42h); /bootfiles/README.md for contract and memory map.

        cpu     386
        bits    16

        %include "volume.inc"
        %include "stop.inc"
        %include "disk-read.inc"
        %include "bootmgr.inc"

STAGE2          equ 0x9000              ; up to 12 KiB; a 4 KiB sector 0 ends at 0x8C00
FAT_BUFFER      equ 0xC000              ; one sector, up to 4 KiB
ROOT_BUFFER     equ 0xD000              ; one sector, up to 4 KiB

STAGE2_SECTOR   equ 16                  ; MANIFEST.toml says it too
STAGE2_SIZE     equ stage2_end - stage2_start
HEAD_SIGNATURE  equ "MMS2"
TAIL_SIGNATURE  equ "2SMM"

DIRECTORY_MAX   equ 65536 * 32          ; bytes: no FAT directory may be longer
CLUSTER_END     equ 0x0FFFFFF8          ; this and above: last cluster of a chain

ATTR_LABEL_DIR  equ 0x18                ; volume label (long names have it too), directory
DIR_ATTR        equ 11                  ; in a directory entry
DIR_CLUSTER_HI  equ 20
DIR_CLUSTER_LO  equ 26
DIR_SIZE        equ 28
DIR_ENTRY_SIZE  equ 32

        absolute VBR + 0x0B             ; BIOS parameter block, as the volume renderer fills it
bytes_per_sector        resw 1          ; 0x0B
sectors_per_cluster     resb 1          ; 0x0D
reserved_sectors        resw 1          ; 0x0E
fat_count               resb 1          ; 0x10
root_entry_count        resw 1          ; 0x11, 0 on FAT32
total_sectors_16        resw 1          ; 0x13
media                   resb 1
fat_sectors_16          resw 1          ; 0x16, 0 on FAT32
                        resw 2
hidden_sectors          resd 1          ; 0x1C
total_sectors_32        resd 1          ; 0x20
fat_sectors_32          resd 1          ; 0x24
extended_flags          resw 1          ; 0x28
version                 resw 1          ; 0x2A
root_cluster            resd 1          ; 0x2C
        absolute VBR + 0x40
drive                   resb 1

        absolute STATE
        volume_state
cached_fat_sector       resd 1          ; volume sector that FAT_BUFFER holds
active_fat_sector       resd 1          ; volume sector where the FAT in use starts
data_sector             resd 1          ; volume sector of cluster 2
last_cluster            resd 1
directory_left          resd 1          ; bytes until the root directory is too long
sectors_left            resd 1          ; of BOOTMGR
run_sector              resd 1          ; a run of neighbouring clusters: first volume sector
run_length              resd 1          ; and its length in sectors
destination             resd 1          ; linear address for the next sector of BOOTMGR
        volume_state_end

; ---------------------------------------------------------------------------------------------
        section sector0 start=0 vstart=VBR

        jmp     short start
        nop
        times 0x5A - ($ - $$) db 0      ; OEM name and BPB are the volume's, not ours

        %define VOLUME_START hidden_sectors
        %include "sector0-start.inc"

; EAX = first LBA of the partition, kept. CF = 0: stage 2 is loaded and is ours, else SI = why.
load_stage2:
        mov     si, damaged0_text
        mov     bx, [bytes_per_sector]
        cmp     bx, 512
        jb      .fail
        cmp     bx, 4096                ; larger ones would overrun our buffers
        ja      .fail
        push    eax
        mov     ax, STAGE2_SIZE - 1
        xor     dx, dx
        div     bx
        inc     ax
        mov     cx, ax                  ; CX = sectors of stage 2
        pop     eax
        fill_packet STAGE2
        add     dword [packet.lba], STAGE2_SECTOR
        adc     dword [packet.lba + 4], 0
        read_packet cx, di, .check
        mov     si, read0_text
.fail:
        stc
        ret
.check:
        %include "sector0-end.inc"

; ---------------------------------------------------------------------------------------------
        section stage2 start=512 vstart=STAGE2

stage2_start:
        dd      HEAD_SIGNATURE

; DS = ES = SS = 0, SP = 7C00; BPB, hidden_sectors and drive in memory are right.
stage2_entry:
        call    read_layout
        call    find_bootmgr            ; EAX = first cluster, EDX = size
        call    check_size              ; sectors_left
        call    load_bootmgr

        enter_bootmgr

; BPB -> active_fat_sector, data_sector, last_cluster. All "sectors" count from the volume's
; start; 32 bits are enough for these, the disk's 64-bit LBA is made in read_sectors.
read_layout:
        mov     si, layout_text
        mov     ax, [bytes_per_sector]  ; 512..4096: sector 0 has seen to it
        mov     bx, ax
        dec     bx
        test    ax, bx
        jnz     stop
        mov     al, [sectors_per_cluster]
        test    al, al
        jz      stop
        mov     bl, al
        dec     bl
        test    al, bl
        jnz     stop
        mov     ax, [root_entry_count]  ; set on FAT12 and FAT16 only
        or      ax, [fat_sectors_16]
        or      ax, [version]
        jnz     stop
        movzx   ecx, word [reserved_sectors]
        test    cx, cx
        jz      stop
        movzx   ebx, byte [fat_count]
        mov     eax, [fat_sectors_32]
        test    eax, eax
        jz      stop
        mul     ebx
        test    edx, edx
        jnz     stop
        test    eax, eax                ; no FAT at all
        jz      stop
        add     eax, ecx
        jc      stop
        mov     [data_sector], eax

        mov     eax, [total_sectors_32]
        test    eax, eax
        jnz     .has_total
        movzx   eax, word [total_sectors_16]
.has_total:
        sub     eax, [data_sector]
        jb      stop
        xor     edx, edx
        movzx   ebx, byte [sectors_per_cluster]
        div     ebx
        inc     eax                     ; clusters are numbered from 2
        mov     [last_cluster], eax

        mov     eax, ecx                ; first FAT
        movzx   edx, word [extended_flags]
        test    dl, 0x80                ; bit 7: not mirrored, bits 0-3 name the FAT in use
        jz      .mirrored
        and     dx, 0x0F
        cmp     dl, [fat_count]
        jae     stop
        push    eax
        mov     eax, [fat_sectors_32]
        mul     edx
        pop     edx
        add     eax, edx
.mirrored:
        mov     [active_fat_sector], eax
        mov     dword [cached_fat_sector], -1
        ret

; -> EAX = first cluster and EDX = size in bytes of \BOOTMGR.
find_bootmgr:
        mov     dword [directory_left], DIRECTORY_MAX
        mov     eax, [root_cluster]
        and     eax, 0x0FFFFFFF
.cluster:                               ; EAX = cluster of the root directory
        mov     si, root_text
        push    eax
        call    cluster_to_sector
        movzx   cx, byte [sectors_per_cluster]
.sector:                                ; EAX = sector, CX = sectors left in this cluster
        mov     si, root_text
        movzx   ebx, word [bytes_per_sector]
        sub     [directory_left], ebx   ; a chain that loops ends here
        jb      stop
        push    eax
        push    cx
        mov     edi, ROOT_BUFFER
        mov     cx, 1
        call    read_sectors
        mov     bx, ROOT_BUFFER
        mov     dx, [bytes_per_sector]
        add     dx, bx
.entry:
        mov     si, missing_text
        cmp     byte [bx], 0            ; no entries after this one
        je      stop
        test    byte [bx + DIR_ATTR], ATTR_LABEL_DIR
        jnz     .next
        mov     si, bx
        mov     di, bootmgr_name
        mov     cx, 11
        repe cmpsb
        je      .found                  ; a deleted entry (E5) never gets here
.next:
        add     bx, DIR_ENTRY_SIZE
        cmp     bx, dx
        jb      .entry
        pop     cx
        pop     eax
        inc     eax
        loop    .sector
        pop     eax
        mov     si, root_text
        call    next_cluster
        cmp     eax, CLUSTER_END
        jb      .cluster
        mov     si, missing_text
        jmp     stop
.found:
        mov     ax, [bx + DIR_CLUSTER_HI]
        shl     eax, 16
        mov     ax, [bx + DIR_CLUSTER_LO]
        and     eax, 0x0FFFFFFF
        mov     edx, [bx + DIR_SIZE]
        add     sp, 2 + 4 + 4           ; sector count, sector, cluster
        ret

; EDX = size of BOOTMGR: must fit between 2000:0000 and the extended BIOS data area, in whole
; sectors. EAX kept.
check_size:
        push    eax
        mov     si, empty_text
        test    edx, edx
        jz      stop
        mov     si, large_text
        cmp     edx, MEMORY_END - BOOTMGR
        ja      stop
        movzx   ebx, word [bytes_per_sector]
        lea     eax, [edx + ebx - 1]
        xor     edx, edx
        div     ebx
        mov     [sectors_left], eax
        check_base_memory
        pop     eax
        ret

; EAX = first cluster of BOOTMGR, sectors_left = its length, at least 1. Neighbouring clusters
; are read in one go. The chain must be as long as the file: one that loops is never at its
; end when the file is.
load_bootmgr:
        mov     dword [destination], BOOTMGR
.run:                                   ; EAX = first cluster of a run
        mov     si, chain_text
        mov     ebp, eax
        call    cluster_to_sector
        mov     [run_sector], eax
        mov     dword [run_length], 0
.extend:                                ; EBP = cluster to add to the run
        movzx   ecx, byte [sectors_per_cluster]
        add     [run_length], ecx
        mov     eax, ebp
        call    next_cluster            ; keeps EBP and SI
        mov     ecx, [sectors_left]
        cmp     [run_length], ecx
        jae     .last_run
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
        cmp     eax, CLUSTER_END
        jb      stop
        mov     [run_length], ecx       ; the tail of the last cluster is not the file's
        ; fall through

; Reads run_sector, run_length to destination; sectors_left goes down.
load_run:
        call_sectors word [destination], [run_length]
        mov     eax, [run_sector]
        mov     edi, [destination]
        call    read_sectors
        add     [run_sector], ecx
        sub     [sectors_left], ecx
        mov     eax, ecx
        mul     ebx
        add     [destination], eax
        sub     [run_length], ecx
        jnz     load_run
        ret

; EAX = cluster -> EAX = its first sector. Not a cluster of this volume: stops with SI.
cluster_to_sector:
        cmp     eax, 2
        jb      stop
        cmp     eax, [last_cluster]
        ja      stop
        sub     eax, 2
        movzx   ecx, byte [sectors_per_cluster]
        mul     ecx
        add     eax, [data_sector]
        ret

; EAX = cluster -> EAX = what its FAT entry says, 28 bits. A free, reserved or bad value is
; caught by whoever uses it as a cluster. Keeps EBP and SI.
next_cluster:
        movzx   ebx, word [bytes_per_sector]
        shr     ebx, 2                  ; FAT entries a sector
        xor     edx, edx
        div     ebx
        cmp     eax, [fat_sectors_32]
        jae     stop
        push    dx
        add     eax, [active_fat_sector]
        cmp     eax, [cached_fat_sector]
        je      .cached
        mov     [cached_fat_sector], eax
        mov     edi, FAT_BUFFER
        mov     cx, 1
        call    read_sectors
.cached:
        pop     bx
        shl     bx, 2
        mov     eax, [bx + FAT_BUFFER]
        and     eax, 0x0FFFFFFF
        ret

        read_sectors_routine 32         ; volume sectors have 32 bits here

        stop_routines stop, print, restart_text

bootmgr_name    db "BOOTMGR    "
missing_text    db "BOOTMGR is missing", 0
empty_text      db "BOOTMGR is empty", 0
large_text      db "BOOTMGR is too large", 0
chain_text      db "BOOTMGR is damaged: its cluster chain is wrong", 0
root_text       db "Root directory is damaged: its cluster chain is wrong", 0
layout_text     db "Not a FAT32 volume, or its boot sector is damaged", 0
read_text       db "Disk read error", 0
restart_text    db RESTART_MESSAGE

        times (512 + 508 - ($ - $$) % 512) % 512 db 0
        dd      TAIL_SIGNATURE          ; the last bytes of whole 512-byte sectors
stage2_end:
