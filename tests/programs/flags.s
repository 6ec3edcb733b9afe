# Flags and the red zone are live at places inside a leaf function: each place keeps them.
#@ compile: gcc -no-pie
#@ count: leaf leaf+0x5 leaf+0xa leaf+0xe leaf+0x10 leaf+0x13 leaf+0x18 --
#@ expect-count: leaf 1000
#@ expect-count: leaf+0x5 1000
#@ expect-count: leaf+0xa 1000
#@ expect-count: leaf+0xe 1000
#@ expect-count: leaf+0x10 1000
#@ expect-count: leaf+0x13 1000
#@ expect-count: leaf+0x18 1000
    .text
    .globl main
    .type leaf, @function
leaf:
    mov %rdi, -8(%rsp)          # +0
    mov %rsi, -128(%rsp)        # +5
    add %rsi, %rdi              # +a (sets carry)
    nop
    sbb %eax, %eax              # +e
    sbb $0, %eax                # +10: the carry of the instruction before
    add -8(%rsp), %rax          # +13
    sub -128(%rsp), %rax        # +18
    ret
    .size leaf, .-leaf
    .p2align 4
    .type main, @function
main:
    push %rbx
    mov $1000, %ebx
1:  mov $-1, %rdi
    mov $3, %rsi
    call leaf
    # carry was set: eax is 0xfffffffe, zero-extended; minus one, minus three
    mov $0xfffffffa, %ecx
    cmp %rcx, %rax
    jne 2f
    mov $7, %rdi
    dec %ebx
    jnz 1b
    xor %eax, %eax
    pop %rbx
    ret
2:  mov $1, %eax
    pop %rbx
    ret
    .size main, .-main
    .section .note.GNU-stack,"",@progbits
