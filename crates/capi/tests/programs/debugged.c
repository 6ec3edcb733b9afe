// Stops in a probe, then at a fault in a displaced instruction.
#include <stddef.h>
#include <stdio.h>

#include <libpatch/patch.h>

#define FUNCTION __attribute__((noipa))

static volatile int probed;

FUNCTION void probe(struct patch_probe_context *ctx)
{
	(void)ctx;
	probed++;
}

FUNCTION int load(volatile int *from) { return *from; }
FUNCTION int middle(volatile int *from) { return load(from) + probed; }
FUNCTION int outer(volatile int *from) { return middle(from) + probed; }

int main(void)
{
	patch_op at_middle = {.type = PATCH_OP_INSTALL, .addr.func_sym = "middle", .probe = probe};
	patch_op at_load = {.type = PATCH_OP_COUNT, .addr.func_sym = "load"};
	if (patch_init(NULL, 0) || patch_queue(PATCH_FENTRY, &at_middle) || patch_queue(PATCH_FENTRY, &at_load) ||
	    patch_commit(NULL, NULL)) {
		puts(patch_error_string());
		return 1;
	}
	return outer(NULL);
}
