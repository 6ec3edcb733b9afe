# Functions of one to four bytes, back to back without padding: each is counted, none disturbs its neighbours.
#@ compile: gcc -no-pie
#@ compile: gcc -pie
#@ count: f1 f2 f3 f4 f5 --
#@ expect-count: f1 1000
#@ expect-count: f2 2000
#@ expect-count: f3 3000
#@ expect-count: f4 4000
#@ expect-count: f5 5000
#@ count: f2 f4 --
#@ expect-count: f2 2000
#@ expect-count: f4 4000
#@ count: f5 --
#@ expect-count: f5 5000
    .text
    .globl main
    .type f1, @function
f1: ret
    .size f1, .-f1
    .type f2, @function
f2: nop
    ret
    .size f2, .-f2
    .type f3, @function
f3: inc %ebx
    ret
    .size f3, .-f3
    .type f4, @function
f4: inc %rbx
    ret
    .size f4, .-f4
    .type f5, @function
f5: mov %ebx, %ebx
    nop
    nop
    ret
    .size f5, .-f5
    .p2align 4
    .type main, @function
main:
    push %rbx
    push %rbp
    sub $8, %rsp
    xor %ebx, %ebx
    mov $1000, %ebp
1:  call f1
    call f2
    call f2
    call f3
    call f3
    call f3
    call f4
    call f4
    call f4
    call f4
    call f5
    call f5
    call f5
    call f5
    call f5
    dec %ebp
    jnz 1b
    xor %eax, %eax
    cmp $7000, %ebx
    setne %al
    add $8, %rsp
    pop %rbp
    pop %rbx
    ret
    .size main, .-main
    .section .note.GNU-stack,"",@progbits
