# Functions whose own jumps lead to their second instruction, to a byte behind a springboard, and in a circle of two bytes.
#@ compile: gcc -no-pie
#@ compile: gcc -pie
#@ count: --points instruction second+0..second+END dense+0..dense+END circle+0..circle+END --
#@ expect-count: second 100
#@ expect-count: second+0x2 500
#@ expect-count: dense 100
#@ expect-count: dense+0x4 600
#@ expect-count: circle 100
#@ count: second+0x2 dense+0x4 circle --
#@ expect-count: second+0x2 500
#@ expect-count: dense+0x4 600
#@ expect-count: circle 100
        .text
        .globl  main
        .type   second, @function
        .type   dense, @function
        .type   circle, @function
        .type   main, @function
second: mov     %edi, %ecx              # +0
1:      dec     %ecx                    # +2
        jne     1b
        ret
        .size   second, . - second
dense:  mov     %edi, %ecx              # +0
        inc     %ecx                    # +2
2:      dec     %ecx                    # +4
        js      3f
        jne     2b
3:      inc     %ecx
        cmp     $2, %ecx
        jl      4f
        jmp     2b
4:      dec     %edx
        jns     2b
        ret
        .size   dense, . - dense
# loop leads to itself: two bytes, nothing to displace behind.
circle: mov     %edi, %ecx
5:      loop    5b
        ret
        .size   circle, . - circle
main:   push    %rbx
        mov     $100, %ebx
6:      mov     $5, %edi
        call    second
        mov     $4, %edi
        mov     $1, %edx
        call    dense
        mov     $5, %edi
        call    circle
        dec     %ebx
        jne     6b
        xor     %eax, %eax
        pop     %rbx
        ret
        .size   main, . - main
        .section .note.GNU-stack,"",@progbits
