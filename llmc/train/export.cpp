// Contract: export.h.
#include "llmc/train/export.h"

#include "llmc/core/error.h"

#include <cstdio>

uint64_t export_checkpoint(const std::string& folder, const Tokenizer& tokenizer,
                           const std::string& out, const WeightFormat& format) {
    std::string target = out;
    while (target.size() > 1 && target.back() == '/') target.pop_back();
    if (path_exists(target) && !(is_directory(target) && list_directory(target).empty()))
        fatal(target + ": is there already", "remove it, or give another -out");
    const ModelConfig config = read_config(folder, tokenizer.vocab_size());
    const ParamTable table(config);
    const WeightFiles files(folder);
    files.check(config, table);
    const std::string temporary = target + ".tmp";
    remove_all(temporary);
    make_directories(temporary);
    write_model_files(temporary, config, table, tokenizer.end_of_text(), format,
                      [&](const Param& param, Dtype* dtype) { return files.values(param, dtype); });
    tokenizer.save(temporary);
    fsync_directory(temporary);
    if (std::rename(temporary.c_str(), target.c_str()) != 0)
        fatal("cannot rename " + temporary + " to " + target, "is the disk full or read-only?");
    return WeightFiles(target).bytes();
}
