# Entry of the bare-metal guest: PVH hands over in 32-bit protected mode with paging off and %ebx at the
# start information. The first 4 GiB are mapped one to one with 2 MiB pages, then long mode, then C.

        .section .note.pvh, "a", @note
        .balign 4
        .long 4, 8, 18                  # name length, descriptor length, XEN_ELFNOTE_PHYS32_ENTRY
        .asciz "Xen"
        .quad entry

        .section .head, "ax"
        .code32
        .global entry
entry:
        cli
        cld
        mov     %ebx, %esi
        mov     $bss_start, %edi        # Not every loader clears it.
        mov     $bss_end, %ecx
        sub     %edi, %ecx
        xor     %eax, %eax
        rep stosb
        mov     %esi, start_info

        mov     $tables_2m, %edi
        mov     $0x83, %eax             # Present, writable, large page.
        mov     $2048, %ecx
1:      mov     %eax, (%edi)
        add     $0x200000, %eax
        add     $8, %edi
        loop    1b
        mov     $tables_2m + 3, %eax
        mov     $table_1g, %edi
        mov     $4, %ecx
2:      mov     %eax, (%edi)
        add     $4096, %eax
        add     $8, %edi
        loop    2b
        movl    $table_1g + 3, table_root

        mov     %cr4, %eax
        or      $0x20, %eax             # PAE
        mov     %eax, %cr4
        mov     $table_root, %eax
        mov     %eax, %cr3
        mov     $0xc0000080, %ecx       # EFER.LME
        rdmsr
        or      $0x100, %eax
        wrmsr
        mov     %cr0, %eax
        or      $0x80000001, %eax
        mov     %eax, %cr0
        lgdt    gdt_pointer
        ljmp    $8, $long_mode

        .code64
long_mode:
        mov     $16, %eax
        mov     %eax, %ds
        mov     %eax, %es
        mov     %eax, %ss
        mov     $stack_top, %esp
        mov     start_info, %edi
        call    guest_main
3:      hlt
        jmp     3b

        .balign 8
gdt:    .quad 0, 0x00af9a000000ffff, 0x00cf92000000ffff
gdt_pointer:
        .word 23
        .long gdt

        .bss
        .balign 4096
        .global table_root
table_root: .skip 4096
table_1g:   .skip 4096
tables_2m:  .skip 4 * 4096
            .skip 65536
stack_top:
start_info: .skip 8
        .section .note.GNU-stack, "", @progbits
