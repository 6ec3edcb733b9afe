# Instructions that overlap: a prefix and an opcode that are jumped over, an instruction inside an immediate.
#@ compile: gcc -no-pie
#@ compile: gcc -pie
#@ count: --points instruction add+0..add+END hidden+0..hidden+END -- x
#@ expect-count: add 200
#@ expect-count: add+0x6 100
#@ expect-refused: add+0x7 lies inside the instruction
#@ expect-count: hidden 100
#@ expect-count: hidden+0x6 50
#@ expect-refused: hidden+0x7 lies inside the instruction
#@ expect-exit: 0
        .text
        .globl  main
        .type   add, @function
        .type   hidden, @function
        .type   main, @function
# As in libraries that leave the lock out where there is one thread.
add:    test    $1, %dil
        je      1f
        .byte   0xf0                    # lock
1:      incq    total(%rip)
        ret
        .size   add, . - add
# The immediate of the first mov is `mov $7, %al; ret`, which the jump enters.
hidden: xor     %eax, %eax
        test    %edi, %edi
        jne     2f + 1
2:      mov     $0x00c307b0, %eax
        ret
        .size   hidden, . - hidden
main:   push    %rbx
        push    %r12
        xor     %r12d, %r12d
        xor     %ebx, %ebx
3:      mov     %ebx, %edi
        call    add
        mov     %ebx, %edi
        call    add
        mov     %ebx, %edi
        and     $1, %edi
        call    hidden
        add     %rax, %r12
        inc     %ebx
        cmp     $100, %ebx
        jne     3b
        # 50 x 7 and 50 x 0x00c307b0; 200 increments.
        movabs  $(50 * 7 + 50 * 0x00c307b0), %rcx
        xor     %eax, %eax
        cmp     %rcx, %r12
        setne   %al
        cmpq    $200, total(%rip)
        je      4f
        inc     %eax
4:      pop     %r12
        pop     %rbx
        ret
        .size   main, . - main
        .bss
        .balign 8
total:  .quad   0
        .section .note.GNU-stack,"",@progbits
