/* Snippets that are built as trees: what they read, count, change, and what is wrong with some. */
#include <libpatch/tree.h>
#include <stdio.h>
#include "check.h"

#define NOIPA __attribute__((noipa))

NOIPA long scale(long n) { return 3 * n; }
NOIPA long plus(long a, long b) { return a + b; }

static const long table[] = { 10, 20, 30 };
NOIPA long look(const long *from, long count) { return count ? from[0] : 0; }

int main(void)
{
	patch_tree *tree;
	patch_var big, total, last;
	patch_expr n, one, sum, index;
	patch_stmt loop[2], body[3];
	patch_op op = { .type = PATCH_OP_SNIPPET, .addr.func_sym = "scale" };
	patch_op walk = { .type = PATCH_OP_SNIPPET, .addr.func_sym = "look" };
	patch_op change = { .type = PATCH_OP_SNIPPET, .addr.func_sym = "plus" };
	uint64_t value = 0;
	int64_t given = 0;
	long i, result = 0;

	CHECK(patch_init(NULL, 0) == PATCH_OK);
	tree = patch_tree_new();
	n = patch_arg(tree, 0);
	one = patch_const(tree, PATCH_U64, 1);
	big = patch_variable(tree, PATCH_U64, PATCH_PER_CPU, "big");
	total = patch_variable(tree, PATCH_U64, PATCH_GLOBAL, "total");
	last = patch_variable(tree, PATCH_I64, PATCH_GLOBAL, "last");

	/* if (n > 6) big++; total += n */
	body[0] = patch_if(tree, patch_binary(tree, PATCH_GT, n, patch_const(tree, PATCH_U64, 6)),
	                   patch_add(tree, big, one), PATCH_NOTHING);
	body[1] = patch_set(tree, total, patch_binary(tree, PATCH_PLUS, patch_value(tree, total), n));
	CHECK(patch_queue_tree(PATCH_FENTRY, &op, tree, patch_sequence(tree, body, 2)) == PATCH_OK);

	/* last = the sum of the array; the loop counts down */
	index = patch_value(tree, last);
	sum = patch_const(tree, PATCH_I64, 0);
	for (i = 0; i < 3; i++) {
		patch_expr at = patch_binary(tree, PATCH_PLUS, n, patch_const(tree, PATCH_U64, 8 * (uint64_t)i));
		sum = patch_binary(tree, PATCH_PLUS, sum, patch_load(tree, PATCH_I64, at));
	}
	loop[0] = patch_set(tree, last, patch_const(tree, PATCH_I64, 5));
	loop[1] = patch_while(tree, patch_binary(tree, PATCH_LT, index, patch_const(tree, PATCH_I64, 8)),
	                      patch_add(tree, last, patch_const(tree, PATCH_I64, 1)));
	body[0] = patch_sequence(tree, loop, 2);
	body[1] = patch_add(tree, last, sum);
	CHECK(patch_queue_tree(PATCH_FENTRY, &walk, tree, patch_sequence(tree, body, 2)) == PATCH_OK);

	/* plus(a, b) becomes plus(scale(a), b) */
	body[0] = patch_set_register(tree, PATCH_X86_64_RDI, patch_call(tree, (uintptr_t)scale, &n, 1));
	CHECK(patch_queue_tree(PATCH_FENTRY, &change, tree, body[0]) == PATCH_OK);
	CHECK(patch_commit(NULL, NULL) == PATCH_OK);

	for (i = 0; i < 10; i++)
		result += scale(i);
	CHECK(patch_read_variable(tree, big, &value) == PATCH_OK);
	printf("%ld, big %d", result, (int)value);
	CHECK(patch_read_variable(tree, total, &value) == PATCH_OK);
	printf(", total %d\n", (int)value);
	printf("%ld", look(table, 3));
	CHECK(patch_read_variable(tree, last, &value) == PATCH_OK);
	printf(", last %d\n", (int)value);
	/* An address where nothing is ends the run, not the program. */
	printf("%ld\n", look((const long *)8, 0));
	printf("%ld\n", plus(2, 1));

	/* Once, now. */
	CHECK(patch_run_tree(tree, patch_return(tree, patch_binary(tree, PATCH_TIMES, patch_const(tree, PATCH_U64, 6),
	                                                           patch_const(tree, PATCH_U64, 7))), &given) == PATCH_OK);
	printf("%d\n", (int)given);

	/* What is wrong is told. */
	body[0] = patch_set(tree, last, one);
	CHECK(patch_queue_tree(PATCH_FENTRY, &op, tree, body[0]) == PATCH_ERR_SNIPPET);
	printf("%s\n", patch_error_string());
	body[0] = patch_return(tree, patch_binary(tree, PATCH_PLUS, (patch_expr){ 9999 }, one));
	CHECK(patch_run_tree(tree, body[0], NULL) == PATCH_ERR_SNIPPET);
	printf("%s\n", patch_error_string());
	CHECK(patch_queue_tree(PATCH_FENTRY, &op, NULL, PATCH_NOTHING) == PATCH_ERR_NULL);
	CHECK(patch_read_variable(tree, (patch_var){ 77 }, &value) == PATCH_ERR_SNIPPET);
	patch_tree_free(tree);
	patch_tree_free(NULL);
	CHECK(patch_fini() == PATCH_OK);
	printf("%ld\n", plus(2, 1));
	return 0;
}
