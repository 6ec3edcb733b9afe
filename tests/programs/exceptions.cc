// Exceptions go through functions whose entries are probed, with destructors in between.
//@ compile: g++ -O2
//@ compile: g++ -O0
//@ compile: g++ -O2 -static
//@ count: thrower(int) catcher(int) Guard::~Guard() -- 200
//@ expect-count: catcher(int) 200
//@ expect-count: thrower(int) 1200
//@ expect-stdout: 200 caught, 1200 guards
#include <cstdio>
#include <cstdlib>
#include <stdexcept>

static int guards;

struct Guard {
    int depth;
    __attribute__((noipa)) ~Guard() { guards++; }
};

__attribute__((noipa)) void thrower(int depth)
{
    Guard guard{depth};
    if (depth == 0)
        throw std::runtime_error("thrown");
    thrower(depth - 1);
}

__attribute__((noipa)) int catcher(int depth)
{
    try {
        thrower(depth);
    } catch (const std::runtime_error &error) {
        return error.what()[0] == 't';
    }
    return 0;
}

int main(int argc, char **argv)
{
    int times = argc > 1 ? atoi(argv[1]) : 1, caught = 0;
    for (int i = 0; i < times; i++)
        caught += catcher(5);
    printf("%d caught, %d guards\n", caught, guards);
    return 0;
}
