/* Snippets that are built as trees: what they read, count, change, and what is wrong with some. */
#include <libpatch/tree.h>
#include <stdio.h>
#include "check.h"

#define NOIPA __attribute__((noipa))

NOIPA long scale(long n) { return 3 * n; }
NOIPA long plus(long a, long b) { return a + b; }

static const long table[] = { 10, 20, 30 };
NOIPA long look(const long *from, long count) { return count ? from[0] : 0; }

/* Adds up 0 to 9 but 3, doubled where even, and stops at 8: in an array, by a loop with a switch in it. */
static void flow(patch_tree *tree)
{
	static int64_t shared = 5;
	static const int64_t skipped[] = { 3 }, last[] = { 8 };
	patch_var index = patch_local(tree, PATCH_I64, "index"), sums = patch_array(tree, PATCH_I64, 2, "sums");
	patch_expr i = patch_value(tree, index), zero = patch_const(tree, PATCH_U64, 0), one = patch_const(tree, PATCH_I64, 1);
	patch_expr odd = patch_binary(tree, PATCH_BIT_AND, i, one);
	patch_expr place = patch_cast(tree, PATCH_U64, odd), at = patch_const(tree, PATCH_POINTER, (uintptr_t)&shared);
	patch_stmt sum = patch_set_element(tree, sums, place, patch_binary(tree, PATCH_PLUS, patch_element(tree, sums, place), i));
	patch_stmt rest[] = { sum, patch_break(tree) };
	patch_stmt left = patch_set(tree, patch_variable(tree, PATCH_I64, PATCH_GLOBAL, "left"), i);
	patch_case cases[] = {
		{ skipped, 1, patch_continue(tree) },
		{ last, 1, patch_return(tree, patch_binary(tree, PATCH_PLUS,
		           patch_binary(tree, PATCH_TIMES, patch_element(tree, sums, zero), patch_const(tree, PATCH_I64, 100)),
		           patch_element(tree, sums, patch_const(tree, PATCH_U64, 1)))) },
		{ NULL, 0, patch_sequence(tree, rest, 2) },
	};
	patch_stmt body[] = {
		patch_for(tree, patch_binary(tree, PATCH_LT, i, patch_const(tree, PATCH_I64, 10)), patch_add(tree, index, one),
		          patch_switch(tree, i, cases, 3)),
		left,
	};
	patch_expr added = patch_atomic(tree, PATCH_ATOMIC_ADD, PATCH_I64, at, patch_const(tree, PATCH_I64, 7));
	patch_expr swapped = patch_compare_exchange(tree, PATCH_I64, at, patch_const(tree, PATCH_I64, 12), one);
	patch_expr half = patch_bits(tree, PATCH_U64, patch_const(tree, PATCH_F64, 0x3fe0000000000000));
	int64_t value = 0;

	CHECK(patch_run_tree(tree, patch_sequence(tree, body, 2), &value) == PATCH_OK);
	printf("%d\n", (int)value);
	CHECK(patch_run_tree(tree, patch_return(tree, added), &value) == PATCH_OK && value == 5 && shared == 12);
	CHECK(patch_run_tree(tree, patch_return(tree, swapped), &value) == PATCH_OK && value == 12 && shared == 1);
	CHECK(patch_run_tree(tree, patch_return(tree, half), &value) == PATCH_OK && value == 0x3fe0000000000000);
	body[0] = patch_do_while(tree, patch_add(tree, index, one), patch_binary(tree, PATCH_LT, i, patch_const(tree, PATCH_I64, 5)));
	body[1] = patch_return(tree, i);
	CHECK(patch_run_tree(tree, patch_sequence(tree, body, 2), &value) == PATCH_OK && value == 5);
	/* An index outside ends the run. */
	body[0] = patch_set_element(tree, sums, patch_const(tree, PATCH_U64, 2), one);
	CHECK(patch_run_tree(tree, body[0], &value) == PATCH_ERR_SNIPPET);
	CHECK(patch_run_tree(tree, patch_break(tree), &value) == PATCH_ERR_SNIPPET);
}

static int show(const patch_entry *entry, void *data)
{
	printf("%s %d: %d\n", (const char *)data, (int)entry->key[0], (int)(entry->count + entry->number));
	return 0;
}

/* Counts calls by their argument, adds arguments up, and asks what is there. */
static void maps(patch_tree *tree)
{
	static const patch_type by[] = { PATCH_U64 };
	patch_table counts = patch_map(tree, PATCH_COUNT, PATCH_U64, by, 1, "counts");
	patch_table most = patch_map(tree, PATCH_GREATEST, PATCH_I64, NULL, 0, "most");
	patch_expr n = patch_binary(tree, PATCH_MODULO, patch_arg(tree, 0), patch_const(tree, PATCH_U64, 3));
	patch_expr two = patch_const(tree, PATCH_U64, 2), nine = patch_const(tree, PATCH_U64, 9);
	patch_stmt body[] = {
		patch_map_update(tree, counts, &n, PATCH_NO_VALUE),
		patch_map_update(tree, most, NULL, patch_cast(tree, PATCH_I64, patch_arg(tree, 0))),
	};
	patch_op op = { .type = PATCH_OP_SNIPPET, .addr.func_sym = "scale" };
	int64_t value = 0;
	uint64_t dropped = 1;
	long i;

	CHECK(patch_queue_tree(PATCH_FENTRY, &op, tree, patch_sequence(tree, body, 2)) == PATCH_OK);
	CHECK(patch_commit(NULL, NULL) == PATCH_OK);
	for (i = 0; i < 8; i++)
		scale(i);
	CHECK(patch_read_tree_map(tree, counts, show, "counts", &dropped) == PATCH_OK && dropped == 0);
	CHECK(patch_read_tree_map(tree, most, show, "most", NULL) == PATCH_OK);
	CHECK(patch_run_tree(tree, patch_return(tree, patch_map_value(tree, counts, &two)), &value) == PATCH_OK && value == 2);
	CHECK(patch_run_tree(tree, patch_return(tree, patch_map_value(tree, most, NULL)), &value) == PATCH_OK && value == 7);
	CHECK(patch_run_tree(tree, patch_return(tree, patch_map_has(tree, counts, &nine)), &value) == PATCH_OK && value == 0);
	CHECK(patch_run_tree(tree, patch_map_delete(tree, counts, &two), NULL) == PATCH_OK);
	CHECK(patch_run_tree(tree, patch_return(tree, patch_map_has(tree, counts, &two)), &value) == PATCH_OK && value == 0);
	CHECK(patch_read_tree_map(tree, (patch_table){ 77 }, show, "none", NULL) == PATCH_ERR_SNIPPET);
	CHECK(patch_map(tree, 99, PATCH_U64, NULL, 0, "none").id == 0);
}

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
	flow(tree);
	maps(tree);
	patch_tree_free(tree);
	patch_tree_free(NULL);
	CHECK(patch_fini() == PATCH_OK);
	printf("%ld\n", plus(2, 1));
	return 0;
}
