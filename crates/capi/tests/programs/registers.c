/* A probe sees the registers of the program, and what it changes takes effect; everything else is kept. */
#include <errno.h>
#include <string.h>

#include "check.h"

__attribute__((noinline, noclone)) long combine(long a, long b, long c, long d, long e, long f)
{
	__asm__ volatile("" : "+r"(a));
	return a + 10 * b + 100 * c + 1000 * d + 10000 * e + 100000 * f;
}

__attribute__((noinline, noclone)) double scale(double x, double y)
{
	__asm__ volatile("" : "+x"(x));
	return x * y;
}

/* Returns 1 if `sete` says so, with the flags of a comparison live at `sete_insn`. */
__asm__(".text\n"
	".globl equal\n"
	".type equal, @function\n"
	"equal:\n"
	"	xor %eax, %eax\n"
	"	cmp %rsi, %rdi\n"
	".globl sete_insn\n"
	"sete_insn:\n"
	"	sete %al\n"
	"	ret\n"
	"	.size equal, . - equal\n");
int equal(long a, long b);
extern char sete_insn[];

/* Keeps values in the red zone across `red_zone_insn`. */
__asm__(".text\n"
	".globl red_zone\n"
	".type red_zone, @function\n"
	"red_zone:\n"
	"	mov %rdi, -8(%rsp)\n"
	"	mov %rdi, -128(%rsp)\n"
	".globl red_zone_insn\n"
	"red_zone_insn:\n"
	"	lea 1(%rdi), %rax\n"
	"	add -8(%rsp), %rax\n"
	"	add -128(%rsp), %rax\n"
	"	ret\n"
	"	.size red_zone, . - red_zone\n");
long red_zone(long x);
extern char red_zone_insn[];

static void reverse_arguments(struct patch_probe_context *ctx)
{
	static const int order[] = {PATCH_X86_64_RDI, PATCH_X86_64_RSI, PATCH_X86_64_RDX,
				    PATCH_X86_64_RCX, PATCH_X86_64_R8,	PATCH_X86_64_R9};
	uint64_t seen[6];
	for (int i = 0; i < 6; i++)
		seen[i] = ctx->gregs[order[i]];
	for (int i = 0; i < 6; i++)
		ctx->gregs[order[i]] = seen[5 - i];
	CHECK(ctx->gregs[PATCH_X86_64_RIP] - (uint64_t)(uintptr_t)combine <= 4);
	/* The return address lies at the top of the stack, and leads back to main. */
	uint64_t back = *(uint64_t *)ctx->gregs[PATCH_X86_64_RSP];
	CHECK(back - (uint64_t)ctx->user_data < 4096);
	/* These are ignored. */
	ctx->gregs[PATCH_X86_64_RSP] = 0;
	ctx->gregs[PATCH_X86_64_RIP] = 0;
	errno = 77;
}

static void change_vector(struct patch_probe_context *ctx)
{
	double x, y;
	CHECK(ctx->vreg_size == (size_t)ctx->user_data);
	memcpy(&x, ctx->vregs, sizeof x);
	memcpy(&y, (char *)ctx->vregs + ctx->vreg_size, sizeof y);
	CHECK(x == 3.0 && y == 0.5);
	x = 8.0;
	memcpy(ctx->vregs, &x, sizeof x);
	/* The probe's own use of vector registers is not seen. */
	__asm__ volatile("pcmpeqd %%xmm1, %%xmm1" ::: "xmm1");
}

static void flip_zero_flag(struct patch_probe_context *ctx)
{
	ctx->gregs[PATCH_X86_64_RFLAGS] ^= 0x40;
}

__attribute__((target("general-regs-only"))) static void set_rdi(struct patch_probe_context *ctx)
{
	ctx->gregs[PATCH_X86_64_RDI] = ctx->vregs == NULL && ctx->vreg_size == 0 ? 9 : 0;
}

static void install(uint64_t flags, const char *function, void *addr, patch_probe probe, void *user_data)
{
	patch_op op = {.type = PATCH_OP_INSTALL, .probe = probe, .user_data = user_data};
	op.addr.func_sym = function;
	op.addr.addr = (uintptr_t)addr;
	OK(patch_queue(flags, &op));
	OK(patch_commit(NULL, NULL));
}

static void vector_states(void)
{
	static const struct {
		uint64_t value;
		size_t size;
	} states[] = {{PATCH_VECTOR_SSE, 16}, {PATCH_VECTOR_AVX, 32}, {PATCH_VECTOR_AVX512, 64}};
	size_t most = __builtin_cpu_supports("avx512bw") ? 64 : __builtin_cpu_supports("avx") ? 32 : 16;

	for (int i = 0; i < 3; i++) {
		patch_opt option = {PATCH_OPT_VECTOR_STATE, 0, states[i].value};
		size_t size = states[i].size < most ? states[i].size : most;

		/* Code for ymm registers changes the upper halves of zmm registers. */
		if (states[i].value == PATCH_VECTOR_AVX)
			size = most;
		OK(patch_init(&option, 1));
		install(PATCH_FENTRY, "scale", NULL, change_vector, (void *)size);
		CHECK(scale(3.0, 0.5) == 4.0);
		OK(patch_fini());
		CHECK(scale(3.0, 0.5) == 1.5);
	}
}

int main(void)
{
	OK(patch_init(NULL, 0));
	install(PATCH_FENTRY, "combine", NULL, reverse_arguments, &&here);
here:
	errno = 5;
	CHECK(combine(1, 2, 3, 4, 5, 6) == 123456);
	CHECK(errno == 5);
	install(PATCH_INSN, NULL, sete_insn, flip_zero_flag, NULL);
	CHECK(equal(4, 4) == 0 && equal(4, 5) == 1);
	patch_opt none = {PATCH_OPT_VECTOR_STATE, 0, PATCH_VECTOR_NONE};
	OK(patch_configure(&none));
	install(PATCH_INSN, NULL, red_zone_insn, set_rdi, NULL);
	CHECK(red_zone(5) == 10 + 5 + 5);
	OK(patch_fini());
	CHECK(combine(1, 2, 3, 4, 5, 6) == 654321);
	CHECK(equal(4, 4) == 1 && equal(4, 5) == 0);
	CHECK(red_zone(5) == 6 + 5 + 5);
	vector_states();
	printf("ok\n");
	return 0;
}
