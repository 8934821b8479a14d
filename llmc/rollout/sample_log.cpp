// Contract: sample_log.h.
#include "llmc/rollout/sample_log.h"

#include "llmc/core/error.h"
#include "llmc/core/file.h"
#include "llmc/core/recipe.h"

#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <unistd.h>
#include <utility>

namespace {

SampleLog::Place place_of(const Json& line) {
    return {line.at("problem").get<int64_t>(), line.at("sample").get<int64_t>()};
}

std::vector<std::string> part_files(const std::string& path) {
    const size_t slash = path.rfind('/');
    const std::string folder = slash == std::string::npos ? "." : path.substr(0, slash);
    const std::string prefix = path.substr(slash == std::string::npos ? 0 : slash + 1) + ".part";
    std::vector<std::string> files;
    for (const std::string& name : list_directory(folder))
        if (name.rfind(prefix, 0) == 0) files.push_back(folder + "/" + name);
    return files;
}

// The bytes up to the last line end: what follows was torn by the interruption.
size_t whole_lines(const std::string& text) { return text.rfind('\n') + 1; }

} // namespace

SampleLog::SampleLog(Comm& comm, const std::string& path, const Json& settings, Others others)
    : comm_(comm), path_(path), header_(json_line({{"settings", settings}})) {
    if (path_.empty()) return;
    if (comm.root()) prepare_output(path);
    comm.barrier();
    std::vector<std::string> files = part_files(path_);
    if (path_exists(path_)) files.push_back(path_);
    std::erase_if(files, [&](const std::string& file) { return read(file, others); });
    comm.barrier(); // nobody writes while another reads
    if (comm.root())
        for (const std::string& file : files) remove_all(file);
    comm.barrier();
    const std::string own = format("%s.part%d", path_.c_str(), comm.rank());
    fd_ = ::open(own.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    const size_t whole = fd_ < 0 ? 0 : whole_lines(read_file(own));
    if (fd_ < 0 || ::ftruncate(fd_, off_t(whole)) != 0 ||
        (whole == 0 && ::write(fd_, header_.data(), header_.size()) != ssize_t(header_.size())))
        fatal("cannot write " + own + ": " + std::strerror(errno), "check the folder and the disk");
}

SampleLog::~SampleLog() {
    if (fd_ >= 0) ::close(fd_);
}

bool SampleLog::read(const std::string& path, Others others) {
    std::string text = read_file(path);
    text.resize(whole_lines(text));
    int number = 0;
    for (const std::string& line : split_text(text, '\n')) {
        number++;
        if (line.empty()) continue;
        if (number == 1) {
            if (line + "\n" == header_) continue;
            if (others == Others::refused)
                fatal(path + " has samples of other settings: there " + line + ", now " + header_,
                      "remove the file, or write to another with -out");
            return false;
        }
        const Json json = json_parse(line, format("%s:%d", path.c_str(), number));
        lines_.emplace(place_of(json), line + "\n");
    }
    return true;
}

void SampleLog::append(const Json& line) {
    // What counts is what a resumed run reads back: bytes that are not UTF-8 are replaced in both.
    const std::string text = json_line(line);
    lines_.emplace(place_of(line), text);
    if (comm_.size() > 1) unshared_ += text;
    for (size_t done = 0; fd_ >= 0 && done < text.size();) {
        const ssize_t n = ::write(fd_, text.data() + done, text.size() - done);
        if (n < 0 && errno != EINTR)
            fatal("cannot write " + path_ + ": " + std::strerror(errno),
                  "free some space; the same command continues with the samples there are");
        if (n > 0) done += size_t(n);
    }
}

void SampleLog::share() {
    if (comm_.size() == 1) return;
    for (const std::string& lines : comm_.gather(std::exchange(unshared_, "")))
        for (const std::string& line : split_text(lines, '\n'))
            if (!line.empty()) lines_.emplace(place_of(Json::parse(line)), line + "\n");
}

void SampleLog::finish() {
    share();
    if (path_.empty() || !comm_.root()) return;
    write_file_atomic(path_, [&](FileWriter& file) {
        file.write(header_.data(), header_.size());
        for (const auto& [place, line] : lines_) file.write(line.data(), line.size());
    });
    for (const std::string& part : part_files(path_)) remove_all(part);
}
