# A boot sector that makes the BIOS read the whole disk it came from: INT 13h extended reads of 64 sectors
# until the number of sectors the BIOS itself reports. Each 32-bit word is folded into a sum; the line
# `BOOT: sectors=… sum=…` goes to COM1, then the machine leaves by QEMU's debug exit.
        .code16
        .global entry
entry:
        xor     %ax, %ax
        mov     %ax, %ds
        mov     %ax, %ss
        mov     $0x7c00, %sp
        cld
        mov     %dl, drive

        movb    $0x48, %ah              # Drive parameters; the number of sectors lies at offset 16.
        mov     $parameters, %si
        int     $0x13
        jc      failed

        movw    $0x1000, %ax
        mov     %ax, %es
again:
        mov     parameters + 16, %eax   # Sectors left, at most 64. (The test disk is far below 2 TiB.)
        sub     lba, %eax
        jz      finished
        cmp     $64, %eax
        jbe     1f
        mov     $64, %eax
1:      mov     %ax, count
        movb    $0x42, %ah
        mov     drive, %dl
        mov     $packet, %si
        int     $0x13
        jc      failed
        movzwl  count, %eax
        add     %eax, lba
        shl     $7, %ax                 # Words of four bytes.
        mov     %ax, %cx
        mov     sum, %ebx
        xor     %di, %di
2:      rol     $1, %ebx
        add     %es:(%di), %ebx
        add     $4, %di
        loop    2b
        mov     %ebx, sum
        jmp     again

finished:
        mov     $text_sectors, %si
        call    print
        mov     lba, %ebx
        call    print_hex
        mov     $text_sum, %si
        call    print
        mov     sum, %ebx
        call    print_hex
        jmp     leave
failed:
        mov     $text_failed, %si
        call    print
leave:
        mov     $'\n', %al
        call    put
        mov     $0xf4, %dx
        xor     %eax, %eax
        out     %eax, %dx
        hlt

print:  lodsb
        test    %al, %al
        jz      3f
        call    put
        jmp     print
print_hex:
        mov     $8, %cx
4:      rol     $4, %ebx
        mov     %bl, %al
        and     $15, %al
        cmp     $10, %al
        sbb     $0x69, %al              # The classic: 0–15 to an ASCII digit.
        das
        call    put
        loop    4b
3:      ret
put:    push    %ax
        mov     $0x3fd, %dx
5:      in      %dx, %al
        test    $0x20, %al
        jz      5b
        pop     %ax
        mov     $0x3f8, %dx
        out     %al, %dx
        ret

text_sectors: .asciz "BOOT: sectors=0x"
text_sum:     .asciz " sum=0x"
text_failed:  .asciz "BOOT: failed"

        .balign 4
packet: .byte   16, 0
count:  .word   0
        .word   0, 0x1000               # Buffer at 1000:0000.
lba:    .quad   0
sum:    .long   0
parameters: .word 30
        .skip   28
drive:  .byte   0
        .org    510
        .word   0xaa55
        .section .note.GNU-stack, "", @progbits
