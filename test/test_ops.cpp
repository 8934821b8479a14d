// Every op case through every mode (test/op_case.h).
#include "test/catch.h"
#include "test/op_case.h"

static void run_mode(std::string (*mode)(const OpCase&)) {
    for (const OpCase& op : all_op_cases()) {
        if (op.perf) continue;
        INFO(op.name);
        CHECK(mode(op) == "");
    }
}

TEST_CASE("ops: cpu matches the double reference", "[op][cpu]") { run_mode(check_match); }
TEST_CASE("ops: ref gradients equal finite differences", "[op][ref]") { run_mode(check_gradient); }
TEST_CASE("ops: outputs fully written, nothing else touched", "[op]") { run_mode(check_guard); }
TEST_CASE("ops: reruns are bit-equal at 1 and 2 threads", "[op][cpu]") { run_mode(check_repeat); }
