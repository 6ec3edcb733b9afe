// Variables of C++, for a comparison with a debugger.
#include <cstdio>

namespace deep {
namespace inside {
int hidden = 42;
}
enum class Shade : unsigned char { Dark = 200, Light };
struct Base {
    int common = 11;
    virtual ~Base() {}
};
struct Other {
    short other = 12;
};
class Derived : public Base, public Other {
  public:
    static int made;
    long own = 13;
    Shade shade = Shade::Dark;
    __attribute__((noipa)) long add(int by, const long &more) {
        long total = own + by + more + common + other;
        own = total;
        return total;
    }
};
int Derived::made = 77;
} // namespace deep

struct Copied {
    long value;
    explicit Copied(long value) : value(value) {}
    Copied(const Copied &from) : value(from.value + 1) {}
};

template <typename T> __attribute__((noipa)) T largest(T a, T b) {
    T most = a;
    if (b > most)
        most = b;
    return most;
}

__attribute__((noipa)) static long by_reference(Copied copied, int &count, deep::Derived &&moved) {
    count += 2;
    long value = copied.value + moved.own + count;
    return value;
}

int main() {
    deep::Derived derived;
    long more = 1000;
    long sum = derived.add(5, more);
    double big = largest(1.5, 2.5);
    int small = largest(3, -4);
    int count = 1;
    sum += by_reference(Copied(20), count, deep::Derived());
    std::printf("%ld %g %d %d\n", sum, big, small, count + deep::inside::hidden + deep::Derived::made);
    return 0;
}
