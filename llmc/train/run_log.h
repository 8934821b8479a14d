// What a run says: metrics.jsonl, log.txt and the live line.
//
// metrics.jsonl holds only what the run computes, no clock: two runs of one recipe write equal
// bytes, and a resumed run continues it from the offset in the checkpoint. Times go to
// timing.jsonl and log.txt.
#pragma once
#include "llmc/core/json.h"

#include <chrono>
#include <string>

class RunLog {
  public:
    // Opens RUN/metrics.jsonl cut to `metrics_bytes` (what the checkpoint had seen). One that does
    // not speak (ranks other than the root) neither opens nor prints anything.
    RunLog(const std::string& run, uint64_t metrics_bytes, int64_t log_every, bool speaks);
    ~RunLog();
    RunLog(const RunLog&) = delete;

    void metrics(const Json& line); // appended, flushed
    uint64_t metrics_bytes() const { return metrics_bytes_; }
    void flush_to_disk(); // before a checkpoint refers to the offset

    void say(const std::string& line); // terminal and log.txt
    // The live line: rewritten in place on a terminal, else one line every log_every steps.
    struct Work {
        int64_t tokens;
        double peak_s;              // what the step's products would take at the GEMM peak
        double generate_s, grade_s; // of rollouts, 0 elsewhere
    };
    void progress(const std::string& stage, int64_t step, int64_t steps, const Json& metrics,
                  const Work& work);
    void end_progress();
    void start_clock(); // the next step is timed from here

  private:
    std::string run_;
    int metrics_fd_ = -1, log_fd_ = -1, timing_fd_ = -1;
    uint64_t metrics_bytes_;
    int64_t log_every_;
    bool speaks_, terminal_, line_open_ = false;
    std::string stage_;
    std::chrono::steady_clock::time_point last_;
    double ms_per_step_ = 0, tok_per_s_ = 0, peak_share_ = 0; // smoothed
};
