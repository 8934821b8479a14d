#include "llmc/core/file.h"

#include "llmc/core/error.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <filesystem>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <xxhash.h>

namespace fs = std::filesystem;

namespace {
[[noreturn]] void io_error(const char* what, const std::string& path) {
    int code = errno;
    const char* hint = code == ENOSPC || code == EDQUOT || code == EFBIG
                           ? "free some space or choose another folder; what was complete "
                             "before is untouched"
                       : code == ENOENT  ? "check the path"
                       : code == ENOTDIR ? "a part of the path is a file; check the path"
                       : code == EISDIR  ? "give a file in it"
                       : code == EACCES || code == EPERM ? "check the permissions"
                       : code == EROFS ? "this file system is read-only; choose another folder"
                                       : "check the path and the disk";
    fatal(format("%s %s: %s", what, path.c_str(), std::strerror(code)), hint);
}

std::string read_to_end(int fd, const std::string& name) {
    std::string content;
    for (char buffer[1 << 16];;) {
        const ssize_t got = ::read(fd, buffer, sizeof buffer);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) io_error("cannot read", name);
        if (got == 0) return content;
        content.append(buffer, size_t(got));
    }
}
} // namespace

bool path_exists(const std::string& path) {
    struct stat info;
    return stat(path.c_str(), &info) == 0;
}

bool is_directory(const std::string& path) {
    struct stat info;
    return stat(path.c_str(), &info) == 0 && S_ISDIR(info.st_mode);
}

void make_directories(const std::string& path) {
    std::error_code error;
    fs::create_directories(path, error);
    if (error && !is_directory(path)) {
        errno = error.value();
        io_error("cannot create folder", path);
    }
}

std::vector<std::string> list_directory(const std::string& path) {
    std::error_code error;
    std::vector<std::string> names;
    for (fs::directory_iterator it(path, error), end; !error && it != end; it.increment(error))
        names.push_back(it->path().filename().string());
    if (error) {
        errno = error.value();
        io_error("cannot list folder", path);
    }
    std::sort(names.begin(), names.end());
    return names;
}

uint64_t file_size(const std::string& path) {
    struct stat info;
    if (stat(path.c_str(), &info) != 0) io_error("cannot read", path);
    return uint64_t(info.st_size);
}

std::string read_file(const std::string& path) {
    struct stat info;
    if (stat(path.c_str(), &info) == 0 && !S_ISREG(info.st_mode) && !S_ISDIR(info.st_mode)) {
        const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
        if (fd < 0) io_error("cannot read", path);
        const std::string content = read_to_end(fd, path);
        close(fd);
        return content;
    }
    MappedFile file(path);
    return std::string(reinterpret_cast<const char*>(file.data()), file.size());
}

std::string read_input(const std::string& path) {
    return path == "-" ? read_to_end(STDIN_FILENO, "standard input") : read_file(path);
}

void fsync_directory(const std::string& path) {
    int fd = open(path.empty() ? "." : path.c_str(), O_RDONLY | O_DIRECTORY);
    if (fd < 0) io_error("cannot open folder", path);
    int failed = fsync(fd);
    close(fd);
    if (failed) io_error("cannot fsync folder", path);
}

void prepare_output(const std::string& path) {
    const std::string parent = fs::path(path).parent_path().string();
    const std::string folder = parent.empty() ? "." : parent;
    make_directories(folder);
    struct stat info;
    if (stat(path.c_str(), &info) == 0 && !S_ISREG(info.st_mode))
        fatal("cannot write " + path + ": expected a file's name, found a folder or a device",
              "name a file; what is printed without one goes to standard output");
    if (access(folder.c_str(), W_OK) != 0) io_error("cannot write into folder", folder);
}

void write_file_atomic(const std::string& path, const std::string& content) {
    write_file_atomic(path, [&](FileWriter& file) { file.write(content.data(), content.size()); });
}

void write_file_atomic(const std::string& path, const std::function<void(FileWriter&)>& write) {
    std::string temporary = path + ".tmp";
    FileWriter writer(temporary);
    write(writer);
    writer.finish();
    if (rename(temporary.c_str(), path.c_str()) != 0) io_error("cannot rename to", path);
    fsync_directory(fs::path(path).parent_path().string());
}

void remove_all(const std::string& path) {
    std::error_code error;
    fs::remove_all(path, error);
    if (error) {
        errno = error.value();
        io_error("cannot remove", path);
    }
}

FileWriter::FileWriter(const std::string& path) : path_(path) {
    fd_ = open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd_ < 0) io_error("cannot write", path);
    hash_state_ = XXH3_createState();
    XXH3_64bits_reset(static_cast<XXH3_state_t*>(hash_state_));
}

FileWriter::~FileWriter() {
    if (fd_ >= 0) close(fd_);
    XXH3_freeState(static_cast<XXH3_state_t*>(hash_state_));
}

void FileWriter::write(const void* data, size_t bytes) {
    XXH3_64bits_update(static_cast<XXH3_state_t*>(hash_state_), data, bytes);
    const char* next = static_cast<const char*>(data);
    while (bytes > 0) {
        ssize_t written = ::write(fd_, next, std::min(bytes, size_t(1) << 30));
        if (written < 0 && errno == EINTR) continue;
        if (written < 0) io_error("cannot write", path_);
        next += written;
        bytes -= size_t(written);
    }
}

uint64_t FileWriter::finish() {
    if (fsync(fd_) != 0) io_error("cannot fsync", path_);
    int failed = close(fd_);
    fd_ = -1;
    if (failed) io_error("cannot close", path_);
    return XXH3_64bits_digest(static_cast<XXH3_state_t*>(hash_state_));
}

MappedFile::MappedFile(const std::string& path)
    : path_(path), fd_(open(path.c_str(), O_RDONLY | O_CLOEXEC)) {
    if (fd_ < 0) io_error("cannot read", path);
    auto fail = [&](const char* what) {
        const int code = errno;
        close(fd_);
        errno = code;
        io_error(what, path);
    };
    struct stat info;
    if (fstat(fd_, &info) != 0) fail("cannot read");
    if (S_ISDIR(info.st_mode)) {
        errno = EISDIR;
        fail("cannot read");
    }
    size_ = size_t(info.st_size);
    if (size_ == 0) return;
    void* address = mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, fd_, 0);
    if (address == MAP_FAILED) fail("cannot map");
    data_ = static_cast<const uint8_t*>(address);
}

MappedFile::~MappedFile() {
    if (data_) munmap(const_cast<uint8_t*>(data_), size_);
    close(fd_);
}

void MappedFile::read(void* to, size_t begin, size_t bytes) const {
    require(begin + bytes <= size_, "MappedFile::read: bytes %zu to %zu of %zu", begin,
            begin + bytes, size_);
    char* next = static_cast<char*>(to);
    while (bytes > 0) {
        const ssize_t got = ::pread(fd_, next, bytes, off_t(begin));
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) io_error("cannot read", format("%s at byte %zu", path_.c_str(), begin));
        if (got == 0)
            fatal(format("%s ends at byte %zu, it had %zu bytes when it was opened", path_.c_str(),
                         begin, size_),
                  "something writes to it; wait for that, or fetch it again");
        next += got;
        begin += size_t(got);
        bytes -= size_t(got);
    }
}

uint64_t hash64(const void* data, size_t bytes) { return XXH3_64bits(data, bytes); }

std::string hash_text(uint64_t hash) { return format("%016llx", (unsigned long long)hash); }
