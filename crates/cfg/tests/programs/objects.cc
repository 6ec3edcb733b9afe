// Classes, templates, exceptions, lambdas.
#include <algorithm>
#include <cstdio>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

struct Shape {
    virtual ~Shape() = default;
    virtual double area() const = 0;
    virtual std::string name() const { return "shape"; }
};

struct Square : Shape {
    double side;
    explicit Square(double side) : side(side) {}
    double area() const override { return side * side; }
    std::string name() const override { return "square"; }
};

struct Circle : Shape {
    double radius;
    explicit Circle(double radius) : radius(radius) {}
    double area() const override { return 3.0 * radius * radius; }
};

struct Guard {
    int &count;
    explicit Guard(int &count) : count(count) { ++count; }
    ~Guard() { --count; }
};

[[gnu::noinline]] static int risky(int x, int &count) {
    Guard guard(count);
    if (x % 3 == 0) throw std::runtime_error("three");
    if (x % 5 == 0) throw x;
    return x * 2;
}

[[gnu::noinline]] static int careful(int x) {
    int count = 0;
    try {
        Guard guard(count);
        return risky(x, count) + risky(x + 1, count);
    } catch (const std::exception &error) {
        return static_cast<int>(std::string(error.what()).size());
    } catch (int number) {
        return -number + count;
    }
}

template <typename T> [[gnu::noinline]] T largest(const std::vector<T> &values) {
    if (values.empty()) throw std::out_of_range("empty");
    return *std::max_element(values.begin(), values.end());
}

int main() {
    std::vector<std::unique_ptr<Shape>> shapes;
    shapes.push_back(std::make_unique<Square>(2));
    shapes.push_back(std::make_unique<Circle>(1));
    std::map<std::string, double> areas;
    for (const auto &shape : shapes) areas[shape->name()] += shape->area();
    int sum = 0;
    for (int i = 0; i < 40; i++) sum += careful(i);
    std::vector<int> numbers{3, 1, 2};
    std::sort(numbers.begin(), numbers.end(), [](int a, int b) { return a > b; });
    std::vector<std::string> words{"x", "yz"};
    std::printf("%d %d %s %g\n", sum, largest(numbers), largest(words).c_str(), areas["square"]);
}
