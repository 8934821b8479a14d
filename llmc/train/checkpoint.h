// Checkpoints of a run: RUN/ckpt/step_NNNNNNNN, a Hugging Face folder plus our own state.
//
//   config.json  model.safetensors  tokenizer.json   what every tool of that ecosystem opens
//   generation_config.json  tokenizer_config.json
//   optimizer.rank<R>.safetensors                    rank R's part of Adam's moments, under the
//                                                    tensors' names
//   state.json                                       the rest, with the checksums; written last
//
// A folder is built under a temporary name, made durable file by file, then renamed: it is there
// whole or not at all. A folder that was damaged later is seen by its checksums and passed over.
// All ranks call save and load together; any number of ranks loads what any number saved.
#pragma once
#include "llmc/core/json.h"
#include "llmc/data/tokenizer.h"
#include "llmc/model/model.h"
#include "llmc/train/optimizer.h"

struct CheckpointParts {
    Model& model;
    Optimizer& optimizer;
    const Tokenizer& tokenizer;
    Comm& comm;
};

// Writes RUN/ckpt/step_<step> with `state` (any object; checksums are added), then removes all but
// the newest `keep` of those whose state has no "stage_end": true.
void save_checkpoint(const std::string& run, int64_t step, const Json& state,
                     const CheckpointParts& parts, int keep);

// Folder of the newest whole checkpoint of a run, "" if there is none. Damaged ones are passed over
// and named in *warnings.
std::string newest_checkpoint(const std::string& run, std::vector<std::string>* warnings);

// A folder named by its user: fatal() if a file that loading reads differs from the checksum that
// state.json has of it. Folders of other programs have no state.json.
void check_sums(const std::string& folder);

// Loads it into `parts` and returns its state; null if there is none. fatal() if it was made with
// another tokenizer.
Json load_checkpoint(const std::string& run, const CheckpointParts& parts,
                     std::vector<std::string>* warnings);
