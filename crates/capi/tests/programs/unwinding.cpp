// The program of the end-to-end tests, with probes of its own.
#define LIBPATCH
#include "../../../../tests/programs/unwinding.cc"
