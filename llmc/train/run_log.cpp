// Contract: run_log.h.
#include "llmc/train/run_log.h"

#include "llmc/core/error.h"
#include "llmc/core/file.h"

#include <cmath>
#include <cstring>
#include <fcntl.h>
#include <unistd.h>

namespace {

int open_append(const std::string& path) {
    int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (fd < 0) fatal("cannot write " + path + ": " + std::strerror(errno), "check the folder");
    return fd;
}

void append(int fd, const std::string& text, const std::string& path) {
    size_t done = 0;
    while (done < text.size()) {
        ssize_t n = ::write(fd, text.data() + done, text.size() - done);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0)
            fatal("cannot write " + path + ": " + std::strerror(errno),
                  "free some space; the last checkpoint is whole and the same command resumes it");
        done += size_t(n);
    }
}

std::string clock_text(double seconds) {
    const int64_t s = int64_t(seconds + 0.5);
    if (s >= 3600)
        return format("%ld:%02ld:%02ld", long(s / 3600), long(s / 60 % 60), long(s % 60));
    return format("%ld:%02ld", long(s / 60), long(s % 60));
}

std::string rate_text(double tok_per_s) {
    return tok_per_s >= 1e4 ? format("%.1fk tok/s", tok_per_s / 1e3)
                            : format("%.0f tok/s", tok_per_s);
}

} // namespace

RunLog::RunLog(const std::string& run, uint64_t metrics_bytes, int64_t log_every, bool speaks)
    : run_(run), metrics_bytes_(metrics_bytes), log_every_(log_every), speaks_(speaks),
      terminal_(isatty(STDOUT_FILENO)), last_(std::chrono::steady_clock::now()) {
    if (!speaks_) return;
    metrics_fd_ = open_append(run + "/metrics.jsonl");
    log_fd_ = open_append(run + "/log.txt");
    timing_fd_ = open_append(run + "/timing.jsonl");
    if (file_size(run + "/metrics.jsonl") < metrics_bytes)
        fatal(run + "/metrics.jsonl is shorter than the checkpoint remembers",
              "the file was changed by hand; restore it or start under another -name");
    if (::ftruncate(metrics_fd_, off_t(metrics_bytes)) != 0)
        fatal("cannot truncate " + run + "/metrics.jsonl", "check the folder's permissions");
}

RunLog::~RunLog() {
    if (!speaks_) return;
    for (int fd : {metrics_fd_, log_fd_, timing_fd_}) ::close(fd);
}

void RunLog::metrics(const Json& line) {
    if (!speaks_) return;
    const std::string text = line.dump() + "\n";
    append(metrics_fd_, text, run_ + "/metrics.jsonl");
    metrics_bytes_ += text.size();
}

void RunLog::flush_to_disk() {
    if (!speaks_) return;
    if (::fsync(metrics_fd_) != 0) fatal("cannot flush metrics.jsonl", "is the disk full?");
}

void RunLog::start_clock() { last_ = std::chrono::steady_clock::now(); }

void RunLog::end_progress() {
    if (line_open_) std::printf("\n");
    line_open_ = false;
}

void RunLog::say(const std::string& line) {
    if (!speaks_) return;
    end_progress();
    std::printf("%s\n", line.c_str());
    std::fflush(stdout);
    append(log_fd_, line + "\n", run_ + "/log.txt");
}

void RunLog::progress(const std::string& stage, int64_t step, int64_t steps, const Json& m,
                      const Work& work) {
    if (!speaks_) return;
    const auto now = std::chrono::steady_clock::now();
    const double ms = std::chrono::duration<double, std::milli>(now - last_).count();
    last_ = now;
    const double keep = stage == stage_ ? 0.95 : 0;
    stage_ = stage;
    ms_per_step_ = keep * ms_per_step_ + (1 - keep) * ms;
    tok_per_s_ = keep * tok_per_s_ + (1 - keep) * double(work.tokens) / ms * 1e3;
    peak_share_ = keep * peak_share_ + (1 - keep) * work.peak_s / ms * 1e3;
    std::string timing = format("{\"stage\":\"%s\",\"step\":%ld,\"ms\":%.3f,\"tokens\":%ld",
                                stage.c_str(), long(step), ms, long(work.tokens));
    if (work.generate_s > 0)
        timing += format(",\"generate_ms\":%.3f,\"grade_ms\":%.3f,\"train_ms\":%.3f",
                         1e3 * (work.generate_s - work.grade_s), 1e3 * work.grade_s,
                         ms - 1e3 * work.generate_s);
    append(timing_fd_, timing + "}\n", run_ + "/timing.jsonl");
    std::string line = format("%-8s %*ld/%ld", stage.c_str(), int(std::to_string(steps).size()),
                              long(step), long(steps));
    if (m.contains("reward"))
        line += format("  reward %.3f  length %.1f", m["reward"].get<double>(),
                       m["length"].get<double>());
    else line += format("  loss %.4f  ppl %.4g", m["loss"].get<double>(), m["ppl"].get<double>());
    const bool trained = m.contains("entropy"); // else no group was kept
    line += trained ? format("  entropy %.4f  |g| %.3f", m["entropy"].get<double>(),
                             m["grad_norm"].is_number() ? m["grad_norm"].get<double>() : NAN)
                    : "  nothing to learn from";
    if (m.contains("max_abs_dlogp"))
        line += format("  max |dlogp| %.2g", m["max_abs_dlogp"].get<double>());
    line += format("  lr %.2e  %s  %.0f%% of peak  ETA %s", m["lr"].get<double>(),
                   rate_text(tok_per_s_).c_str(), 100 * peak_share_,
                   clock_text(double(steps - step) * ms_per_step_ / 1e3).c_str());
    const bool keep_line = step % log_every_ == 0 || step == steps;
    if (keep_line) append(log_fd_, line + "\n", run_ + "/log.txt");
    if (terminal_) {
        std::printf("\r\033[K%s", line.c_str());
        line_open_ = true;
    } else if (keep_line) {
        std::printf("%s\n", line.c_str());
    }
    std::fflush(stdout);
}
