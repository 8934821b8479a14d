// Exact counts and the race detector, for launches with options.trace set. Every load and store
// must report here: kernels are compiled with -fsanitize=thread, whose callbacks are ours
// (callbacks.cpp), and the wide accesses of device.h report themselves.
//
//   Traffic    a warp's accesses are grouped by source place and by how often the lane has been
//              there since the warp last met; a group is a request. Sectors are its distinct
//              32-byte pieces. Wavefronts are the passes over the 32 banks; ideal = no conflicts.
//   mma        instructions of a warp.
//   Races      two accesses to one 2-byte cell, one of them a store, not both atomic, by threads
//              that no barrier, cluster barrier or full __syncwarp orders. Shuffles order nothing.
//              Exact for the executed path and input.
#pragma once
#include "llmc/device/simt/scheduler.h"

#include <string>
#include <unordered_map>
#include <vector>

namespace simt::runtime {

struct Traffic {
    int64_t requests = 0, sectors = 0, bytes = 0;
};
struct SharedTraffic {
    int64_t requests = 0, wavefronts = 0, ideal = 0;
};

// Device memory a launch may touch; what is not watched counts as the thread's own.
struct Watched {
    std::string name;
    char* begin;
    size_t bytes;
    Traffic load, store;
    int64_t sectors_read = 0, sectors_written = 0; // distinct ones: what memory must move at least
};

class Trace {
  public:
    void watch(const std::string& name, const void* begin, size_t bytes);
    const Watched& watched(const std::string& name) const;
    const std::vector<Watched>& watched() const { return watched_; }
    const SharedTraffic& shared() const { return shared_; }
    int64_t remote_bytes() const { return remote_bytes_; } // shared memory of other blocks
    int64_t mma() const { return mma_; }
    int64_t races() const { return races_; }
    const std::string& first_race() const { return first_race_; }

    // Of the runtime:
    void begin_launch(const Grid& grid);
    void begin_cluster(Scheduler& s, int64_t number);
    void thread_done(Scheduler& s);
    void warp_operation(Scheduler& s, unsigned lanes, bool sync);
    void barrier(Scheduler& s, int id);
    void arrive(Scheduler& s, int id);
    void access(Scheduler& s, const void* pointer, size_t bytes, Access access, const void* place);
    void mma(int64_t count) { mma_ += count; }
    void copied(Scheduler& s, void* shared, const void* global, size_t bytes, const void* place);

  private:
    struct Stamp { // who touched a cell, and when
        uint32_t cluster = 0, clock = 0, sync = 0, arrived = 0;
        uint16_t warp = 0;
    };
    struct Reader {
        Stamp stamp;
        unsigned lanes = 0;
    };
    struct Cell {
        Stamp write;
        int8_t lane = -1; // of the writer; -1: never written
        bool atomic = false;
        int32_t more = -1; // index of further readers
        Reader reader;
    };
    struct Record {
        uint32_t place, bytes;
        uint64_t address; // of shared memory: in the cluster's, from its first byte
    };
    struct Request {
        unsigned lanes = 0;
        uint32_t bytes = 0;
        uint64_t address[kWarpSize];
    };
    struct Place {
        int region; // index of a watched buffer, or -1: shared memory
        Access access;
        std::vector<Request> requests;
        size_t used = 0;
    };
    struct Location {
        int region; // as in Place; -2: not traced
        int rank;   // of the block whose shared memory it is
        Cell* cell;
    };

    Location locate(Scheduler& s, const char* pointer);
    Stamp stamp(Scheduler& s) const;
    bool ordered(Scheduler& s, const Stamp& before) const;
    void check(Scheduler& s, const Location& at, const void* pointer, size_t bytes, Access access);
    void race(Scheduler& s, const char* what, const void* pointer, const Stamp& other, int lane);
    void read_cell(Cell& cell, const Stamp& now, unsigned lane_bit);
    void count_distinct(Watched& w, const char* pointer, size_t bytes, bool store);
    void flush(int warp);
    void count(const Place& place, const Request& request);

    std::vector<Watched> watched_;
    std::vector<std::vector<Cell>> global_cells_;
    std::vector<std::vector<uint8_t>> touched_; // per sector: 1 read, 2 written
    std::vector<Cell> shared_cells_;            // of all blocks of the cluster
    std::vector<std::vector<Reader>> more_readers_;
    std::vector<std::vector<Record>> logs_;      // per thread
    std::vector<std::vector<uint32_t>> seen_;    // per block warp: clocks it has acquired
    std::vector<uint32_t> clock_, sync_;         // per warp
    std::vector<std::vector<uint32_t>> pending_; // per block and barrier: clocks of arrivals
    std::vector<Place> places_;
    std::unordered_map<uint64_t, uint32_t> place_of_;
    uint32_t cluster_ = 0, first_cluster_ = 1; // serial numbers: of now, of the launch
    std::vector<int64_t> cluster_number_;      // serial - first -> number in the grid
    SharedTraffic shared_;
    int64_t remote_bytes_ = 0, mma_ = 0, races_ = 0;
    std::string first_race_;
    std::string kernel_;
};

} // namespace simt::runtime
