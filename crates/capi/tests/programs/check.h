/* What the test programs share. */
#ifndef CHECK_H
#define CHECK_H

#include <stdio.h>
#include <stdlib.h>

#include <libpatch/patch.h>

/* Ends the program if a condition does not hold. */
#define CHECK(condition)                                                                          \
	do {                                                                                      \
		if (!(condition)) {                                                               \
			fprintf(stderr, "%s:%d: %s (last error: %s)\n", __FILE__, __LINE__,        \
				#condition, patch_error_string());                                \
			exit(1);                                                                  \
		}                                                                                 \
	} while (0)

/* The same for a status of the library. */
#define CHECK_IS(expected, call)                                                                  \
	do {                                                                                      \
		patch_err got_ = (call);                                                          \
		if (got_ != (expected)) {                                                         \
			fprintf(stderr, "%s:%d: %s is %d, not %s (last error: %s)\n", __FILE__,    \
				__LINE__, #call, (int)got_, #expected, patch_error_string());     \
			exit(1);                                                                  \
		}                                                                                 \
	} while (0)

#define OK(call) CHECK_IS(PATCH_OK, call)

#endif
