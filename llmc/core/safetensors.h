// safetensors: 8 bytes little-endian header length, JSON header, data. Read by memory map with
// every bound checked; written one tensor at a time. Format: huggingface/safetensors README.
#pragma once
#include "llmc/core/file.h"
#include "llmc/core/view.h"

#include <map>
#include <memory>
#include <string>
#include <vector>

struct TensorEntry {
    std::string name;
    Dtype dtype = Dtype::f32;
    std::vector<int64_t> shape;
    size_t begin = 0, end = 0; // bytes, relative to the start of the data
    int64_t size() const;
};

class SafetensorsFile {
  public:
    explicit SafetensorsFile(const std::string& path); // fatal() names the file and the fault
    const std::vector<TensorEntry>& entries() const { return entries_; }
    const TensorEntry* find(const std::string& name) const;
    const TensorEntry& at(const std::string& name) const; // fatal() if absent
    const uint8_t* data(const TensorEntry& entry) const { return base_ + entry.begin; }
    size_t offset(const TensorEntry& entry) const { // of its first byte in the file
        return size_t(data(entry) - file_.data());
    }
    const MappedFile& file() const { return file_; }
    // Values converted to double (from any float or integer dtype) or to int64 (integer dtypes).
    std::vector<double> read_f64(const std::string& name) const;
    std::vector<int64_t> read_i64(const std::string& name) const;
    const std::string& path() const { return file_.path(); }

  private:
    void parse_header();
    MappedFile file_;
    const uint8_t* base_ = nullptr;
    std::vector<TensorEntry> entries_;
    std::map<std::string, size_t> index_;
};

// Converts `count` stored values to the element type of `out` (f32, f64 or bf16).
void convert_values(const void* in, Dtype in_dtype, void* out, Dtype out_dtype, int64_t count);

// Streams tensors to PATH in the order given: the header first, then append() once per tensor.
class SafetensorsWriter {
  public:
    struct Spec {
        std::string name;
        Dtype dtype;
        std::vector<int64_t> shape;
    };
    SafetensorsWriter(const std::string& path, const std::vector<Spec>& specs);
    void append(const void* data, size_t bytes);
    uint64_t finish(); // fsync; returns the hash64 of the file

  private:
    std::string path_;
    FileWriter file_;
    std::vector<size_t> sizes_;
    size_t next_ = 0;
};
