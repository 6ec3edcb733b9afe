/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * libpatch: what snippets leave, and snippets that run once.
 *
 * A snippet is text in a language like C (docs/language.md): PATCH_OP_SNIPPET puts it where the program comes by,
 * without a call of a function of yours. It may gather values in maps and print; both lie in memory that these functions
 * read while the program runs. A map whose room is used up counts what it has to drop; what is printed waits in a ring for
 * each CPU, and is dropped and counted if nobody reads: a snippet never waits.
 *
 *	patch_op op = {
 *		.type          = PATCH_OP_SNIPPET,
 *		.addr.func_sym = "malloc",
 *		.snippet       = "@sizes = hist(arg0); if (arg0 > 1 << 20) printf(\"%d bytes\\n\", arg0);",
 *	};
 *
 * Maps are those of all snippets since patch_init(); they keep their values when the snippets are removed.
 */
#ifndef LIBPATCH_DATA_H
#define LIBPATCH_DATA_H

#include <libpatch/patch.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What a map holds for each key. */
typedef enum patch_value_kind {
	/* `number`: of @x = value, sum(), min(), max(). */
	PATCH_VALUE_NUMBER = 1,
	/* `count`: of count(). */
	PATCH_VALUE_COUNT = 2,
	/* `count` and `sum`: of avg(). */
	PATCH_VALUE_AVERAGE = 3,
	/* `count`, `sum`, `min`, `max`: of stats(). */
	PATCH_VALUE_STATS = 4,
	/* `count`, `sum` and `buckets`: of hist() and lhist(). */
	PATCH_VALUE_HISTOGRAM = 5
} patch_value_kind;

/* A bucket of a histogram that is not empty. 24 bytes. */
typedef struct patch_bucket {
	/* The least value, and the greatest. */
	int64_t first;
	int64_t last;
	uint64_t count;
} patch_bucket;

/* A key of a map, and its value. 96 bytes. */
typedef struct patch_entry {
	/*
	 * The key as quadwords: integers with their sign, floats as their bits, texts with zeros behind. A map without keys has
	 * one that is 0.
	 */
	const uint64_t *key;
	size_t key_count;
	patch_value_kind value;
	uint32_t reserved_word;
	int64_t number;
	uint64_t count;
	int64_t sum;
	int64_t min;
	int64_t max;
	const patch_bucket *buckets;
	size_t bucket_count;
	uint64_t reserved[2];
} patch_entry;

/* Is shown an entry, which is good until it returns. Anything but 0 ends the reading. It may call functions of libpatch. */
typedef int (*patch_visit)(const patch_entry *entry, void *data);

/*
 * Shows `visit` every entry of the map @NAME, by rising keys, as they are now. `*dropped` (if it is not NULL) is set to how
 * many values found no room.
 *
 * PATCH_ERR_NOT_INIT, PATCH_ERR_NULL; PATCH_ERR_MAP: no snippet that was committed has such a map.
 */
patch_err patch_read_map(const char *name, patch_visit visit, void *data, uint64_t *dropped);

/*
 * Forgets what the map @NAME holds. What is added meanwhile may be lost in part.
 *
 * PATCH_ERR_NOT_INIT, PATCH_ERR_NULL, PATCH_ERR_MAP.
 */
patch_err patch_clear_map(const char *name);

/*
 * Takes what snippets have printed: as many whole texts as there is room for, with a NUL behind. `*length` is set to
 * the bytes without that; 0 if there is nothing. What has no room stays for the next call; a text that is longer
 * than the whole buffer is cut. `*dropped` (if it is not NULL) is set to how many texts were lost so far.
 *
 * PATCH_ERR_NOT_INIT, PATCH_ERR_NULL.
 */
patch_err patch_read_text(char *buffer, size_t size, size_t *length, uint64_t *dropped);

/*
 * Runs a snippet once, now, on the calling thread. `*value` (if it is not NULL) is set to what it returns, 0 if it returns
 * nothing. Names of the program are those that are seen from everywhere.
 *
 * PATCH_ERR_NOT_INIT, PATCH_ERR_NULL; PATCH_ERR_SNIPPET: the text is wrong, or the run ended early;
 * PATCH_ERR_REFUSED, PATCH_ERR_SYSTEM.
 */
patch_err patch_run_once(const char *snippet, int64_t *value);

/*
 * Rings of records, one for each CPU, such as `incise trace` has a program write (docs/trace.md, The rings): their reader, where
 * whoever made them has gone, or for tools of one's own. `fd` is open for reading and writing, such as /proc/PID/map_files/FROM-TO;
 * it may be closed afterwards. There may be one reader at a time. These functions need no patch_init().
 */
typedef struct patch_ring patch_ring;

/* Is shown the quadwords of a record, which are good until it returns. */
typedef void (*patch_take)(const uint64_t *words, size_t count, void *data);

/* PATCH_ERR_NULL; PATCH_ERR_OP: the file cannot be mapped, or has no rings of a known version in it. */
patch_err patch_ring_open(int fd, patch_ring **ring);

/* Shows `take` every record that is finished and was not read, those of one ring in their order. PATCH_ERR_NULL. */
patch_err patch_ring_read(patch_ring *ring, patch_take take, void *data);

/* How many records found no room, since the rings were made; how many quadwords a record has; 0 of NULL. */
uint64_t patch_ring_dropped(const patch_ring *ring);
size_t patch_ring_words(const patch_ring *ring);

/* What is in the rings stays there. NULL is closed, too. */
void patch_ring_close(patch_ring *ring);

#ifdef __cplusplus
}
#endif

#endif /* LIBPATCH_DATA_H */
