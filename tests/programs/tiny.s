# Functions of one to four bytes, without a byte between them.
#@ compile: gcc -no-pie
#@ compile: gcc -pie
#@ count: one two three four one_more -- x x x
#@ expect-count: one 4
#@ expect-count: two 4
#@ expect-count: three 4
#@ expect-count: four 4
#@ expect-count: one_more 4
        .text
        .globl  main
        .type   one, @function
        .type   two, @function
        .type   three, @function
        .type   four, @function
        .type   one_more, @function
        .type   main, @function
one:    ret
        .size   one, . - one
two:    nop
        ret
        .size   two, . - two
three:  inc     %ebx
        ret
        .size   three, . - three
four:   lea     (%rbx,%rbx), %ebx
        ret
        .size   four, . - four
one_more:
        ret
        .size   one_more, . - one_more
        .p2align 4
main:   push    %rbx
        push    %r12
        sub     $8, %rsp
        mov     %edi, %r12d
        xor     %ebx, %ebx
1:      call    one
        call    two
        call    three
        call    four
        call    one_more
        dec     %r12d
        jnz     1b
        cmp     $30, %ebx
        setne   %al
        movzbl  %al, %eax
        add     $8, %rsp
        pop     %r12
        pop     %rbx
        ret
        .size   main, . - main
        .section .note.GNU-stack, "", @progbits
