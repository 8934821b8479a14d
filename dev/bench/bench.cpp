// ./bench [FILTER] [THREADS]: times every benchmark shape of the op cases (test/cases/), medians of
// 15 runs: ./bench loss, ./bench "attention" 1.
#include "test/op_case.h"

#include "llmc/core/error.h"

#include <cstdio>
#include <cstdlib>

static int bench_main(int argc, char** argv) {
    const std::string filter = argc > 1 ? argv[1] : "";
    const int threads = argc > 2 ? std::atoi(argv[2]) : 0;
    std::printf("%-48s %10s %10s %10s %10s\n", "op", "fwd ms", "bwd ms", "GB/s", "GFLOP/s");
    for (const OpCase& op : all_op_cases()) {
        if (!op.perf || op.name.find(filter) == std::string::npos) continue;
        const Timing t = time_case(op, threads, 15);
        std::printf("%-48s %10.3f %10.3f %10.1f %10.1f\n", op.name.c_str(), t.forward_ms,
                    t.backward_ms, op.bytes / t.forward_ms / 1e6, op.flops / t.forward_ms / 1e6);
    }
    return 0;
}

int main(int argc, char** argv) { return run_main(bench_main, argc, argv); }
