// The samples of an evaluation on disk, so that none is drawn twice.
//
//   PATH            the finished evaluation: the settings, then one line per sample in order
//   PATH.part<R>    what rank R has appended so far; a torn last line is cut off
//
// Any number of ranks continues what any number began. The final file does not depend on where and
// how often it was interrupted.
#pragma once
#include "llmc/core/json.h"
#include "llmc/device/comm.h"

#include <map>

class SampleLog {
  public:
    using Place = std::pair<int64_t, int64_t>; // problem, sample

    // Reads what is there; fatal() if it was made with other `settings` (an object). With path ""
    // lines are kept in memory only.
    SampleLog(Comm& comm, const std::string& path, const Json& settings);
    ~SampleLog();
    SampleLog(const SampleLog&) = delete;

    bool has(const Place& place) const { return lines_.count(place) > 0; }
    size_t size() const { return lines_.size(); }
    // Line with "problem" and "sample"; on disk, but for the last of the file system's own delay,
    // when this returns.
    void append(const Json& line);
    // Lines of all ranks by place. The root writes PATH and removes the parts.
    const std::map<Place, Json>& finish();

  private:
    void read(const std::string& path);
    Comm& comm_;
    const std::string path_, header_;
    int fd_ = -1;
    std::map<Place, Json> lines_;
};
