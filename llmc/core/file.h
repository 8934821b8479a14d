// Files: whole reads, memory maps, atomic writes, checksums. Every failure is fatal() with the
// path.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

bool path_exists(const std::string& path);
bool is_directory(const std::string& path);
void make_directories(const std::string& path);
std::vector<std::string> list_directory(const std::string& path); // names, sorted bytewise
uint64_t file_size(const std::string& path);

std::string read_file(const std::string& path);  // or a pipe: <(zcat FILE), /dev/stdin
std::string read_input(const std::string& path); // the same, and "-" = standard input
// Writes to PATH.tmp, fsyncs, renames over PATH and fsyncs the folder: a reader or a crash sees the
// old content or the new one, never a mixture.
void write_file_atomic(const std::string& path, const std::string& content);
// Before the work that a file will hold: makes its folder; fatal() if that cannot be written into,
// or if the path is no file that may be replaced, such as /dev/stdout.
void prepare_output(const std::string& path);
void fsync_directory(const std::string& path);
void remove_all(const std::string& path);

// A file that is written in pieces, then made durable; hashes what passes through it.
class FileWriter {
  public:
    explicit FileWriter(const std::string& path); // truncates
    ~FileWriter();
    FileWriter(const FileWriter&) = delete;
    void write(const void* data, size_t bytes);
    uint64_t finish(); // fsync and close; returns hash64 of everything written
  private:
    std::string path_;
    int fd_;
    void* hash_state_;
};

// The same as above for what is not in memory in one piece.
void write_file_atomic(const std::string& path, const std::function<void(FileWriter&)>& write);

// A read-only memory map, of what the file was when it was opened.
class MappedFile {
  public:
    explicit MappedFile(const std::string& path);
    ~MappedFile();
    MappedFile(const MappedFile&) = delete;
    const uint8_t* data() const { return data_; }
    size_t size() const { return size_; }
    const std::string& path() const { return path_; }
    // Bytes begin.. without a page of the map: faster where each is wanted once, and where the file
    // was cut or the disk fails since, fatal() and not a signal. From any thread.
    void read(void* to, size_t begin, size_t bytes) const;

  private:
    std::string path_;
    int fd_ = -1;
    const uint8_t* data_ = nullptr;
    size_t size_ = 0;
};

uint64_t hash64(const void* data, size_t bytes); // XXH3, 64 bits
std::string hash_text(uint64_t hash);            // 16 hex digits
