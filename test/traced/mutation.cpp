// How well the checkers see: every barrier, and every wait for copies, that the kernels meet on the
// op cases is left out, one source line at a time, and must be found by the race detector, by the
// scheduler or in the results. A barrier whose absence nobody finds is not needed, or not tested.
#include "llmc/device/simt/runtime.h"
#include "llmc/device/simt/trace.h"
#include "test/catch.h"
#include "test/op_case.h"

#include <cstdio>
#include <set>
#include <sys/wait.h>
#include <unistd.h>

namespace {

using simt::runtime::Fault;
using simt::runtime::Omission;
using simt::runtime::Trace;

using Line = std::pair<std::string, int>;

struct Call {
    const OpCase* op;
    int path;
    Dtype x;
};

enum class Finding { nothing, race, fault, result, crash };

// By a child process: without a barrier a kernel may loop or write anywhere.
Finding run_without(const Line& line, const Call& call, uint32_t seed) {
    std::fflush(nullptr);
    const pid_t child = ::fork();
    if (child == 0) {
        ::alarm(20);
        Omission omission{line.first, line.second, {}};
        Trace trace;
        Ctx plain(Backend::simt, 1), ctx(Backend::simt, 1);
        plain.simt.path = ctx.simt.path = call.path;
        ctx.simt.seed = seed;
        ctx.simt.eager_copies = seed % 2 == 1;
        ctx.simt.omission = &omission;
        ctx.simt.trace = &trace;
        Finding finding = Finding::nothing;
        try {
            const bool same = check_equal(*call.op, plain, ctx, call.x).empty();
            if (trace.races() > 0) finding = Finding::race;
            else if (!same) finding = Finding::result;
        } catch (const Fault&) {
            finding = trace.races() > 0 ? Finding::race : Finding::fault;
        }
        ::_exit(int(finding));
    }
    int status = 0;
    ::waitpid(child, &status, 0);
    return WIFEXITED(status) ? Finding(WEXITSTATUS(status)) : Finding::crash;
}

} // namespace

TEST_CASE("mutation: every barrier left out is found", "[traced]") {
    const std::vector<OpCase> ops = all_op_cases();
    std::map<Line, std::vector<Call>> calls;
    for (const OpCase& op : ops)
        for (int path : op.kernel_paths)
            for (Dtype x : {Dtype::f32, Dtype::bf16}) {
                if (op.perf || (x == Dtype::bf16 && op.bf16_tolerance == 0)) continue;
                Omission none;
                Trace trace;
                Ctx ctx(Backend::simt, 1);
                ctx.simt.path = path;
                ctx.simt.omission = &none;
                ctx.simt.trace = &trace;
                check_races(op, ctx, x);
                for (const auto& [line, times] : none.met) calls[line].push_back({&op, path, x});
            }
    int by[5] = {}; // findings
    std::string table;
    for (const auto& [line, where] : calls) {
        Finding finding = Finding::nothing;
        size_t runs = 0;
        for (uint32_t seed = 0; seed < 2 && finding == Finding::nothing; seed++)
            for (size_t i = 0; i < where.size() && finding == Finding::nothing; i++, runs++)
                finding = run_without(line, where[where.size() - 1 - i], seed);
        by[int(finding)]++;
        if (finding == Finding::nothing)
            table += format("%s:%d after %d runs\n", line.first.c_str(), line.second, int(runs));
    }
    const int found = int(calls.size()) - by[0];
    std::printf("mutation: of %d barriers left out %d are found: %d as races, %d as faults, %d in "
                "results, %d as crashes\n",
                int(calls.size()), found, by[int(Finding::race)], by[int(Finding::fault)],
                by[int(Finding::result)], by[int(Finding::crash)]);
    INFO("not found:\n" << table);
    CHECK(found == int(calls.size()));
}
