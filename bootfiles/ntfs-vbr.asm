; SPDX-License-Identifier: GPL-3.0-or-later
;
; NTFS boot code: loads \BOOTMGR whole to 2000:0000 and hands over to it.
;
; It fills the volume's file $Boot, 8192 bytes whatever the sector size. The first 512 are the
; volume boot record: it finds out where the partition starts and reads all of $Boot. What follows
; is stage 2, which knows NTFS.
;
; In:   0:7C00 holds sector 0 of the volume; DL = BIOS drive, DS:SI -> partition entry.
; Out:  CS:IP = 2000:0000, DL = drive, SS:SP = 0:7C00, DS = ES = 0, and in memory
;       u16 0:7C0B = bytes per sector, u32 0:7C1C = first LBA of the partition.
; Or a message, a key, and a restart.
;
; References: the Linux-NTFS project's documentation ($Boot, FILE record, attributes,
; $ATTRIBUTE_LIST, $INDEX_ROOT, $INDEX_ALLOCATION, fixup, data runs); BIOS Enhanced Disk Drive
; specification (int 13h 42h); /bootfiles/README.md for contract and memory map.

        cpu     386
        bits    16

        %include "volume.inc"
        %include "stop.inc"
        %include "disk-read.inc"
        %include "bootmgr.inc"

BOOT            equ 0x9000              ; $Boot; a 4 KiB sector 0 ends at 0x8C00
BOOT_SIZE       equ 8192
STAGE2          equ BOOT + 512
RECORD          equ 0xB000              ; one file record, up to 4 KiB
RECORD_MAX      equ 4096
MFT_RUNS        equ 0x10000             ; runs of a stream: u32 clusters, u32 first cluster
STREAM_RUNS     equ 0x18000
LIST_RUNS       equ 0x1F000
LIST            equ 0x20000             ; an attribute list
LIST_MAX        equ 0xF000              ; bytes; whole sectors of it end below 64 KiB
INDEX           equ 0x30000             ; one index block
INDEX_MAX       equ 0x8000

STAGE2_SIZE     equ stage2_end - stage2_start
HEAD_SIGNATURE  equ "MMN2"
TAIL_SIGNATURE  equ "2NMM"

DEPTH_MAX       equ 16                  ; of a directory's tree: one that loops ends here
STRIDE          equ 512                 ; a fixup every so many bytes, whatever the sector size
CLUSTER_SHIFT_MAX equ 12                ; 4096 sectors, 2 MiB of 512-byte ones

ROOT_NUMBER     equ 5                   ; record numbers: $MFT is 0
BLOCK_FIXUPS    equ 4                   ; in a FILE or INDX block
BLOCK_FIXUP_COUNT equ 6
RECORD_SEQUENCE equ 0x10
RECORD_FIRST    equ 0x14                ; offset of the first attribute
RECORD_FLAGS    equ 0x16
IN_USE          equ 1

TYPE_LIST       equ 0x20                ; attribute types
TYPE_DATA       equ 0x80
TYPE_INDEX_ROOT equ 0x90
TYPE_ALLOCATION equ 0xA0
TYPE_END        equ 0xFFFFFFFF

ATTR_TYPE       equ 0                   ; in an attribute
ATTR_LENGTH     equ 4
ATTR_OUTSIDE    equ 8                   ; 1: non-resident
ATTR_NAME_SIZE  equ 9
ATTR_NAME       equ 10
ATTR_FLAGS      equ 12
ATTR_HEADER     equ 24
VALUE_SIZE      equ 0x10                ; resident
VALUE_OFFSET    equ 0x14
LOWEST_VCN      equ 0x10                ; non-resident
RUNS_OFFSET     equ 0x20
DATA_SIZE       equ 0x30
VALID_SIZE      equ 0x38
OUTSIDE_HEADER  equ 0x40
FLAG_COMPRESSED equ 0x00FF
FLAG_ENCRYPTED  equ 0x4000
FLAG_SPARSE     equ 0x8000

ITEM_LENGTH     equ 4                   ; in an item of an attribute list
ITEM_NAME_SIZE  equ 6
ITEM_NAME       equ 7
ITEM_VCN        equ 8
ITEM_NUMBER     equ 0x10
ITEM_SEQUENCE   equ 0x16
ITEM_HEADER     equ 26

ROOT_BLOCK_SIZE equ 8                   ; in the value of $INDEX_ROOT
ROOT_NODE       equ 16
INDEX_VCN       equ 0x10                ; in an INDX block
INDEX_NODE      equ 0x18
NODE_ENTRIES    equ 0                   ; in a node's header, counted from it
NODE_END        equ 4
NODE_HEADER     equ 16
KEY_LENGTH      equ 8                   ; in an index entry
KEY_FLAGS       equ 12
KEY_SEQUENCE    equ 6
KEY_ATTRIBUTES  equ 0x10 + 0x38
KEY_NAME_SIZE   equ 0x10 + 0x40
KEY_NAME        equ 0x10 + 0x42
KEY_HEADER      equ 16
HAS_CHILD       equ 1
IS_LAST         equ 2
ATTR_DIRECTORY  equ 0x10000000

        absolute VBR + 0x0B             ; BIOS parameter block, as formatters fill it
bytes_per_sector        resw 1          ; 0x0B
sectors_per_cluster     resb 1          ; 0x0D, above 0x80: minus a power of two
        absolute VBR + 0x1C
hidden_sectors          resd 1          ; 0x1C
                        resd 1
drive                   resb 1          ; 0x24
        absolute VBR + 0x28
total_sectors           resd 2          ; 0x28
mft_cluster             resd 2          ; 0x30
                        resd 2
clusters_per_record     resb 1          ; 0x40, negative: minus a power of two of bytes

        struc   stream                  ; a table of runs
.segment        resw 1                  ; of the table
.size           resw 1                  ; bytes of it in use
.limit          resw 1
                resw 1
.clusters       resd 1                  ; in all runs
        endstruc

RUN_SIZE        equ 8

        absolute STATE
        volume_state
mft                     resb stream_size
data                    resb stream_size
list                    resb stream_size
nowhere                 resb stream_size ; for what must be resident
streams_end:
cluster_sectors         resd 1
cluster_count           resd 1
record_sectors          resd 1
record_end              resw 1          ; RECORD + a record's size
record_number           resd 1          ; what RECORD holds
subject                 resw 1          ; text: what is damaged when something is
wanted_type             resd 1
wanted_name_size        resb 1          ; units: 0, or 4 for $I30
is_resident             resb 1
is_found                resb 1
depth                   resb 1
list_at                 resw 1          ; the next item of the attribute list
list_end                resw 1
number                  resd 2          ; as an attribute's runs spell it
run_cluster             resd 2
data_size               resd 2
valid_size              resd 2
index_size              resw 1          ; bytes of an index block
vcn_size                resd 1          ; bytes that index blocks are counted in
        volume_state_end

; ---------------------------------------------------------------------------------------------
        section sector0 start=0 vstart=VBR

        jmp     short start
        nop
        times 0x54 - ($ - $$) db 0      ; OEM name and BPB are the volume's, not ours

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
        mov     ax, BOOT_SIZE
        xor     dx, dx
        div     bx
        mov     cx, ax                  ; CX = sectors of $Boot
        pop     eax
        fill_packet BOOT
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
        mov     si, streams_start
        mov     di, mft
        mov     cx, streams_end - mft
        rep movsb
        call    read_layout
        call    read_mft
        call    find_bootmgr            ; EAX = its record, DX = that one's sequence number
        call    load_bootmgr

        enter_bootmgr

; BPB -> cluster_sectors, cluster_count, record_sectors, record_end.
read_layout:
        mov     si, layout_text
        mov     ax, [bytes_per_sector]  ; 512..4096: sector 0 has seen to it
        mov     bx, ax
        dec     bx
        test    ax, bx
        jnz     stop
        movzx   eax, byte [sectors_per_cluster]
        cmp     al, 0x80
        jbe     .is_count
        mov     cl, al
        neg     cl
        cmp     cl, CLUSTER_SHIFT_MAX
        ja      stop
        mov     eax, 1
        shl     eax, cl
.is_count:
        test    eax, eax
        jz      stop
        mov     [cluster_sectors], eax
        lea     ebx, [eax - 1]
        test    eax, ebx
        jnz     stop

        mov     eax, [total_sectors]
        mov     edx, [total_sectors + 4]
        cmp     edx, [cluster_sectors]
        jae     stop                    ; NTFS has fewer than 2^32 clusters
        div     dword [cluster_sectors]
        mov     [cluster_count], eax
        cmp     dword [mft_cluster + 4], 0
        jne     stop
        cmp     [mft_cluster], eax
        jae     stop

        movzx   ebx, word [bytes_per_sector]
        movsx   eax, byte [clusters_per_record]
        test    eax, eax
        js      .is_power
        mul     dword [cluster_sectors]
        mul     ebx
        jmp     .is_size
.is_power:
        mov     cl, al
        neg     cl
        cmp     cl, 12
        ja      stop
        mov     eax, 1
        shl     eax, cl
.is_size:                               ; EAX = bytes of a record
        cmp     eax, RECORD_MAX
        ja      stop
        cmp     eax, STRIDE
        jb      stop
        mov     ecx, eax
        add     cx, RECORD
        mov     [record_end], cx
        xor     edx, edx
        div     ebx
        mov     [record_sectors], eax
        test    edx, edx
        jnz     stop
        ret

; The runs of $MFT. Its own record lies at mft_cluster; records that carry more of its runs lie
; in runs that come before those.
read_mft:
        mov     word [subject], mft_text
        mov     eax, [record_sectors]
        dec     eax
        xor     edx, edx
        div     dword [cluster_sectors]
        inc     eax                     ; clusters of one record
        mov     [number], eax
        mov     edx, [mft_cluster]
        mov     bx, mft
        call    add_run
        xor     eax, eax
        xor     dx, dx
        mov     byte [wanted_name_size], 0
        mov     dword [wanted_type], TYPE_DATA
        call    collect
        jc      damaged
        cmp     byte [is_resident], 0
        jne     damaged
        ret

; -> EAX = record of \BOOTMGR, DX = its sequence number. The tree is descended by name; its order
; is that of upper-cased names, and no letter outside a-z becomes one of BOOTMGR's.
find_bootmgr:
        mov     word [subject], root_text
        mov     byte [wanted_name_size], 4
        mov     eax, ROOT_NUMBER
        xor     dx, dx
        mov     bx, data
        mov     dword [wanted_type], TYPE_ALLOCATION
        call    collect                 ; none: a small directory is all in its $INDEX_ROOT
        jc      .no_blocks
        cmp     byte [is_resident], 0
        jne     damaged
.no_blocks:
        mov     eax, ROOT_NUMBER
        xor     dx, dx
        mov     bx, nowhere
        mov     dword [wanted_type], TYPE_INDEX_ROOT
        call    collect
        jc      damaged
        cmp     byte [is_resident], 0
        je      damaged
        mov     byte [wanted_name_size], 0

        mov     eax, [si + VALUE_SIZE]
        cmp     eax, ROOT_NODE + NODE_HEADER
        jb      damaged
        mov     bp, ax
        mov     bx, [si + VALUE_OFFSET]
        add     bx, si
        add     bp, bx                  ; BP = end of the value
        mov     eax, [bx + ROOT_BLOCK_SIZE]
        cmp     eax, INDEX_MAX
        ja      damaged
        cmp     ax, [bytes_per_sector]
        jb      damaged
        mov     [index_size], ax
        movzx   ecx, word [bytes_per_sector]
        imul    ecx, [cluster_sectors]
        cmp     ecx, eax
        jbe     .by_cluster
        mov     ecx, STRIDE             ; clusters bigger than a block: counted in 512 bytes
.by_cluster:
        mov     [vcn_size], ecx
        mov     byte [depth], DEPTH_MAX
        add     bx, ROOT_NODE

.node:                                  ; ES:BX = node header, BP = end of what holds it
        mov     eax, [es:bx + NODE_END]
        movzx   ecx, bp
        sub     cx, bx
        cmp     eax, ecx
        ja      damaged
        mov     bp, bx
        add     bp, ax                  ; BP = end of the entries
        mov     edx, [es:bx + NODE_ENTRIES]
        cmp     edx, eax
        ja      damaged
        mov     di, bx
        add     di, dx
.entry:                                 ; ES:DI = index entry
        mov     dx, bp
        sub     dx, di                  ; bytes left
        cmp     dx, KEY_HEADER
        jb      damaged
        mov     cx, [es:di + KEY_LENGTH]
        cmp     cx, KEY_HEADER
        jb      damaged
        cmp     cx, dx
        ja      damaged
        test    byte [es:di + KEY_FLAGS], IS_LAST
        jnz     .descend
        cmp     cx, KEY_NAME
        jb      damaged
        movzx   ax, byte [es:di + KEY_NAME_SIZE]
        mov     bx, ax
        shl     ax, 1
        add     ax, KEY_NAME
        cmp     ax, cx
        ja      damaged
        xor     si, si                  ; BX = units of the entry's name
.unit:
        cmp     si, BOOTMGR_UNITS
        je      .compare_length
        cmp     si, bx
        je      .next                   ; a shorter name: ours comes after it
        push    bx
        mov     bx, si
        shl     bx, 1
        mov     ax, [es:bx + di + KEY_NAME]
        pop     bx
        cmp     ax, "a"
        jb      .upper
        cmp     ax, "z"
        ja      .upper
        sub     ax, "a" - "A"
.upper:
        movzx   dx, byte [si + bootmgr_name]
        inc     si
        cmp     dx, ax
        je      .unit
        ja      .next
        jmp     .descend
.compare_length:
        cmp     si, bx
        jne     .descend                ; a longer name: ours comes before it
        test    dword [es:di + KEY_ATTRIBUTES], ATTR_DIRECTORY
        jnz     .next
        cmp     word [es:di + 4], 0     ; record numbers have 48 bits, of which 32 are in use
        jne     damaged
        mov     eax, [es:di]
        mov     dx, [es:di + KEY_SEQUENCE]
        push    ds
        pop     es
        ret
.next:
        add     di, cx
        jmp     .entry

.descend:                               ; what comes before this entry is in its child
        mov     si, missing_text
        test    byte [es:di + KEY_FLAGS], HAS_CHILD
        jz      stop
        dec     byte [depth]
        jz      damaged
        cmp     cx, KEY_HEADER + 8
        jb      damaged
        add     di, cx
        cmp     dword [es:di - 4], 0
        jne     damaged
        mov     eax, [es:di - 8]
        mov     [number], eax
        mul     dword [vcn_size]
        movzx   ebx, word [bytes_per_sector]
        cmp     edx, ebx
        jae     damaged
        div     ebx
        test    edx, edx
        jnz     damaged
        push    eax
        movzx   eax, word [index_size]
        div     ebx                     ; EDX was 0
        mov     ecx, eax
        pop     eax
        test    edx, edx
        jnz     damaged
        mov     bx, data
        mov     edi, INDEX
        mov     edx, "INDX"
        push    ds
        pop     es
        call    load_block
        push    word INDEX >> 4
        pop     es
        mov     eax, [number]
        cmp     [es:INDEX_VCN], eax
        jne     damaged
        mov     bx, INDEX_NODE
        mov     bp, [index_size]
        jmp     .node

; EAX = record of BOOTMGR, DX = its sequence number.
load_bootmgr:
        mov     word [subject], bootmgr_text
        mov     bx, data
        mov     dword [wanted_type], TYPE_DATA
        call    collect
        jc      damaged
        call    check_size              ; ECX = sectors
        cmp     byte [is_resident], 0
        jne     .resident
        xor     eax, eax
        mov     bx, data
        mov     edi, BOOTMGR
        call    read_stream

        clear_unwritten .end
.resident:
        push    word BOOTMGR >> 4
        pop     es
        xor     di, di
        mov     cx, [data_size]
        add     si, [si + VALUE_OFFSET]
        rep movsb
.end:
        push    ds
        pop     es
        ret

; data_size must fit between 2000:0000 and the extended BIOS data area, in whole sectors.
; -> ECX = sectors. Keeps SI.
check_size:
        push    si
        mov     eax, [data_size]
        mov     edx, [data_size + 4]
        mov     si, empty_text
        mov     ecx, eax
        or      ecx, edx
        jz      stop
        mov     si, large_text
        test    edx, edx
        jnz     stop
        cmp     eax, MEMORY_END - BOOTMGR
        ja      stop
        movzx   ebx, word [bytes_per_sector]
        lea     eax, [eax + ebx - 1]
        xor     edx, edx
        div     ebx
        push    eax
        check_base_memory
        pop     ecx
        pop     si
        ret

; Record EAX (sequence number DX): its attribute wanted_type of wanted_name_size. CF = 1: none.
; is_resident: SI = the attribute, in RECORD. Otherwise stream BX gets its runs, all of them,
; wherever an attribute list says they are. data_size and valid_size are set. ES = 0 before and
; after.
collect:
        mov     byte [is_found], 0
        call    read_record
        mov     word [bx + stream.size], 0      ; only now: $MFT's first run led to its record
        mov     dword [bx + stream.clusters], 0
        push    dword [wanted_type]
        push    word [wanted_name_size]
        mov     dword [wanted_type], TYPE_LIST
        mov     byte [wanted_name_size], 0
        call    find_attribute
        pop     ax
        mov     [wanted_name_size], al  ; is_resident, the other byte, is not set yet
        pop     dword [wanted_type]
        jnc     .has_list
        call    find_attribute
        jnc     take_attribute
        ret

.has_list:
        call    read_list
        mov     word [list_at], 0
.item:
        push    word LIST >> 4
        pop     es
        mov     di, [list_at]
        mov     cx, [list_end]
        sub     cx, di
        jz      .end
        cmp     cx, ITEM_HEADER
        jb      damaged
        mov     dx, [es:di + ITEM_LENGTH]
        cmp     dx, ITEM_HEADER
        jb      damaged
        cmp     dx, cx
        ja      damaged
        add     [list_at], dx
        mov     eax, [wanted_type]
        cmp     [es:di], eax
        jne     .item
        mov     al, [es:di + ITEM_NAME_SIZE]
        cmp     al, [wanted_name_size]
        jne     .item
        test    al, al
        jz      .has_name
        movzx   si, byte [es:di + ITEM_NAME]
        cmp     si, dx                  ; not in this item; 8 bytes past it are still our memory
        jae     damaged
        add     si, di
        cmp     dword [es:si], index_name_1
        jne     .item
        cmp     dword [es:si + 4], index_name_2
        jne     .item
.has_name:
        mov     eax, [es:di + ITEM_VCN]
        cmp     eax, [bx + stream.clusters]
        jne     .item                   ; out of order: what is missing will be noticed
        mov     eax, [es:di + ITEM_NUMBER]
        mov     dx, [es:di + ITEM_SEQUENCE]
        cmp     word [es:di + ITEM_NUMBER + 4], 0
        jne     damaged
        push    ds
        pop     es
        cmp     eax, [record_number]    ; $MFT's own: can't be read again before it has a run
        je      .has_record
        call    read_record
.has_record:
        call    find_attribute
        jc      damaged
        call    take_attribute
        cmp     byte [is_resident], 0
        je      .item
.end:
        push    ds
        pop     es
        cmp     byte [is_found], 1      ; CF = 1: below
        ret

; SI = attribute $ATTRIBUTE_LIST -> LIST, list_end. Keeps BX.
read_list:
        push    bx
        cmp     byte [si + ATTR_OUTSIDE], 0
        jne     .outside
        mov     cx, [si + VALUE_SIZE]   ; a record's size at most: find_attribute has seen to it
        mov     [list_end], cx
        add     si, [si + VALUE_OFFSET]
        push    word LIST >> 4
        pop     es
        xor     di, di
        rep movsb
        push    ds
        pop     es
        pop     bx
        ret
.outside:
        cmp     dword [si + DATA_SIZE + 4], 0
        jne     damaged
        mov     eax, [si + DATA_SIZE]
        cmp     eax, LIST_MAX
        ja      damaged
        test    eax, eax
        jz      damaged
        mov     [list_end], ax
        mov     bx, list
        mov     word [bx + stream.size], 0
        mov     dword [bx + stream.clusters], 0
        call    add_runs
        movzx   ecx, word [bytes_per_sector]
        movzx   eax, word [list_end]
        dec     eax
        xor     edx, edx
        div     ecx
        inc     eax
        mov     ecx, eax
        xor     eax, eax
        mov     edi, LIST
        call    read_stream
        pop     bx
        ret

; SI = attribute, for stream BX: its sizes, and its runs when it is not resident. CF = 0. Keeps SI.
take_attribute:
        mov     byte [is_found], 1
        cmp     byte [si + ATTR_OUTSIDE], 0
        jne     .outside
        mov     byte [is_resident], 1
        mov     eax, [si + VALUE_SIZE]
        mov     [data_size], eax
        mov     dword [data_size + 4], 0
        clc
        ret
.outside:
        mov     byte [is_resident], 0
        cmp     dword [bx + stream.clusters], 0
        jne     add_runs                ; a later part: only the first one says sizes
        mov     eax, [si + DATA_SIZE]
        mov     [data_size], eax
        mov     eax, [si + DATA_SIZE + 4]
        mov     [data_size + 4], eax
        mov     eax, [si + VALID_SIZE]
        mov     [valid_size], eax
        mov     eax, [si + VALID_SIZE + 4]
        mov     [valid_size + 4], eax
        cmp     dword [wanted_type], TYPE_DATA
        jne     add_runs
        push    si
        mov     ax, [si + ATTR_FLAGS]
        mov     si, encrypted_text
        test    ax, FLAG_ENCRYPTED
        jnz     stop
        mov     si, compressed_text
        test    ax, FLAG_COMPRESSED
        jnz     stop
        mov     si, sparse_text
        test    ax, FLAG_SPARSE
        jnz     stop
        pop     si
        ; fall through

; SI = non-resident attribute: its runs are added to stream BX. CF = 0. Keeps BX, SI.
; A run is a byte (sizes of what follows), its length, and the distance from the run before it.
add_runs:
        mov     di, [si + RUNS_OFFSET]
        mov     bp, [si + ATTR_LENGTH]
        cmp     di, bp
        jae     damaged
        add     di, si
        add     bp, si                  ; BP = end of the attribute
        mov     dword [run_cluster], 0
        mov     dword [run_cluster + 4], 0
.run:
        cmp     di, bp
        jae     damaged                 ; must end with 0
        mov     al, [di]
        inc     di
        test    al, al
        jz      .end
        push    ax
        call    read_number
        cmp     dword [number], 0
        je      damaged
        cmp     dword [number + 4], 0
        jne     damaged
        pop     ax
        push    dword [number]
        shr     al, 4
        call    read_number             ; a hole has none: nothing that we read may have holes
        mov     eax, [number]
        mov     edx, [number + 4]
        add     [run_cluster], eax
        adc     [run_cluster + 4], edx
        cmp     dword [run_cluster + 4], 0
        jne     damaged
        pop     dword [number]
        mov     edx, [run_cluster]
        call    add_run
        jmp     .run
.end:
        clc
        ret

; The low 4 bits of AL bytes at DI, 1 to 8, a signed number -> number; DI = past them.
read_number:
        movzx   cx, al
        and     cl, 0x0F
        jz      damaged
        cmp     cl, 8
        ja      damaged
        mov     ax, di
        add     ax, cx
        cmp     ax, bp
        ja      damaged
        push    si
        mov     si, di
        mov     di, number
        rep movsb
        mov     al, [si - 1]
        cbw
        mov     al, ah                  ; its sign
        mov     cx, number + 8
        sub     cx, di
        rep stosb
        mov     di, si
        pop     si
        ret

; Adds the run of [number] clusters from EDX on to stream BX. Keeps BX, SI, DI, BP.
add_run:
        mov     eax, [number]
        mov     ecx, edx
        add     ecx, eax
        jc      damaged
        cmp     ecx, [cluster_count]
        ja      damaged
        add     [bx + stream.clusters], eax
        jc      damaged
        push    si
        mov     si, [bx + stream.size]
        cmp     si, [bx + stream.limit]
        jae     too_fragmented
        mov     es, [bx + stream.segment]
        mov     [es:si], eax
        mov     [es:si + 4], edx
        add     si, RUN_SIZE
        mov     [bx + stream.size], si
        push    ds
        pop     es
        pop     si
        ret

; RECORD: the attribute wanted_type of wanted_name_size -> SI, its parts inside it; CF = 1: none.
; Of one that is in several pieces, the piece that stream BX wants next. Keeps BX.
find_attribute:
        mov     bp, [record_end]
        mov     si, [RECORD + RECORD_FIRST]
        cmp     si, RECORD_MAX
        ja      damaged
        add     si, RECORD
.attribute:
        mov     cx, bp
        sub     cx, si                  ; bytes left
        jb      damaged
        cmp     cx, 4
        jb      damaged
        cmp     dword [si + ATTR_TYPE], TYPE_END
        je      .none
        cmp     cx, ATTR_HEADER
        jb      damaged
        movzx   ecx, cx
        mov     edi, [si + ATTR_LENGTH]
        cmp     edi, ATTR_HEADER
        jb      damaged
        cmp     edi, ecx
        ja      damaged
        mov     eax, [wanted_type]
        cmp     [si + ATTR_TYPE], eax
        jne     .next
        mov     al, [si + ATTR_NAME_SIZE]
        cmp     al, [wanted_name_size]
        jne     .next
        test    al, al
        jz      .has_name
        mov     ax, [si + ATTR_NAME]
        cmp     ax, di                  ; not in this attribute
        jae     damaged
        push    bx
        mov     bx, ax
        cmp     dword [bx + si], index_name_1
        jne     .other_name
        cmp     dword [bx + si + 4], index_name_2
.other_name:
        pop     bx
        jne     .next
.has_name:
        cmp     byte [si + ATTR_OUTSIDE], 0
        jne     .outside
        mov     eax, [si + VALUE_SIZE]
        movzx   ecx, word [si + VALUE_OFFSET]
        add     eax, ecx
        jc      damaged
        cmp     eax, edi
        ja      damaged
        clc
        ret
.outside:
        cmp     di, OUTSIDE_HEADER
        jb      damaged
        cmp     dword [si + LOWEST_VCN + 4], 0
        jne     damaged
        mov     eax, [bx + stream.clusters]
        cmp     [si + LOWEST_VCN], eax
        jne     .next
        clc
        ret
.next:
        add     si, di
        jmp     .attribute
.none:
        stc
        ret

; Record EAX -> RECORD. DX = its sequence number, 0: any. Keeps BX.
read_record:
        mov     [record_number], eax
        push    bx
        push    dx
        mul     dword [record_sectors]
        test    edx, edx
        jnz     damaged
        mov     ecx, [record_sectors]
        mov     edi, RECORD
        mov     edx, "FILE"
        mov     bx, mft
        call    load_block
        pop     dx
        pop     bx
        test    byte [RECORD + RECORD_FLAGS], IN_USE
        jz      damaged
        test    dx, dx
        jz      .end
        cmp     [RECORD + RECORD_SEQUENCE], dx
        jne     damaged                 ; another file has this record by now
.end:
        ret

; Stream BX, ECX sectors from its sector EAX on: a block that starts with EDX, to EDI. Undoes
; its fixups: the last 2 bytes of each 512 are a sequence number, to notice torn writes, and
; what belongs there is in a table.
load_block:
        call    read_stream
        shr     edi, 4
        mov     es, di
        cmp     [es:0], edx
        jne     damaged
        mov     ax, [bytes_per_sector]
        mul     cx                      ; INDEX_MAX at most
        mov     cx, ax
        shr     cx, 9                   ; CX = strides
        mov     si, [es:BLOCK_FIXUPS]
        mov     dx, [es:BLOCK_FIXUP_COUNT]
        dec     dx
        cmp     dx, cx
        jne     damaged
        shl     dx, 1
        add     dx, 2
        add     dx, si
        jc      damaged
        cmp     dx, STRIDE - 2          ; the table lies before the first of them
        ja      damaged
        mov     ax, [es:si]
        mov     di, STRIDE - 2
.stride:
        cmp     [es:di], ax
        jne     damaged
        add     si, 2
        mov     dx, [es:si]
        mov     [es:di], dx
        add     di, STRIDE
        loop    .stride
        push    ds
        pop     es
        ret

; Stream BX, ECX sectors (1 at least) from its sector EAX on, to EDI. Keeps all registers; ES = 0
; before and after.
read_stream:
        pushad
.piece:
        push    eax
        push    bx
        xor     edx, edx
        div     dword [cluster_sectors] ; EAX = cluster of the stream, EDX = sector in it
        mov     es, [bx + stream.segment]
        xor     si, si
.run:
        cmp     si, [bx + stream.size]
        jae     damaged                 ; shorter than it should be
        mov     ebp, [es:si]
        cmp     eax, ebp
        jb      .found
        sub     eax, ebp
        add     si, RUN_SIZE
        jmp     .run
.found:
        sub     ebp, eax                ; clusters from here to the run's end
        add     eax, [es:si + 4]
        push    ds
        pop     es
        mov     esi, edx
        mul     dword [cluster_sectors]
        add     eax, esi
        adc     edx, 0
        push    eax
        push    edx
        mov     eax, ebp
        mul     dword [cluster_sectors]
        test    edx, edx
        jz      .is_short
        or      eax, -1                 ; more than anyone asks for
.is_short:
        sub     eax, esi
        mov     ebp, eax
        pop     edx
        pop     eax
        cmp     ebp, ecx
        jbe     .has_length
        mov     ebp, ecx
.has_length:
        call    read_sectors
        pop     bx
        pop     eax
        add     eax, ebp
        sub     ecx, ebp
        jnz     .piece
        popad
        ret

; EBP sectors (1 at least) from the volume's sector EDX:EAX on, to linear address EDI (a multiple
; of a sector) -> EDI = past them. Keeps ECX, EBP.
read_sectors:
        push    ecx
        push    ebp
        add     eax, [hidden_sectors]
        adc     edx, 0                  ; a volume may reach past 2 TiB though it starts below
        mov     [packet.lba], eax
        mov     [packet.lba + 4], edx
.call:
        call_sectors di, ebp
        mov     word [packet.size], 16
        mov     word [packet.offset], 0
        mov     eax, edi
        shr     eax, 4
        mov     [packet.segment], ax
        read_packet cx, ah, .done
        mov     si, read_text
        jmp     stop
.done:
        add     [packet.lba], ecx
        adc     dword [packet.lba + 4], 0
        sub     ebp, ecx
        imul    ecx, ebx
        add     edi, ecx
        test    ebp, ebp
        jnz     .call
        pop     ebp
        pop     ecx
        ret

too_fragmented:
        mov     si, fragments_text
        jmp     stop

damaged:
        xor     ax, ax
        mov     es, ax
        mov     si, [subject]
        ; fall through

        stop_routines stop, print, restart_text

streams_start:                          ; segment, size, limit, -, clusters
        dw      MFT_RUNS >> 4, 0, STREAM_RUNS - MFT_RUNS, 0, 0, 0
        dw      STREAM_RUNS >> 4, 0, LIST_RUNS - STREAM_RUNS, 0, 0, 0
        dw      LIST_RUNS >> 4, 0, LIST - LIST_RUNS, 0, 0, 0
        dw      LIST_RUNS >> 4, 0, 0, 0, 0, 0
        %if $ - streams_start != streams_end - mft
        %error "streams are not what is copied"
        %endif

index_name_1    equ 0x00490024          ; "$I30" in UTF-16
index_name_2    equ 0x00300033
BOOTMGR_UNITS   equ 7

bootmgr_name    db "BOOTMGR"
missing_text    db "BOOTMGR is missing", 0
empty_text      db "BOOTMGR is empty", 0
large_text      db "BOOTMGR is too large", 0
compressed_text db "BOOTMGR is compressed: store it uncompressed", 0
encrypted_text  db "BOOTMGR is encrypted: store it unencrypted", 0
sparse_text     db "BOOTMGR is sparse or compressed by the system: store it plainly", 0
bootmgr_text    db "BOOTMGR is damaged: its file record or its runs are wrong", 0
root_text       db "Root directory is damaged", 0
mft_text        db "File table of this volume is damaged", 0
fragments_text  db "BOOTMGR or the file table is too fragmented", 0
layout_text     db "Not an NTFS volume, or its boot sector is damaged", 0
read_text       db "Disk read error", 0
restart_text    db RESTART_MESSAGE

        times (512 + 508 - ($ - $$) % 512) % 512 db 0
        dd      TAIL_SIGNATURE          ; the last bytes of whole 512-byte sectors
stage2_end:
        %if STAGE2_SIZE > BOOT_SIZE - 512
        %error "stage 2 outgrows $Boot"
        %endif
