/* The sizes and numbers that are part of the interface. */
#include <stdio.h>

#include <libpatch/data.h>

#define SHOW(expression) printf("%s = %d\n", #expression, (int)(expression))

int main(void)
{
	SHOW(sizeof(patch_opt));
	SHOW(sizeof(patch_addr));
	SHOW(sizeof(patch_op));
	SHOW(offsetof(patch_op, addr));
	SHOW(offsetof(patch_op, probe));
	SHOW(offsetof(patch_op, user_data));
	SHOW(offsetof(patch_op, cookie));
	SHOW(offsetof(patch_op, snippet));
	SHOW(sizeof(patch_entry));
	SHOW(offsetof(patch_entry, number));
	SHOW(offsetof(patch_entry, buckets));
	SHOW(sizeof(patch_bucket));
	SHOW(sizeof(patch_result));
	SHOW(offsetof(patch_result, addr));
	SHOW(offsetof(patch_result, status));
	SHOW(offsetof(patch_result, tactic));
	SHOW(offsetof(patch_result, module));
	SHOW(offsetof(patch_result, reason));
	SHOW(PATCH_X86_64_RDI);
	SHOW(PATCH_X86_64_RIP);
	SHOW(PATCH_ERR_INTERNAL);
	SHOW(PATCH_TACTIC_OTHER);
	SHOW(patch_version() == PATCH_VERSION);
	return 0;
}
