#include <assert.h>
#include <stdlib.h>
#include <stdio.h>
#include <libpatch/patch.h>

static int exit_value = EXIT_FAILURE;

static void probe(struct patch_probe_context *ctx)
{
    printf("probe:\tx=%d\n",
           (int)ctx->gregs[PATCH_X86_64_RDI]);

    exit_value ^= EXIT_FAILURE;
}

void func(int x)
{
    printf("func:\tx=%d\n", x);
}

static void install_probe(void)
{
    patch_op op = {
        .type           = PATCH_OP_INSTALL,
        .addr.func_sym  = "func",
        .probe          = probe,
    };

    patch_result *results;
    size_t results_count;

    assert(PATCH_OK == patch_init(NULL, 0));
    assert(PATCH_OK == patch_queue(PATCH_FENTRY, &op));
    assert(PATCH_OK == patch_commit(&results, &results_count));
    assert(0 == results_count);
    patch_drop_results(results);
}

int main(void)
{
    install_probe();
    int x = random();

    printf("main:\tx=%d\n", x);

    func(x);

    /* All probes are removed here. */
    patch_fini();

    func(x);

    return exit_value;
}
