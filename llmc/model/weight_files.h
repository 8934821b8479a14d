// Hugging Face directories: config.json, generation_config.json, and model.safetensors or
// model.safetensors.index.json with its shards, per-expert tensor names. Reading maps the files,
// so that the only copy of a weight is the one that is made of it; writing holds one tensor at a
// time.
#pragma once
#include "llmc/core/safetensors.h"
#include "llmc/model/params.h"

#include <functional>
#include <map>

ModelConfig read_config(const std::string& directory);
// The same for a tokenizer of so many tokens: fatal() if the model has fewer.
ModelConfig read_config(const std::string& directory, int tokens);

class WeightFiles {
  public:
    // Opens what is there. fatal() names the file and the fault.
    explicit WeightFiles(const std::string& directory);
    // fatal() unless these are the table's tensors: none missing, none unknown (but for empty ones
    // and the copy of a tied head), in their shapes, of a floating-point dtype.
    void check(const ModelConfig& config, const ParamTable& table) const;
    // A tensor of the table, in the file's dtype; its memory may be unaligned.
    const void* values(const Param& param, Dtype* dtype) const;
    // The same by its place, for MappedFile::read().
    const MappedFile& place(const Param& param, Dtype* dtype, size_t* offset) const;
    uint64_t bytes() const; // of all files

  private:
    struct Place {
        const SafetensorsFile* file;
        const TensorEntry* entry;
    };
    std::string directory_;
    std::vector<std::unique_ptr<SafetensorsFile>> files_;
    std::map<std::string, Place> places_;
};

// How weights are written. Router weights and biases stay F32 in BF16 files: a selection hangs on
// their last bits.
struct WeightFormat {
    Dtype dtype;          // f32 or bf16
    uint64_t shard_bytes; // of tensors in one file, if it has more than one; 0 = one file
};

// Where the values to write come from: memory in any dtype, valid until the next call.
using TensorReader = std::function<const void*(const Param& param, Dtype* dtype)>;

// Writes the directory's files of a model (no tokenizer), each made durable, and returns the hash64
// of every one by its name. The caller makes the directory and its atomicity.
std::map<std::string, uint64_t>
write_model_files(const std::string& directory, const ModelConfig& config, const ParamTable& table,
                  int end_of_text, const WeightFormat& format, const TensorReader& read);
