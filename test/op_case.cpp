#include "test/op_case.h"

#include "llmc/device/simt/trace.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <sys/wait.h>
#include <unistd.h>
#include <utility>

namespace {

constexpr int kGuard = 64; // sentinel elements on each side of a buffer
constexpr unsigned char kSentinel = 0xA5;

// The buffers of one call, each between sentinels.
struct Buffers {
    std::map<std::string, std::vector<unsigned char>> memory;
    std::map<std::string, std::vector<unsigned char>> before; // copies, to see changed inputs
    Views views;

    void add(const std::string& name, Dtype dtype, const std::vector<int64_t>& shape, int64_t ld,
             const std::vector<double>& values) {
        size_t element = dtype_bytes(dtype);
        int64_t row = 1;
        for (size_t i = 1; i < shape.size(); i++) row *= shape[i];
        int64_t stride = ld > 0 ? ld : row;
        int64_t elements = shape[0] * stride;
        auto& bytes = memory[name];
        bytes.assign((elements + 2 * kGuard) * element + 64, kSentinel);
        uintptr_t address = reinterpret_cast<uintptr_t>(bytes.data()) + kGuard * element;
        unsigned char* data = reinterpret_cast<unsigned char*>((address + 63) / 64 * 64);
        View view = shape.size() == 1   ? make_view(data, dtype, "", shape[0])
                    : shape.size() == 2 ? make_view(data, dtype, "", shape[0], shape[1])
                                        : make_view(data, dtype, "", shape[0], shape[1], shape[2]);
        view.ld = stride;
        auto named = views.emplace(name, view).first;
        named->second.name = named->first.c_str();
        for (int64_t i = 0; i < shape[0]; i++)
            for (int64_t j = 0; j < row; j++) {
                double value = values[i * row + j];
                unsigned char* at = data + (i * stride + j) * element;
                if (dtype == Dtype::f64) std::memcpy(at, &value, 8);
                else if (dtype == Dtype::f32) {
                    float narrow = float(value);
                    std::memcpy(at, &narrow, 4);
                } else if (dtype == Dtype::bf16) {
                    uint16_t bits = float_to_bf16(float(value));
                    std::memcpy(at, &bits, 2);
                } else {
                    int32_t integer = int32_t(value);
                    std::memcpy(at, &integer, 4);
                }
            }
        before[name] = bytes;
    }

    bool unchanged(const std::string& name) const { return memory.at(name) == before.at(name); }

    // Bytes outside the view's elements still hold what they held before.
    bool sentinels_intact(const std::string& name) const {
        const View& view = views.at(name);
        std::vector<unsigned char> now = memory.at(name);
        size_t element = dtype_bytes(view.dtype);
        size_t offset = static_cast<unsigned char*>(view.data) - memory.at(name).data();
        const auto& old = before.at(name);
        for (int64_t i = 0; i < view.shape[0]; i++)
            std::memcpy(now.data() + offset + i * view.ld * element,
                        old.data() + offset + i * view.ld * element, view.row_size() * element);
        return now == old;
    }
};

std::vector<double> values_of(const View& view) {
    std::vector<double> values;
    for (int64_t i = 0; i < view.shape[0]; i++)
        for (int64_t j = 0; j < view.row_size(); j++) {
            int64_t at = i * view.ld + j;
            values.push_back(view.dtype == Dtype::f64   ? view.as<double>()[at]
                             : view.dtype == Dtype::f32 ? view.as<float>()[at]
                             : view.dtype == Dtype::bf16
                                 ? bf16_to_float(static_cast<const uint16_t*>(view.data)[at])
                                 : view.as<int32_t>()[at]);
        }
    return values;
}

// The same number on every backend: what X holds.
double rounded(double value, Dtype x) {
    return double(x == Dtype::bf16 ? bf16_to_float(float_to_bf16(float(value))) : float(value));
}
Dtype stored(const OpCase& op, const std::string& name, Dtype x) {
    return op.single.count(name) ? Dtype::f32 : x;
}

std::vector<double> start_values(const OpCase& op, size_t index, Dtype x) {
    const Arg& arg = op.args[index];
    int64_t count = 1;
    for (int64_t n : arg.shape) count *= n;
    Rng rng(hash64(op.name.data(), op.name.size()), index);
    std::vector<double> values(count, 0.0);
    if (arg.role == Role::out || arg.role == Role::out_f64)
        std::fill(values.begin(), values.end(), std::nan(""));
    else if (arg.role == Role::out_i32) std::fill(values.begin(), values.end(), -77777.0);
    else if (arg.fill) arg.fill(values, rng);
    else if (arg.role != Role::index)
        for (double& value : values) value = rng.normal();
    if (arg.role == Role::in || arg.role == Role::acc)
        for (double& value : values) value = rounded(value, stored(op, arg.name, x));
    return values;
}

bool is_integer(Role role) { return role == Role::index || role == Role::out_i32; }
bool is_double(Role role) { return role == Role::in_f64 || role == Role::out_f64; }

Dtype memory_dtype(const OpCase& op, const Ctx& ctx, const std::string& name, Dtype x) {
    return ctx.backend == Backend::ref ? Dtype::f64 : stored(op, name, x);
}

Buffers make_arguments(const OpCase& op, const Ctx& ctx, Dtype x) {
    Buffers buffers;
    for (size_t i = 0; i < op.args.size(); i++) {
        const Arg& arg = op.args[i];
        const Dtype dtype = is_integer(arg.role)  ? Dtype::i32
                            : is_double(arg.role) ? Dtype::f64
                                                  : memory_dtype(op, ctx, arg.name, x);
        buffers.add(arg.name, dtype, arg.shape, arg.ld, start_values(op, i, x));
    }
    return buffers;
}

const Arg& find_arg(const OpCase& op, const std::string& name) {
    for (const Arg& arg : op.args)
        if (arg.name == name) return arg;
    require(false, "op case %s: no argument %s", op.name.c_str(), name.c_str());
    return op.args[0];
}

// Gradients: random for outputs, NaN (written) or random (accumulated) for inputs.
Buffers make_gradients(const OpCase& op, const Ctx& ctx, Dtype x) {
    Buffers buffers;
    uint64_t stream = 1000;
    auto add = [&](const std::string& name, bool poison) {
        const Arg& arg = find_arg(op, name);
        int64_t count = 1;
        for (int64_t n : arg.shape) count *= n;
        Rng rng(hash64(op.name.data(), op.name.size()), stream++);
        std::vector<double> values(count);
        for (double& value : values)
            value = poison ? std::nan("") : rounded(rng.normal(), stored(op, "d" + name, x));
        buffers.add(name, memory_dtype(op, ctx, "d" + name, x), arg.shape, arg.ld, values);
    };
    for (auto& name : op.outputs) add(name, false);
    for (auto& [name, mode] : op.inputs) add(name, mode == GradMode::written);
    return buffers;
}

double relative_error(const std::vector<double>& got, const std::vector<double>& want) {
    double difference = 0, norm = 0;
    for (size_t i = 0; i < want.size(); i++) {
        if (std::isnan(got[i]) && std::isnan(want[i])) continue;
        if (std::isinf(want[i]) && got[i] == want[i]) continue;
        difference += (got[i] - want[i]) * (got[i] - want[i]);
        norm += want[i] * want[i];
    }
    if (std::isnan(difference)) return INFINITY;
    return norm > 0 ? std::sqrt(difference / norm) : std::sqrt(difference);
}

bool is_output(Role role) {
    return role == Role::out || role == Role::out_i32 || role == Role::out_f64 || role == Role::acc;
}

struct Run {
    Buffers arguments, gradients;
};

void watch(Ctx& ctx, const Buffers& buffers, const std::string& prefix) {
    if (!ctx.simt.trace) return;
    for (const auto& [name, memory] : buffers.memory)
        ctx.simt.trace->watch(prefix + name, memory.data(), memory.size());
}

Run run_case(const OpCase& op, Ctx& ctx, Dtype x) {
    Run run{make_arguments(op, ctx, x), {}};
    watch(ctx, run.arguments, "");
    if (ctx.simt.trace) {
        ScratchFrame frame(ctx.scratch); // the op's own frame begins at the same place
        const size_t bytes = 128 << 10;
        ctx.simt.trace->watch("scratch", ctx.scratch.alloc(bytes), bytes);
    }
    op.forward(ctx, run.arguments.views);
    if (op.backward) {
        run.gradients = make_gradients(op, ctx, x);
        watch(ctx, run.gradients, "d");
        op.backward(ctx, run.arguments.views, run.gradients.views);
    }
    return run;
}

} // namespace

std::string check_match(const OpCase& op, Ctx& ctx, Dtype x) {
    Ctx ref(Backend::ref, 2);
    Run want = run_case(op, ref, x), got = run_case(op, ctx, x);
    const bool narrow = x == Dtype::bf16;
    auto compare = [&](const std::string& name, const View& a, const View& b, double tolerance) {
        double error = relative_error(values_of(a), values_of(b));
        if (error <= tolerance) return std::string();
        return format("%s: %s is off by %.3g relative, tolerance %.3g (%s)", op.name.c_str(),
                      name.c_str(), error, tolerance, op.reason.c_str());
    };
    for (const Arg& arg : op.args)
        if (is_output(arg.role)) {
            double tolerance = arg.role == Role::out_i32 ? 0.0
                               : narrow                  ? op.bf16_tolerance
                                                         : op.tolerance;
            auto fault = compare(arg.name, got.arguments.views.at(arg.name),
                                 want.arguments.views.at(arg.name), tolerance);
            if (!fault.empty()) return fault;
        }
    for (auto& [name, mode] : op.inputs) {
        auto fault =
            compare("d" + name, got.gradients.views.at(name), want.gradients.views.at(name),
                    narrow ? op.bf16_tolerance : op.grad_tolerance);
        if (!fault.empty()) return fault;
    }
    return "";
}

// L = sum over outputs of <R, output>, R the output gradients; central differences in double, at
// up to 24 elements of every input.
std::string check_gradient(const OpCase& op) {
    if (!op.backward) return "";
    Ctx ctx(Backend::ref, 2);
    Run run = run_case(op, ctx, Dtype::f32);
    Buffers start = make_gradients(op, ctx, Dtype::f32);
    auto objective = [&](const std::string& name, int64_t element, double step) {
        Buffers arguments = make_arguments(op, ctx, Dtype::f32);
        View& view = arguments.views.at(name);
        int64_t row = view.row_size();
        view.as<double>()[element / row * view.ld + element % row] += step;
        op.forward(ctx, arguments.views);
        double total = 0;
        for (auto& output : op.outputs) {
            auto r = values_of(start.views.at(output));
            auto values = values_of(arguments.views.at(output));
            for (size_t i = 0; i < r.size(); i++) total += r[i] * values[i];
        }
        return total;
    };
    for (auto& [name, mode] : op.inputs) {
        auto got = values_of(run.gradients.views.at(name));
        auto base = values_of(start.views.at(name));
        int64_t count = int64_t(got.size()), checks = std::min<int64_t>(count, 24);
        std::vector<double> analytic, numeric;
        for (int64_t i = 0; i < checks; i++) {
            int64_t element = i * count / checks;
            const double h = 1e-5;
            numeric.push_back((objective(name, element, h) - objective(name, element, -h)) /
                              (2 * h));
            analytic.push_back(got[element] -
                               (mode == GradMode::accumulated ? base[element] : 0.0));
        }
        double scale = 0;
        for (double value : numeric) scale = std::max(scale, std::fabs(value));
        for (size_t i = 0; i < numeric.size(); i++)
            if (!(std::fabs(analytic[i] - numeric[i]) <= op.fd_tolerance * (scale + 1e-3)))
                return format("%s: d%s[%ld] = %.10g, finite difference %.10g", op.name.c_str(),
                              name.c_str(), long(int64_t(i) * count / checks), analytic[i],
                              numeric[i]);
    }
    return "";
}

std::string check_guard(const OpCase& op, Ctx& ctx, Dtype x) {
    const std::string who = op.name + " (" + backend_name(ctx.backend) + ")";
    Run run = run_case(op, ctx, x);
    for (const Arg& arg : op.args) {
        const char* name = arg.name.c_str();
        if (!is_output(arg.role) && !run.arguments.unchanged(arg.name))
            return format("%s: input %s was changed", who.c_str(), name);
        if (!run.arguments.sentinels_intact(arg.name))
            return format("%s: wrote outside %s", who.c_str(), name);
        if (is_output(arg.role))
            for (double value : values_of(run.arguments.views.at(arg.name)))
                if (std::isnan(value) || value == -77777.0)
                    return format("%s: %s has elements never written or NaN", who.c_str(), name);
    }
    for (auto& output : op.outputs)
        if (!run.gradients.unchanged(output) && !op.inputs.count(output))
            return format("%s: d%s was changed", who.c_str(), output.c_str());
    for (auto& [name, mode] : op.inputs) {
        if (!run.gradients.sentinels_intact(name))
            return format("%s: wrote outside d%s", who.c_str(), name.c_str());
        for (double value : values_of(run.gradients.views.at(name)))
            if (std::isnan(value))
                return format("%s: d%s has elements never written or NaN", who.c_str(),
                              name.c_str());
    }
    return "";
}

std::string check_dtypes(const OpCase& op) {
    Ctx ctx(Backend::simt, 1);
    ctx.simt.defer = true; // nothing but contracts runs
    Buffers arguments = make_arguments(op, ctx, Dtype::f32), gradients;
    if (op.backward) gradients = make_gradients(op, ctx, Dtype::f32);
    auto stops = [&] { // in a process of its own
        const pid_t child = ::fork();
        if (child == 0) {
            std::signal(SIGABRT, SIG_DFL); // not the test runner's report
            if (!std::freopen("/dev/null", "w", stderr)) ::_exit(1);
            op.forward(ctx, arguments.views);
            if (op.backward) op.backward(ctx, arguments.views, gradients.views);
            ::_exit(0);
        }
        int status = 0;
        ::waitpid(child, &status, 0);
        return WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT;
    };
    if (stops()) return op.name + ": stops though nothing is wrong";
    for (Views* views : {&arguments.views, &gradients.views})
        for (auto& [name, view] : *views) {
            const Dtype right = std::exchange(view.dtype, Dtype::f16);
            const bool stopped = stops();
            view.dtype = right;
            if (!stopped)
                return format("%s: takes %s%s of any dtype", op.name.c_str(),
                              views == &gradients.views ? "d" : "", name.c_str());
        }
    return "";
}

std::string check_equal(const OpCase& op, Ctx& one, Ctx& other, Dtype x) {
    Run first = run_case(op, one, x), again = run_case(op, other, x);
    auto same = [](const View& a, const View& b) {
        const auto x = values_of(a), y = values_of(b);
        return std::memcmp(x.data(), y.data(), x.size() * sizeof(double)) == 0;
    };
    for (const Arg& arg : op.args)
        if (is_output(arg.role) &&
            !same(first.arguments.views.at(arg.name), again.arguments.views.at(arg.name)))
            return format("%s: %s differs between two runs", op.name.c_str(), arg.name.c_str());
    for (auto& [name, mode] : op.inputs)
        if (!same(first.gradients.views.at(name), again.gradients.views.at(name)))
            return format("%s: d%s differs between two runs", op.name.c_str(), name.c_str());
    return "";
}

std::string check_races(const OpCase& op, Ctx& ctx, Dtype x) {
    const simt::runtime::Trace& trace = *ctx.simt.trace;
    run_case(op, ctx, x);
    if (trace.races() == 0) return "";
    return format("%s: %ld races: %s", op.name.c_str(), long(trace.races()),
                  trace.first_race().c_str());
}

Timing time_case(const OpCase& op, int threads, int repeats) {
    using Clock = std::chrono::steady_clock;
    Ctx ctx(Backend::cpu, threads);
    Buffers arguments = make_arguments(op, ctx, ctx.dtype()), gradients;
    if (op.backward) gradients = make_gradients(op, ctx, ctx.dtype());
    std::vector<char> flush(64 << 20); // larger than the last-level cache
    std::vector<double> forward, backward;
    for (int i = 0; i < repeats + 2; i++) {
        std::memset(flush.data(), i, flush.size());
        auto t0 = Clock::now();
        op.forward(ctx, arguments.views);
        auto t1 = Clock::now();
        if (op.backward) op.backward(ctx, arguments.views, gradients.views);
        auto t2 = Clock::now();
        if (i < 2) continue; // warm-up
        forward.push_back(std::chrono::duration<double, std::milli>(t1 - t0).count());
        backward.push_back(std::chrono::duration<double, std::milli>(t2 - t1).count());
    }
    auto median = [](std::vector<double> values) {
        std::nth_element(values.begin(), values.begin() + values.size() / 2, values.end());
        return values[values.size() / 2];
    };
    return {median(forward), op.backward ? median(backward) : 0.0};
}
