// The samples of an evaluation, or of a rollout, on disk, so that none is drawn twice.
//
//   PATH            finished: the settings, then one line per sample in order
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

    enum class Others { refused, removed };
    // Reads what is there. Samples of other `settings` (an object) are refused by a fatal(), or
    // removed. With path "" lines are kept in memory only.
    SampleLog(Comm& comm, const std::string& path, const Json& settings, Others others);
    ~SampleLog();
    SampleLog(const SampleLog&) = delete;

    bool has(const Place& place) const { return lines_.count(place) > 0; }
    Json line(const Place& place) const { return Json::parse(lines_.at(place)); }
    size_t size() const { return lines_.size(); }
    const std::string& path() const { return path_; }
    // Line with "problem" and "sample"; on disk, but for the last of the file system's own delay,
    // when this returns.
    void append(const Json& line);
    // Afterwards every rank has the lines of all.
    void share();
    // share(); the root writes PATH and removes the parts.
    void finish();

  private:
    bool read(const std::string& path, Others others); // false: of other settings
    Comm& comm_;
    std::string unshared_; // lines the other ranks do not have
    const std::string path_, header_;
    int fd_ = -1;
    std::map<Place, std::string> lines_; // as in the file: parsed they take four times the memory
};
