// Contract: trace.h.
#include "llmc/device/simt/trace.h"

#include "llmc/core/error.h"

#include <algorithm>
#include <bit>
#include <cstring>

namespace simt::runtime {

constexpr size_t kSector = 32, kCell = 2;
constexpr int kShared = -1, kOwn = -2; // regions beside the watched buffers

// ------------------------------------------------------------------------------------------------
// buffers and events

void Trace::watch(const std::string& name, const void* begin, size_t bytes) {
    Watched w;
    w.name = name;
    w.begin = static_cast<char*>(const_cast<void*>(begin));
    w.bytes = bytes;
    watched_.push_back(w);
    global_cells_.emplace_back(bytes / kCell + 2);
    touched_.emplace_back(bytes / kSector + 2);
}

const Watched& Trace::watched(const std::string& name) const {
    for (const Watched& w : watched_)
        if (w.name == name) return w;
    require(false, "trace: nothing watched is called %s", name.c_str());
    return watched_[0];
}

void Trace::begin_launch(const Grid& grid) {
    kernel_ = grid.kernel;
    first_cluster_ = cluster_ + 1;
    cluster_number_.clear();
}

void Trace::begin_cluster(Scheduler& s, int64_t number) {
    cluster_++;
    cluster_number_.push_back(number);
    const size_t warps = s.warps_.size();
    logs_.resize(warps * kWarpSize);
    shared_cells_.resize(size_t(s.grid->cluster) * kSharedStride / kCell);
    seen_.assign(warps, std::vector<uint32_t>(s.warps_per_block, 0));
    clock_.assign(warps, 1);
    sync_.assign(warps, 0);
    pending_.assign(size_t(s.grid->cluster) * kBarriers,
                    std::vector<uint32_t>(s.warps_per_block, 0));
}

void Trace::thread_done(Scheduler& s) {
    if (s.warp().done == s.warp().exist) flush(s.warp_);
}

void Trace::warp_operation(Scheduler& s, unsigned lanes, bool sync) {
    if (lanes != (s.warp().exist & ~s.warp().done)) return; // the other lanes go their own way
    if (sync) sync_[s.warp_]++;
    flush(s.warp_);
}

// Everyone who waits has seen what everyone had done or seen when it arrived.
void Trace::barrier(Scheduler& s, int id) {
    const int first = s.rank() * s.warps_per_block, n = s.warps_per_block;
    std::vector<uint32_t>& all = pending_[size_t(s.rank()) * kBarriers + size_t(id)];
    std::vector<int> waiting;
    for (int w = 0; w < n; w++) {
        const Warp& warp = s.warps_[first + w];
        bool here = false;
        for (int lane = 0; lane < kWarpSize; lane++)
            here |= (warp.at_barrier >> lane & 1) && warp.barrier[lane] == id;
        if (!here) continue;
        waiting.push_back(w);
        flush(first + w);
        for (int v = 0; v < n; v++) all[v] = std::max(all[v], seen_[first + w][v]);
        all[w] = std::max(all[w], clock_[first + w]);
    }
    for (int w : waiting) {
        seen_[first + w] = all;
        clock_[first + w]++;
    }
    std::fill(all.begin(), all.end(), 0u);
}

void Trace::arrive(Scheduler& s, int id) {
    std::vector<uint32_t>& all = pending_[size_t(s.rank()) * kBarriers + size_t(id)];
    const int w = s.warp_ % s.warps_per_block;
    for (int v = 0; v < s.warps_per_block; v++) all[v] = std::max(all[v], seen_[s.warp_][v]);
    all[w] = std::max(all[w], clock_[s.warp_]);
    clock_[s.warp_]++;
}

// ------------------------------------------------------------------------------------------------
// races

Trace::Location Trace::locate(Scheduler& s, const char* pointer) {
    for (size_t i = 0; i < watched_.size(); i++) {
        const size_t offset = size_t(pointer - watched_[i].begin);
        if (offset < watched_[i].bytes) return {int(i), 0, &global_cells_[i][offset / kCell]};
    }
    const size_t offset = size_t(pointer - s.blocks_[0].shared);
    if (offset < kSharedStride * size_t(s.grid->cluster))
        return {kShared, int(offset / kSharedStride), &shared_cells_[offset / kCell]};
    return {kOwn, 0, nullptr};
}

Trace::Stamp Trace::stamp(Scheduler& s) const {
    return {cluster_, clock_[s.warp_], sync_[s.warp_], s.arrived[s.thread()], uint16_t(s.warp_)};
}

// Whether what another thread did at `before` is seen by the running one.
bool Trace::ordered(Scheduler& s, const Stamp& before) const {
    if (before.cluster < first_cluster_) return true; // an earlier launch
    if (before.cluster != cluster_) return false;
    if (before.arrived < s.waited[s.thread()]) return true;
    const int w = before.warp;
    if (w == s.warp_) return before.clock < clock_[w] || before.sync < sync_[w];
    if (s.warps_[w].block != s.rank()) return false;
    return before.clock <= seen_[s.warp_][w % s.warps_per_block];
}

void Trace::race(Scheduler& s, const char* what, const void* pointer, const Stamp& other,
                 int lane) {
    if (races_++ > 0) return;
    const Location at = locate(s, static_cast<const char*>(pointer));
    std::string where;
    if (at.region == kShared)
        where = format("shared memory of block %d of the cluster, byte %ld", at.rank,
                       long(static_cast<const char*>(pointer) - s.blocks_[at.rank].shared));
    else
        where = format("%s, byte %ld", watched_[at.region].name.c_str(),
                       long(static_cast<const char*>(pointer) - watched_[at.region].begin));
    first_race_ = format("kernel %s: %s: %s: cluster %ld warp %d lane %d, then cluster %ld warp %d "
                         "lane %d",
                         kernel_.c_str(), what, where.c_str(),
                         long(cluster_number_[other.cluster - first_cluster_]), int(other.warp),
                         lane, long(cluster_number_.back()), s.warp_, s.lane_);
}

void Trace::read_cell(Cell& cell, const Stamp& now, unsigned lane_bit) {
    auto enter = [&](Reader& reader) {
        const bool same = reader.lanes && reader.stamp.cluster == now.cluster &&
                          reader.stamp.clock == now.clock && reader.stamp.sync == now.sync &&
                          reader.stamp.arrived == now.arrived;
        reader = {now, same ? reader.lanes | lane_bit : lane_bit};
    };
    auto same_warp = [&](const Reader& r) {
        return r.stamp.cluster == now.cluster && r.stamp.warp == now.warp;
    };
    if (!cell.reader.lanes || same_warp(cell.reader)) return enter(cell.reader);
    if (cell.more < 0) {
        cell.more = int32_t(more_readers_.size());
        more_readers_.emplace_back();
    }
    for (Reader& reader : more_readers_[cell.more])
        if (same_warp(reader)) return enter(reader);
    more_readers_[cell.more].push_back({now, lane_bit});
}

void Trace::check(Scheduler& s, const Location& at, const void* pointer, size_t bytes,
                  Access access) {
    const Stamp now = stamp(s);
    const bool store = access != Access::load, atomic = access == Access::atomic;
    for (Cell* cell = at.cell; cell < at.cell + (bytes + kCell - 1) / kCell; cell++) {
        const uint32_t oldest = at.region == kShared ? cluster_ : first_cluster_;
        if (cell->write.cluster < oldest) cell->lane = -1;
        if (cell->reader.stamp.cluster < oldest) cell->reader.lanes = 0, cell->more = -1;
        auto me = [&](const Stamp& other, int lane) {
            return other.cluster == cluster_ && other.warp == s.warp_ && lane == s.lane_;
        };
        if (cell->lane >= 0 && !me(cell->write, cell->lane) && !ordered(s, cell->write) &&
            !(atomic && cell->atomic))
            return race(s, store ? "write after write" : "read after write", pointer, cell->write,
                        cell->lane);
        if (!store) {
            read_cell(*cell, now, s.lane_bit());
            continue;
        }
        auto conflict = [&](const Reader& r) {
            const bool own_warp = r.stamp.cluster == cluster_ && r.stamp.warp == s.warp_;
            const unsigned others = own_warp ? r.lanes & ~s.lane_bit() : r.lanes;
            if (!others || ordered(s, r.stamp)) return false;
            race(s, "write after read", pointer, r.stamp, std::countr_zero(others));
            return true;
        };
        if (cell->reader.lanes && conflict(cell->reader)) return;
        if (cell->more >= 0) {
            for (const Reader& r : more_readers_[cell->more])
                if (conflict(r)) return;
            more_readers_[cell->more].clear();
        }
        cell->reader.lanes = 0;
        cell->write = now;
        cell->lane = int8_t(s.lane_);
        cell->atomic = atomic;
    }
}

// ------------------------------------------------------------------------------------------------
// traffic

void Trace::count_distinct(Watched& w, const char* pointer, size_t bytes, bool store) {
    std::vector<uint8_t>& touched = touched_[size_t(&w - watched_.data())];
    const size_t misalignment = reinterpret_cast<uintptr_t>(w.begin) % kSector;
    const size_t offset = size_t(pointer - w.begin) + misalignment;
    for (size_t sector = offset / kSector; sector <= (offset + bytes - 1) / kSector; sector++) {
        if (store && !(touched[sector] & 2)) w.sectors_written++;
        if (!store && !touched[sector]) w.sectors_read++; // what was written here is in cache
        touched[sector] |= store ? 2 : 1;
    }
}

void Trace::access(Scheduler& s, const void* pointer, size_t bytes, Access access,
                   const void* place) {
    const char* p = static_cast<const char*>(pointer);
    const Location at = locate(s, p);
    if (at.region == kOwn) return;
    check(s, at, pointer, bytes, access);
    if (at.region >= 0) count_distinct(watched_[at.region], p, bytes, access != Access::load);
    else if (at.rank != s.rank()) remote_bytes_ += int64_t(bytes);
    const uint64_t key = (reinterpret_cast<uint64_t>(place) << 2 | uint64_t(access)) * 1000003 +
                         uint64_t(at.region + 2);
    const auto [found, fresh] = place_of_.emplace(key, uint32_t(places_.size()));
    if (fresh) places_.push_back({at.region, access, {}});
    const char* base = at.region == kShared ? s.blocks_[0].shared : nullptr;
    logs_[s.thread()].push_back({found->second, uint32_t(bytes), uint64_t(p - base)});
}

void Trace::copied(Scheduler& s, void* shared, const void* global, size_t bytes,
                   const void* place) {
    access(s, global, bytes, Access::load, place);
    access(s, shared, bytes, Access::store, place);
}

static int64_t sectors_of(const uint64_t* address, unsigned lanes, uint32_t bytes) {
    uint64_t list[2 * kWarpSize];
    int n = 0;
    for (; lanes; lanes &= lanes - 1) {
        const uint64_t a = address[std::countr_zero(lanes)];
        list[n++] = a / kSector;
        if ((a + bytes - 1) / kSector != a / kSector) list[n++] = (a + bytes - 1) / kSector;
    }
    std::sort(list, list + n);
    return std::unique(list, list + n) - list;
}

// 8-byte accesses go in half warps, 16-byte ones in quarters. A pass serves one word per bank.
static int64_t passes_of(const uint64_t* address, unsigned lanes, uint32_t bytes) {
    uint64_t words[4 * kWarpSize];
    int n = 0;
    for (; lanes; lanes &= lanes - 1) {
        const uint64_t a = address[std::countr_zero(lanes)];
        for (uint64_t word = a / 4; word <= (a + bytes - 1) / 4; word++) words[n++] = word;
    }
    std::sort(words, words + n);
    n = int(std::unique(words, words + n) - words);
    int per_bank[32] = {}, most = 0;
    for (int i = 0; i < n; i++) most = std::max(most, ++per_bank[words[i] % 32]);
    return most;
}

void Trace::count(const Place& place, const Request& request) {
    const int64_t bytes = int64_t(std::popcount(request.lanes)) * request.bytes;
    if (place.region >= 0) {
        Watched& w = watched_[place.region];
        Traffic& traffic = place.access == Access::load ? w.load : w.store;
        traffic.requests++;
        traffic.bytes += bytes;
        traffic.sectors += sectors_of(request.address, request.lanes, request.bytes);
        return;
    }
    shared_.requests++;
    const int group = request.bytes <= 4 ? 32 : request.bytes == 8 ? 16 : 8;
    for (int first = 0; first < kWarpSize; first += group) {
        const unsigned lanes = request.lanes & (group == 32 ? ~0u : ((1u << group) - 1) << first);
        for (unsigned left = lanes; left;) { // other blocks' memories have banks of their own
            const uint64_t block = request.address[std::countr_zero(left)] / kSharedStride;
            unsigned same = 0;
            for (unsigned rest = left; rest; rest &= rest - 1)
                if (request.address[std::countr_zero(rest)] / kSharedStride == block)
                    same |= rest & -rest;
            left &= ~same;
            shared_.ideal++;
            shared_.wavefronts += passes_of(request.address, same, request.bytes);
        }
    }
}

void Trace::flush(int warp) {
    std::vector<uint32_t> open;
    for (int lane = 0; lane < kWarpSize; lane++) {
        std::vector<Record>& log = logs_[warp * kWarpSize + lane];
        std::unordered_map<uint32_t, size_t> times;
        for (const Record& record : log) {
            Place& place = places_[record.place];
            const size_t k = times[record.place]++;
            if (k >= place.requests.size()) place.requests.emplace_back();
            if (k >= place.used) {
                if (place.used == 0) open.push_back(record.place);
                place.used = k + 1;
                place.requests[k].lanes = 0;
            }
            Request& request = place.requests[k];
            request.lanes |= 1u << lane;
            request.bytes = record.bytes;
            request.address[lane] = record.address;
        }
        log.clear();
    }
    for (uint32_t index : open) {
        Place& place = places_[index];
        for (size_t k = 0; k < place.used; k++) count(place, place.requests[k]);
        place.used = 0;
    }
}

} // namespace simt::runtime
