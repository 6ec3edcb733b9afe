/* Code that hands a flag over at a return, as some that is written by hand does, or, with -DPLAIN, none. */
#ifdef PLAIN
__attribute__((noinline)) int carry(int n) { return n < 5; }
int asked(int n) { return carry(n) ? -1 : 0; }
#else
__asm__(".text\n.type carry, @function\ncarry: cmp $5, %edi\n ret\n.size carry, . - carry\n");
int asked(int n) {
    int result;
    __asm__("call carry\n mov %1, %%ecx\n sbb %0, %0" : "=a"(result) : "D"(n) : "rcx", "cc");
    return result;
}
#endif
int main(int count, char **words) { return asked(count) + (words == 0); }
