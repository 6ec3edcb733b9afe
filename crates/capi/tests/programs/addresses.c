/* Every form of address, in position-independent and fixed programs. */
#define _GNU_SOURCE
#include <link.h>
#include <string.h>
#include <sys/mman.h>

#include "check.h"

__attribute__((noinline, noclone)) static int hidden(int x)
{
	__asm__ volatile("" : "+r"(x));
	return x + 1;
}

__attribute__((noinline, noclone)) int group_one(int x)
{
	__asm__ volatile("" : "+r"(x));
	return x * 3;
}

__attribute__((noinline, noclone)) int group_two(int x)
{
	__asm__ volatile("" : "+r"(x));
	return x * 5;
}

/* `inner` is reached once for each unit of the argument. */
__asm__(".text\n"
	".type looped, @function\n"
	"looped:\n"
	"	xor %eax, %eax\n"
	"1:	add $2, %rax\n"
	".globl inner\n"
	"inner:\n"
	"	dec %rdi\n"
	"	jnz 1b\n"
	"	ret\n"
	"	.size looped, . - looped\n");
long looped(long times);
extern char inner[];

static uint64_t count(uint64_t flags, patch_addr addr)
{
	patch_op op = {.type = PATCH_OP_COUNT, .addr = addr};
	OK(patch_queue(flags, &op));
	OK(patch_commit(NULL, NULL));
	return op.cookie;
}

static uint64_t value(uint64_t cookie)
{
	uint64_t value;
	OK(patch_read_count(cookie, &value));
	return value;
}

/* Where the program lies: the difference between addresses in memory and in its file. */
static int first_base(struct dl_phdr_info *info, size_t size, void *base)
{
	(void)size;
	*(uintptr_t *)base = info->dlpi_addr;
	return 1;
}

/* Where a module called `name` lies. */
static const char *wanted;
static int named_base(struct dl_phdr_info *info, size_t size, void *base)
{
	(void)size;
	*(uintptr_t *)base = info->dlpi_addr;
	return strstr(info->dlpi_name, wanted) != NULL;
}

int main(void)
{
	uintptr_t base = 0, libc = 0;
	patch_result *results;
	size_t results_count;

	dl_iterate_phdr(first_base, &base);
	wanted = "libc.so.6";
	CHECK(dl_iterate_phdr(named_base, &libc));
	patch_opt all = {PATCH_OPT_RESULTS, 0, PATCH_RESULTS_ALL};
	OK(patch_init(&all, 1));

	/* Names: static functions, in a module, all that fit a pattern. */
	uint64_t by_name = count(PATCH_FENTRY, (patch_addr){.func_sym = "hidden"});
	uint64_t by_module = count(PATCH_FENTRY, (patch_addr){.func_sym = "hidden", .module = "addresses*"});
	uint64_t by_pattern = count(PATCH_FENTRY, (patch_addr){.pattern = "group_*", .module = "addresses*"});
	uint64_t by_whole = count(PATCH_FENTRY, (patch_addr){.pattern = "addresses*!group_t[v-x]o"});
	/* Addresses: in memory, and as in the file. */
	uint64_t by_pointer = count(PATCH_FENTRY, (patch_addr){.addr = (uintptr_t)hidden});
	uint64_t by_link =
	    count(PATCH_INSN, (patch_addr){.module = "addresses*", .addr = (uintptr_t)hidden - base});
	/* Inside of a function. */
	uint64_t offset = (uint64_t)(inner - (char *)looped);
	uint64_t by_offset = count(PATCH_INSN, (patch_addr){.func_sym = "looped", .offset = offset});
	uint64_t by_sum = count(PATCH_ADDR, (patch_addr){.addr = (uintptr_t)looped, .offset = offset});
	uint64_t by_text = count(PATCH_INSN, (patch_addr){.pattern = "looped+0x6"});

	CHECK(hidden(1) == 2 && hidden(2) == 3);
	CHECK(group_one(2) == 6 && group_one(2) == 6 && group_two(2) == 10);
	CHECK(looped(1000) == 2000);
	CHECK(offset == 6);
	CHECK(value(by_name) == 2 && value(by_module) == 2);
	CHECK(value(by_pattern) == 3 && value(by_whole) == 1);
	CHECK(value(by_pointer) == 2 && value(by_link) == 2);
	CHECK(value(by_offset) == 1000 && value(by_sum) == 1000);
	CHECK(value(by_text) == 1000);

	/* An indirect function: the implementation that is in use. */
	uint64_t indirect = count(PATCH_FENTRY, (patch_addr){.func_sym = "strlen", .module = "libc"});
	size_t (*volatile length)(const char *) = strlen;
	CHECK(length("four") == 4 && value(indirect) >= 1);

	/* Results tell what was found. */
	patch_op op = {.type = PATCH_OP_COUNT, .addr.pattern = "addresses*!group_*"};
	OK(patch_queue(PATCH_FENTRY, &op));
	OK(patch_commit(&results, &results_count));
	CHECK(results_count == 2);
	for (size_t i = 0; i < results_count; i++) {
		CHECK(results[i].status == PATCH_OK && results[i].cookie == op.cookie);
		CHECK(results[i].tactic != PATCH_TACTIC_NONE && !strcmp(results[i].reason, ""));
		CHECK(!strncmp(results[i].module, "addresses", 9));
		void *function = strcmp(results[i].function, "group_one") ? (void *)group_two : (void *)group_one;
		CHECK(results[i].addr == (uintptr_t)function);
	}
	OK(patch_drop_results(results));

	/* Code made at run time has no module. */
	unsigned char code[] = {0x8d, 0x47, 0x2a, 0x90, 0x90, 0x90, 0x90, 0x90, 0xc3};
	void *made = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(made != MAP_FAILED);
	memcpy(made, code, sizeof code);
	CHECK(!mprotect(made, 4096, PROT_READ | PROT_EXEC));
	op = (patch_op){.type = PATCH_OP_COUNT, .addr.addr = (uintptr_t)made};
	OK(patch_queue(PATCH_INSN, &op));
	OK(patch_commit(&results, &results_count));
	CHECK(results_count == 1 && !strcmp(results->module, "") && !strcmp(results->function, ""));
	CHECK(((int (*)(int))made)(1) == 43 && value(op.cookie) == 1);
	OK(patch_drop_results(results));

	OK(patch_fini());
	CHECK(!memcmp(made, code, sizeof code));
	printf("ok\n");
	return 0;
}
