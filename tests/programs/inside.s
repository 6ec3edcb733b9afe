# Several places in one function, next to each other and inside one another's jumps.
#@ compile: gcc -no-pie
#@ compile: gcc -pie
#@ count: f f+0x1 f+0x3 f+0x5 f+0x8 f+0xa --
#@ expect-count: f 100
#@ expect-count: f+0x1 100
#@ expect-count: f+0x3 500
#@ expect-count: f+0x5 500
#@ expect-count: f+0x8 500
#@ expect-count: f+0xa 100
#@ count: f+0x3 f+0x8 --
#@ expect-count: f+0x3 500
#@ expect-count: f+0x8 500
#@ count: f+0xa --
#@ expect-count: f+0xa 100
    .text
    .globl main
    .type f, @function
f:  push %rbx                   # +0
    xor %ebx, %ebx              # +1
1:  inc %ebx                    # +3
    cmp $5, %ebx                # +5
    jne 1b                      # +8
    mov %ebx, %eax              # +a
    pop %rbx
    ret
    .size f, .-f
    .p2align 4
    .type main, @function
main:
    push %rbx
    push %rbp
    sub $8, %rsp
    xor %ebx, %ebx
    mov $100, %ebp
1:  call f
    add %eax, %ebx
    dec %ebp
    jnz 1b
    xor %eax, %eax
    cmp $500, %ebx
    setne %al
    add $8, %rsp
    pop %rbp
    pop %rbx
    ret
    .size main, .-main
    .section .note.GNU-stack,"",@progbits
