/* Trees that leave records in rings: numbers, texts and stacks, from several threads; stacks and texts as keys of maps. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <libpatch/tree.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include "check.h"

#define NOIPA __attribute__((noipa))
#define THREADS 4
#define CALLS 200

NOIPA long inner(long n, const char *what) { return n + (long)strlen(what); }
NOIPA long middle(long n) { return inner(n, "a text that is longer than it may be") + 1; }
NOIPA long outer(long n) { return middle(n) + 1; }

/* The function that a return address is in. */
static const char *function(uint64_t at)
{
	Dl_info info;
	return dladdr((void *)(uintptr_t)(at - 1), &info) && info.dli_sname ? info.dli_sname : "?";
}

static void show(const uint64_t *words, size_t count, void *data)
{
	static uint64_t before;
	CHECK(words[1] >= before);
	before = words[1];
	++*(int *)data;
	if (words[0] == 7) {
		CHECK(count == 2 + 1 + 2 + 2 + 4);
		printf("%d \"%.11s\" %.16s: %s, %s, %s\n", (int)words[2], (const char *)(words + 3), (const char *)(words + 5),
		       function(words[7]), function(words[8]), function(words[9]));
	} else {
		CHECK(words[0] == 8 && count == 2);
		printf("seen\n");
	}
}

static int entry(const patch_entry *entry, void *data)
{
	CHECK(entry->key_count == 2 + 2);
	printf("%s %.16s: %s, %s: %d\n", (const char *)data, (const char *)entry->key, function(entry->key[2]),
	       function(entry->key[3]), (int)entry->count);
	return 0;
}

static void *call(void *unused)
{
	for (long i = 0; i < CALLS; i++)
		outer(i);
	return unused;
}

/* Every record has its number once. */
static void number(const uint64_t *words, size_t count, void *data)
{
	CHECK(count == 4 && words[0] == 1 && words[2] < CALLS && words[3] == ~words[2]);
	++((int *)data)[words[2]];
}

static void threads(patch_tree *tree)
{
	patch_rings rings = patch_rings_new(tree, 1024), few = patch_rings_new(tree, 16);
	patch_expr n = patch_arg(tree, 0), fields[] = { n, patch_unary(tree, PATCH_BIT_NOT, n) };
	patch_stmt body[] = { patch_emit(tree, rings, 1, fields, 2), patch_emit(tree, few, 1, fields, 2) };
	patch_op op = { .type = PATCH_OP_SNIPPET, .addr.func_sym = "inner" };
	pthread_t all[THREADS];
	int seen[CALLS] = { 0 }, some[CALLS] = { 0 }, left = 0, i;
	uint64_t dropped = 1;

	CHECK(patch_queue_tree(PATCH_FENTRY, &op, tree, patch_sequence(tree, body, 2)) == PATCH_OK);
	CHECK(patch_commit(NULL, NULL) == PATCH_OK);
	for (i = 0; i < THREADS; i++)
		CHECK(pthread_create(&all[i], NULL, call, NULL) == 0);
	for (i = 0; i < THREADS; i++)
		CHECK(pthread_join(all[i], NULL) == 0);
	CHECK(patch_read_rings(tree, rings, number, seen, &dropped) == PATCH_OK && dropped == 0);
	for (i = 0; i < CALLS; i++)
		CHECK(seen[i] == THREADS);
	/* What found no room was counted. */
	CHECK(patch_read_rings(tree, few, number, some, &dropped) == PATCH_OK && dropped > 0);
	for (i = 0; i < CALLS; i++)
		left += some[i];
	CHECK(left + (int)dropped == THREADS * CALLS);
	op.type = PATCH_OP_REMOVE;
	CHECK(patch_queue(0, &op) == PATCH_OK && patch_commit(NULL, NULL) == PATCH_OK);
}

int main(void)
{
	static const patch_type by[] = { PATCH_TEXT(16), PATCH_FRAMES(2) };
	patch_tree *tree = patch_tree_new();
	patch_rings rings = patch_rings_new(tree, 64);
	patch_op op = { .type = PATCH_OP_SNIPPET, .addr.func_sym = "inner" };
	patch_expr n = patch_arg(tree, 0), fields[4], key[2];
	patch_stmt body[3];
	patch_table stacks;
	uint64_t dropped = 1;
	int count = 0;

	/* Without the library nobody knows how to walk. */
	CHECK(patch_stack(tree, 3).id != 0);
	fields[0] = patch_stack(tree, 3);
	body[0] = patch_emit(tree, rings, 1, fields, 1);
	CHECK(patch_read_rings(tree, rings, show, &count, NULL) == PATCH_ERR_NOT_INIT);
	CHECK(patch_init(NULL, 0) == PATCH_OK);
	CHECK(patch_queue_tree(PATCH_FENTRY, &op, tree, body[0]) == PATCH_ERR_SNIPPET);
	printf("%s\n", patch_error_string());

	prctl(PR_SET_NAME, "recorder");
	fields[0] = n;
	fields[1] = patch_text(tree, patch_arg(tree, 1), 11);
	fields[2] = patch_command(tree);
	fields[3] = patch_stack(tree, 4);
	stacks = patch_map(tree, PATCH_COUNT, PATCH_U64, by, 2, "stacks");
	key[0] = fields[2];
	key[1] = patch_stack(tree, 2);
	body[0] = patch_emit(tree, rings, 7, fields, 4);
	body[1] = patch_emit(tree, rings, 8, NULL, 0);
	body[2] = patch_map_update(tree, stacks, key, PATCH_NO_VALUE);
	CHECK(patch_queue_tree(PATCH_FENTRY, &op, tree, patch_sequence(tree, body, 3)) == PATCH_OK);
	CHECK(patch_commit(NULL, NULL) == PATCH_OK);
	CHECK(outer(5) == 43);
	CHECK(outer(6) == 44);
	CHECK(patch_read_rings(tree, rings, show, &count, &dropped) == PATCH_OK && count == 4 && dropped == 0);
	/* Each once. */
	CHECK(patch_read_rings(tree, rings, show, &count, NULL) == PATCH_OK && count == 4);
	CHECK(patch_read_tree_map(tree, stacks, entry, "by", NULL) == PATCH_OK);
	op.type = PATCH_OP_REMOVE;
	CHECK(patch_queue(0, &op) == PATCH_OK && patch_commit(NULL, NULL) == PATCH_OK);

	/* What is wrong is told. */
	op.type = PATCH_OP_SNIPPET;
	CHECK(patch_queue_tree(PATCH_FENTRY, &op, tree, patch_emit(tree, rings, 7, fields, 2)) == PATCH_ERR_SNIPPET);
	printf("%s\n", patch_error_string());
	fields[1] = patch_text(tree, patch_arg(tree, 1), 488);
	CHECK(patch_queue_tree(PATCH_FENTRY, &op, tree, patch_emit(tree, rings, 9, fields, 2)) == PATCH_ERR_SNIPPET);
	printf("%s\n", patch_error_string());
	CHECK(patch_queue_tree(PATCH_FENTRY, &op, tree, patch_emit(tree, (patch_rings){ 9 }, 9, fields, 1)) == PATCH_ERR_SNIPPET);
	printf("%s\n", patch_error_string());
	CHECK(patch_read_rings(tree, rings, NULL, NULL, NULL) == PATCH_ERR_NULL);
	CHECK(patch_read_rings(tree, (patch_rings){ 9 }, show, &count, NULL) == PATCH_ERR_SNIPPET);
	CHECK(patch_rings_new(tree, 1).id == 0 && patch_rings_new(NULL, 64).id == 0);
	threads(tree);
	patch_tree_free(tree);
	CHECK(patch_fini() == PATCH_OK);
	return 0;
}
