// Contract: fault.h.
#include "llmc/core/fault.h"

#include "llmc/core/error.h"

#include <csignal>
#include <cstdlib>

namespace {

struct Order {
    std::string point;
    long left = 0; // passings until it happens
    int signal = 0;
};

Order read_order() {
    const char* text = std::getenv("PRIOR_FAULT");
    if (!text) return {};
    const std::string order = text;
    const size_t first = order.find(':'), second = order.rfind(':');
    Order out;
    if (first != second) {
        const std::string name = order.substr(second + 1);
        out.point = order.substr(0, first);
        out.left = std::atol(order.c_str() + first + 1);
        out.signal = name == "KILL" ? SIGKILL : name == "TERM" ? SIGTERM : SIGSTOP;
        if (name != "KILL" && name != "TERM" && name != "STOP") out.left = 0;
    }
    if (out.left < 1)
        usage_error("PRIOR_FAULT=" + order + ": expected POINT:N:KILL, TERM or STOP",
                    "it is for tests: llmc/core/fault.h");
    return out;
}

} // namespace

void fault_point(const std::string& name) {
    static Order order = read_order();
    if (order.left > 0 && name == order.point && --order.left == 0) std::raise(order.signal);
}
