// How long a checkpoint takes to load against reading its files:
//     build/bench_load FOLDER [BYTES [F32|BF16]]
// Makes FOLDER/DTYPE of a dense model of about BYTES (2e9) where it is not there, then alternates,
// with the files in the page cache and without: read() of every file into one buffer, read() into
// fresh memory, load_weights. Memory that a virtual machine has not used for a second may have
// gone back to its host, and comes again at 1 GB/s: as much as is needed is written and freed
// before each.
#include "llmc/core/error.h"
#include "llmc/core/recipe.h"
#include "llmc/device/parallel.h"
#include "llmc/model/model.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fcntl.h>
#include <functional>
#include <unistd.h>

namespace {

ModelConfig model_of(double bytes, Dtype dtype) {
    ModelConfig c = model_preset("1B"); // its shape, as many blocks as it takes
    c.vocab = 32768;
    c.max_positions = 4096;
    const double block = double(count_parameters(c).non_embedding) / c.layers;
    const double embedding = double(c.vocab) * c.channels;
    c.layers = std::max(1, int((bytes / double(dtype_bytes(dtype)) - embedding) / block + 0.5));
    return c;
}

std::vector<std::string> weight_files(const std::string& folder) {
    std::vector<std::string> paths;
    for (const std::string& name : list_directory(folder))
        if (name.find(".safetensors") != std::string::npos &&
            name.find(".json") == std::string::npos)
            paths.push_back(folder + "/" + name);
    return paths;
}

void drop_from_cache(const std::string& folder) {
    for (const std::string& path : weight_files(folder)) {
        const int fd = ::open(path.c_str(), O_RDONLY);
        ::fsync(fd);
        if (::posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED) != 0) fatal("cannot drop " + path, "");
        ::close(fd);
    }
}

// Everything into `memory`, or into its first bytes again and again where that is less.
void read_files(const std::string& folder, char* memory, size_t room) {
    size_t at = 0;
    for (const std::string& path : weight_files(folder)) {
        const int fd = ::open(path.c_str(), O_RDONLY);
        for (;;) {
            constexpr size_t kPiece = 1 << 20;
            if (at + kPiece > room) at = 0;
            const ssize_t got = ::read(fd, memory + at, kPiece);
            if (got <= 0) break;
            at += size_t(got);
        }
        ::close(fd);
    }
}

double seconds(const std::function<void()>& work) {
    const auto start = std::chrono::steady_clock::now();
    work();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

void touch(size_t bytes) {
    char* memory = static_cast<char*>(Arena::map(bytes));
    parallel_for(int64_t(bytes >> 12), [&](int64_t page) { memory[page << 12] = 1; });
    Arena::unmap(memory, bytes);
}

// One line: FOLDER into a model as ./rollout makes it with -dtype fp32 or bf16.
void measure(Ctx& ctx, const std::string& folder, bool cold) {
    constexpr int kRounds = 5;
    const ModelConfig config = read_config(folder);
    const size_t bytes = WeightFiles(folder).bytes();
    const size_t most = size_t(count_parameters(config).total) * sizeof(float) + (cold ? bytes : 0);
    std::vector<double> again, fresh, load;
    std::vector<char> buffer(1 << 20);
    auto prepare = [&] {
        if (cold) drop_from_cache(folder);
        touch(most);
    };
    for (int round = 0; round < kRounds; round++) {
        prepare();
        again.push_back(seconds([&] { read_files(folder, buffer.data(), buffer.size()); }));
        prepare();
        fresh.push_back(seconds([&] {
            const size_t room = bytes + (2 << 20);
            char* memory = static_cast<char*>(Arena::map(room));
            read_files(folder, memory, room);
            Arena::unmap(memory, room);
        }));
        prepare();
        load.push_back(seconds([&] {
            Model model(ctx, read_config(folder), Masters::none);
            load_weights(model, folder);
        }));
    }
    for (auto* v : {&again, &fresh, &load}) std::sort(v->begin(), v->end());
    const double a = again[kRounds / 2], f = fresh[kRounds / 2], l = load[kRounds / 2];
    std::printf("%s as %s, %s: %.2f GB; read into one buffer %.3f s, into fresh memory %.3f s, "
                "load %.3f s (%.3f to %.3f): %.2f and %.2f of reading\n",
                folder.c_str(), ctx.bf16 ? "bf16" : "fp32",
                cold ? "not in the page cache" : "in the page cache", double(bytes) / 1e9, a, f, l,
                load.front(), load.back(), l / a, l / f);
    std::fflush(stdout);
}

int bench(int argc, char** argv) {
    double bytes = 2e9;
    if (argc < 2 || argc > 4 || (argc > 2 && !parse_real(argv[2], &bytes)))
        usage_error("expected FOLDER [BYTES [F32|BF16]]", "build/bench_load /tmp/load 2e9");
    Ctx ctx(Backend::cpu, 0), half(Backend::cpu, 0, true);
    for (const Dtype dtype : {Dtype::f32, Dtype::bf16}) {
        if (argc == 4 && argv[3] != std::string(dtype_name(dtype))) continue;
        const std::string folder = std::string(argv[1]) + "/" + dtype_name(dtype);
        if (!path_exists(folder + "/config.json")) {
            make_directories(folder);
            Model model(ctx, model_of(bytes, dtype));
            const View flat = model.weights.flat();
            for (int64_t i = 0; i < flat.size(); i++) // not all one page
                const_cast<View&>(flat).as<float>()[i] = float(i % 1021) * 1e-3f - 0.5f;
            save_weights(model, folder, 0, {dtype, 0});
        }
        for (const bool cold : {false, true}) {
            measure(ctx, folder, cold);
            if (dtype == Dtype::bf16) measure(half, folder, cold);
        }
    }
    return 0;
}

} // namespace

int main(int argc, char** argv) { return run_main(bench, argc, argv); }
