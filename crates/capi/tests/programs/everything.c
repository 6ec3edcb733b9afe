/*
 * Every function of a module is probed (the first argument names it) while threads use the C library, which the
 * library of the probes uses too. All bytes of its code are as before at the end.
 */
#define _GNU_SOURCE
#include <link.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>

#include "check.h"

static atomic_ulong hits;
static const char *wanted;

static void probe(struct patch_probe_context *ctx)
{
	(void)ctx;
	atomic_fetch_add(&hits, 1);
}

/* A checksum over the executable segments of the module, or of all modules that are files. */
static int add_segments(struct dl_phdr_info *info, size_t size, void *sum)
{
	(void)size;
	if (!strstr(info->dlpi_name, wanted) || strstr(info->dlpi_name, "libpatch"))
		return 0;
	for (int i = 0; i < info->dlpi_phnum; i++) {
		const ElfW(Phdr) *segment = &info->dlpi_phdr[i];
		if (segment->p_type != PT_LOAD || !(segment->p_flags & PF_X))
			continue;
		const unsigned char *code = (const unsigned char *)info->dlpi_addr + segment->p_vaddr;
		for (size_t j = 0; j < segment->p_memsz; j++)
			*(uint64_t *)sum = *(uint64_t *)sum * 31 + code[j];
	}
	return 0;
}

static uint64_t checksum(void)
{
	uint64_t sum = 0;
	dl_iterate_phdr(add_segments, &sum);
	return sum;
}

static int ascending(const void *a, const void *b)
{
	return *(const int *)a - *(const int *)b;
}

static void *work(void *text)
{
	int values[1000];
	char line[100];
	struct tm tm;
	time_t day = 86400;

	for (int round = 0; round < 20; round++) {
		for (int i = 0; i < 1000; i++)
			values[i] = (i * 7919) % 1000;
		qsort(values, 1000, sizeof *values, ascending);
		CHECK(values[0] == 0 && values[999] == 999);
		char *copy = strdup(text);
		CHECK(copy && gmtime_r(&day, &tm));
		snprintf(line, sizeof line, "%d %.2f %s %d", values[500], 1.5, copy, tm.tm_mday);
		CHECK(!strcmp(line, "500 1.50 moon 2"));
		free(copy);
	}
	return NULL;
}

static void run(void)
{
	pthread_t threads[3];
	for (int i = 0; i < 3; i++)
		CHECK(!pthread_create(&threads[i], NULL, work, "moon"));
	for (int i = 0; i < 3; i++)
		CHECK(!pthread_join(threads[i], NULL));
}

static size_t install(patch_op_type type, uint64_t *cookie)
{
	patch_op op = {.type = type, .addr.pattern = "*", .addr.module = wanted};
	patch_result *results;
	size_t count, installed = 0;

	op.probe = type == PATCH_OP_INSTALL ? probe : NULL;
	OK(patch_queue(PATCH_FENTRY, &op));
	OK(patch_commit(&results, &count));
	for (size_t i = 0; i < count; i++)
		installed += results[i].status == PATCH_OK;
	OK(patch_drop_results(results));
	*cookie = op.cookie;
	return installed;
}

int main(int argc, char **argv)
{
	patch_opt options[] = {{PATCH_OPT_ATOMICITY, 0, PATCH_ATOMICITY_BEST_EFFORT},
			       {PATCH_OPT_RESULTS, 0, PATCH_RESULTS_ALL}};
	uint64_t before, probed, counted, value;

	CHECK(argc == 2);
	wanted = argv[1];
	run();
	before = checksum();
	OK(patch_init(options, 2));
	CHECK(install(PATCH_OP_INSTALL, &probed) > 10);
	CHECK(install(PATCH_OP_COUNT, &counted) > 10);
	CHECK(checksum() != before);
	run();
	OK(patch_read_count(counted, &value));
	/* The counter sees all that the probe sees, and what happens inside of probes and of the library. */
	CHECK(value >= atomic_load(&hits));
	CHECK(strcmp(wanted, "libc.so.6") || atomic_load(&hits) > 10000);
	OK(patch_fini());
	CHECK(checksum() == before);
	unsigned long last = atomic_load(&hits);
	run();
	CHECK(atomic_load(&hits) == last);
	printf("ok\n");
	return 0;
}
