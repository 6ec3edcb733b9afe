# The first instruction of a function is the head of a loop: a count at the entry is one of the instruction there.
#@ compile: gcc -no-pie
#@ count: loop_head self_loop near_head work --
#@ expect-count: loop_head 100
#@ expect-count: near_head 10
#@ expect-count: work 10
    .text
    .globl main
# Jumps back to its own first, short instruction.
    .type loop_head, @function
loop_head:
    dec %edi
    jnz loop_head
    ret
    .size loop_head, .-loop_head
    .p2align 4
# A single instruction that jumps to itself until rcx is zero.
    .type self_loop, @function
self_loop:
    loop self_loop
    ret
    .size self_loop, .-self_loop
    .p2align 4
# Jumps back to its second instruction, which lies inside a jump at the entry.
    .type near_head, @function
near_head:
    xor %eax, %eax
1:  inc %eax
    cmp $50, %eax
    jne 1b
    ret
    .size near_head, .-near_head
    .p2align 4
    .type work, @function
work:
    lea 1(%rdi), %eax
    ret
    .size work, .-work
    .p2align 4
    .type main, @function
main:
    push %rbx
    mov $10, %ebx
1:  mov $10, %edi
    call loop_head
    mov $5, %ecx
    call self_loop
    call near_head
    cmp $50, %eax
    jne 2f
    mov %ebx, %edi
    call work
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
