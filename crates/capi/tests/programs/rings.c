/* Reads the rings in the file that is its argument. */
#include <fcntl.h>
#include <libpatch/data.h>
#include <stdio.h>
#include <unistd.h>
#include "check.h"

static void show(const uint64_t *words, size_t count, void *data)
{
	printf("%d %d (%d)\n", (int)words[0], (int)words[count - 1], ++*(int *)data);
}

int main(int argc, char **argv)
{
	patch_ring *ring = NULL;
	int fd = open(argc > 1 ? argv[1] : "/dev/null", O_RDWR), count = 0;

	CHECK(patch_ring_open(-1, &ring) == PATCH_ERR_OP);
	CHECK(patch_ring_open(fd, NULL) == PATCH_ERR_NULL);
	CHECK(patch_ring_open(fd, &ring) == PATCH_OK);
	close(fd);
	CHECK(patch_ring_read(ring, NULL, NULL) == PATCH_ERR_NULL);
	CHECK(patch_ring_read(ring, show, &count) == PATCH_OK);
	/* Each once. */
	CHECK(patch_ring_read(ring, show, &count) == PATCH_OK);
	printf("%d words, %d dropped\n", (int)patch_ring_words(ring), (int)patch_ring_dropped(ring));
	patch_ring_close(ring);
	patch_ring_close(NULL);
	return 0;
}
