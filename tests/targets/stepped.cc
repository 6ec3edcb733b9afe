// Every single instruction of `work` raises a signal, whose handler takes a backtrace: where `caller` returns
// to has to be in it. Then an instruction faults, and the handler throws. Prints how many backtraces were wrong.
#include <csignal>
#include <cstdio>
#include <execinfo.h>
#include <stdexcept>
#include <ucontext.h>

static void *outside;
static long steps, wrong;

extern "C" __attribute__((noipa)) long leaf(long n) { return n * 3 + 1; }
extern "C" __attribute__((noipa)) long work(long n)
{
    long sum = 0;
    for (long i = 0; i < n; i++)
        sum += leaf(i) ^ leaf(sum);
    return sum;
}
extern "C" __attribute__((noipa)) int load(int *from) { return *from; }

static bool has(void **frames, int count, void *frame)
{
    for (int i = 0; i < count; i++)
        if (frames[i] == frame)
            return true;
    return false;
}

static volatile bool stepping;

static void step(int, siginfo_t *, void *context)
{
    void *frames[64];
    int count = backtrace(frames, 64);
    steps++;
    if (!has(frames, count, outside))
        wrong++;
    greg_t &flags = static_cast<ucontext_t *>(context)->uc_mcontext.gregs[REG_EFL];
    flags = stepping ? flags | 0x100 : flags & ~0x100; // TF
}

static void fault(int, siginfo_t *, void *) { throw std::runtime_error("fault"); }

extern "C" __attribute__((noipa)) long caller(long n, bool step)
{
    outside = __builtin_return_address(0);
    stepping = step;
    if (step)
        raise(SIGTRAP);
    long result = work(n);
    stepping = false;
    return result;
}

int main()
{
    struct sigaction action = {};
    action.sa_flags = SA_SIGINFO | SA_NODEFER;
    action.sa_sigaction = step;
    sigaction(SIGTRAP, &action, nullptr);
    action.sa_sigaction = fault;
    sigaction(SIGSEGV, &action, nullptr);
    void *frames[2];
    backtrace(frames, 2); // It allocates when it is called first.
    long expected = caller(20, false), result = caller(20, true);
    int caught = 0;
    for (int i = 0; i < 3; i++) {
        try {
            caught += load((int *)8);
        } catch (const std::runtime_error &) {
            caught++;
        }
    }
    fprintf(stderr, "%ld steps\n", steps);
    printf("%s, %ld wrong, %d caught\n", expected == result ? "equal" : "different", wrong, caught);
    return 0;
}
