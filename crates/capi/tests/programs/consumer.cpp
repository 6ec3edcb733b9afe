// A consumer in C++: the header compiles, and functions are named as they are written.
#include <cstdio>

#include <libpatch/patch.h>

namespace shapes {
struct Square {
	int side;
	__attribute__((noinline)) int area() const
	{
		asm volatile("");
		return side * side;
	}
};
} // namespace shapes

static void probe(patch_probe_context *ctx)
{
	const shapes::Square *square = reinterpret_cast<const shapes::Square *>(ctx->gregs[PATCH_X86_64_RDI]);
	std::printf("%s: side %d\n", static_cast<const char *>(ctx->user_data), square->side);
}

int main()
{
	static char name[] = "area";
	patch_op op = patch_op();
	op.type = PATCH_OP_INSTALL;
	op.addr.func_sym = "shapes::Square::area";
	op.probe = probe;
	op.user_data = name;
	if (patch_init(nullptr, 0) != PATCH_OK || patch_queue(PATCH_FENTRY, &op) != PATCH_OK
	    || patch_commit(nullptr, nullptr) != PATCH_OK) {
		std::printf("%s\n", patch_error_string());
		return 1;
	}
	shapes::Square square = {7};
	std::printf("%d\n", square.area());
	return patch_fini();
}
