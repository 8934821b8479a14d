// How the lanes of a warp meet in an operation: for the runtime's own files.
#pragma once
#include "llmc/device/simt/scheduler.h"
#include "llmc/device/simt/trace.h"

#include <bit>
#include <cstring>

namespace simt::runtime {

inline bool same_place(Site a, Site b) {
    return a.line == b.line && (a.file == b.file || std::strcmp(a.file, b.file) == 0);
}

// A key for the counts: one address per line.
inline const void* place_of(Site site) { return site.file + site.line; }

template <class Visit> void for_lanes(unsigned lanes, const Visit& visit) {
    for (; lanes; lanes &= lanes - 1) visit(std::countr_zero(lanes));
}

// Enters the operation with `data`; the last lane of `mask` to enter runs complete(data of all
// lanes) and the others continue after it.
template <class Complete>
void warp_operation(unsigned mask, WarpOp op, void* data, Site site, const Complete& complete) {
    Scheduler& s = Scheduler::current();
    Warp& w = s.warp();
    const int lane = s.lane_;
    if (!(mask & s.lane_bit())) fault(site, "lane %d is not in its own mask %08x", lane, mask);
    if (mask & ~w.exist)
        fault(site, "mask %08x names lanes %08x, which the block does not have", mask,
              mask & ~w.exist);
    if (mask & w.done)
        fault(site, "mask %08x names lanes %08x, which have exited", mask, mask & w.done);
    w.site[lane] = site;
    w.mask[lane] = mask;
    w.op[lane] = op;
    w.data[lane] = data;
    w.in_warp |= s.lane_bit();
    if ((w.in_warp & mask) != mask) return s.suspend();
    for_lanes(mask, [&](int other) {
        if (w.mask[other] != mask || w.op[other] != op || !same_place(w.site[other], site))
            s.fail_all("lanes of one mask are in different warp operations:");
    });
    if (s.trace) s.trace->warp_operation(s, mask, op == WarpOp::sync);
    complete(w.data);
    s.wake(s.warp_, mask & ~s.lane_bit());
    w.in_warp &= ~s.lane_bit();
}

} // namespace simt::runtime
