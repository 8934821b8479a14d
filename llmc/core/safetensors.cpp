#include "llmc/core/safetensors.h"

#include "llmc/core/json.h"

#include <algorithm>
#include <cstring>

namespace {
constexpr uint64_t kMaxHeaderBytes = 100'000'000; // the limit of the reference implementation

[[noreturn]] void bad(const std::string& path, const std::string& fault) {
    fatal("safetensors: " + path + ": " + fault,
          "the file is truncated, damaged or of another kind; fetch or write it again");
}

Dtype parse_dtype(const std::string& path, const std::string& tensor, const std::string& text) {
    for (Dtype dtype :
         {Dtype::f64, Dtype::f32, Dtype::bf16, Dtype::f16, Dtype::i32, Dtype::i64, Dtype::u8})
        if (text == dtype_name(dtype)) return dtype;
    bad(path, "tensor " + tensor + " has dtype " + text +
                  ", expected one of F64 F32 BF16 F16 I32 I64 U8");
}
} // namespace

int64_t TensorEntry::size() const {
    int64_t count = 1;
    for (int64_t n : shape) count *= n;
    return count;
}

SafetensorsFile::SafetensorsFile(const std::string& path) : file_(path) { parse_header(); }

void SafetensorsFile::parse_header() {
    const std::string& path = file_.path();
    if (file_.size() < 8)
        bad(path, format("%zu bytes, too short for a header length", file_.size()));
    uint64_t header_bytes;
    std::memcpy(&header_bytes, file_.data(), 8);
    if (header_bytes > kMaxHeaderBytes || header_bytes > file_.size() - 8)
        bad(path, format("header length %llu at byte 0, but the file has %zu bytes",
                         (unsigned long long)header_bytes, file_.size()));
    const char* text = reinterpret_cast<const char*>(file_.data() + 8);
    if (header_bytes == 0 || text[0] != '{') bad(path, "the header at byte 8 is not a JSON object");
    Json header = json_parse(std::string(text, header_bytes), "safetensors: " + path);
    base_ = file_.data() + 8 + header_bytes;
    size_t data_bytes = file_.size() - 8 - header_bytes;

    for (auto& [name, fields] : header.items()) {
        if (name == "__metadata__") continue;
        if (!fields.is_object() || !fields.contains("dtype") || !fields["dtype"].is_string() ||
            !fields.contains("shape") || !fields["shape"].is_array() ||
            !fields.contains("data_offsets") || !fields["data_offsets"].is_array() ||
            fields["data_offsets"].size() != 2)
            bad(path, "tensor " + name + ": dtype, shape or data_offsets missing or malformed");
        TensorEntry entry;
        entry.name = name;
        entry.dtype = parse_dtype(path, name, fields["dtype"].get<std::string>());
        uint64_t count = 1;
        for (auto& n : fields["shape"]) {
            if (!n.is_number_unsigned()) bad(path, "tensor " + name + ": negative or odd shape");
            uint64_t dim = n.get<uint64_t>();
            if (dim != 0 && count > (uint64_t(1) << 48) / dim)
                bad(path, "tensor " + name + ": shape too large");
            count *= dim;
            entry.shape.push_back(int64_t(dim));
        }
        for (auto& offset : fields["data_offsets"])
            if (!offset.is_number_unsigned()) bad(path, "tensor " + name + ": bad data_offsets");
        entry.begin = fields["data_offsets"][0].get<uint64_t>();
        entry.end = fields["data_offsets"][1].get<uint64_t>();
        if (entry.begin > entry.end || entry.end > data_bytes ||
            entry.end - entry.begin != count * dtype_bytes(entry.dtype))
            bad(path, format("tensor %s: bytes [%zu, %zu) do not fit its shape or the %zu data "
                             "bytes of the file",
                             name.c_str(), entry.begin, entry.end, data_bytes));
        entries_.push_back(std::move(entry));
    }

    std::sort(entries_.begin(), entries_.end(), [](const TensorEntry& a, const TensorEntry& b) {
        return a.begin != b.begin ? a.begin < b.begin : a.end < b.end;
    });
    size_t expected = 0;
    for (size_t i = 0; i < entries_.size(); i++) {
        if (entries_[i].begin != expected)
            bad(path, format("tensor %s starts at data byte %zu, expected %zu (hole or overlap)",
                             entries_[i].name.c_str(), entries_[i].begin, expected));
        expected = entries_[i].end;
        if (!index_.emplace(entries_[i].name, i).second)
            bad(path, "tensor " + entries_[i].name + " appears twice");
    }
    if (expected != data_bytes)
        bad(path, format("tensors end at data byte %zu, the file at %zu", expected, data_bytes));
}

const TensorEntry* SafetensorsFile::find(const std::string& name) const {
    auto it = index_.find(name);
    return it == index_.end() ? nullptr : &entries_[it->second];
}

const TensorEntry& SafetensorsFile::at(const std::string& name) const {
    const TensorEntry* entry = find(name);
    if (!entry) bad(path(), "tensor " + name + " is missing");
    return *entry;
}

void convert_values(const void* in, Dtype in_dtype, void* out, Dtype out_dtype, int64_t count) {
    auto load = [&](int64_t i) -> double { // memcpy: mapped data may be unaligned
        const char* at = static_cast<const char*>(in) + i * int64_t(dtype_bytes(in_dtype));
        auto get = [&](auto value) {
            std::memcpy(&value, at, sizeof value);
            return value;
        };
        switch (in_dtype) {
        case Dtype::f64: return get(double());
        case Dtype::f32: return get(float());
        case Dtype::bf16: return bf16_to_float(get(uint16_t()));
        case Dtype::f16: return f16_to_float(get(uint16_t()));
        case Dtype::i32: return get(int32_t());
        case Dtype::i64: return double(get(int64_t()));
        case Dtype::u8: return get(uint8_t());
        }
        return 0;
    };
    if (in_dtype == out_dtype) {
        if (count > 0) std::memcpy(out, in, count * dtype_bytes(in_dtype));
    } else if (out_dtype == Dtype::f32) {
        for (int64_t i = 0; i < count; i++) static_cast<float*>(out)[i] = float(load(i));
    } else {
        require(out_dtype == Dtype::f64, "convert_values: cannot write %s", dtype_name(out_dtype));
        for (int64_t i = 0; i < count; i++) static_cast<double*>(out)[i] = load(i);
    }
}

std::vector<double> SafetensorsFile::read_f64(const std::string& name) const {
    const TensorEntry& entry = at(name);
    std::vector<double> values(entry.size());
    convert_values(data(entry), entry.dtype, values.data(), Dtype::f64, entry.size());
    return values;
}

std::vector<int64_t> SafetensorsFile::read_i64(const std::string& name) const {
    const TensorEntry& entry = at(name);
    if (entry.dtype != Dtype::i32 && entry.dtype != Dtype::i64 && entry.dtype != Dtype::u8)
        bad(path(), "tensor " + name + " is " + dtype_name(entry.dtype) + ", expected integers");
    std::vector<int64_t> values(entry.size());
    const uint8_t* at = data(entry);
    for (auto& value : values) {
        if (entry.dtype == Dtype::i64) std::memcpy(&value, at, 8);
        else if (entry.dtype == Dtype::u8) value = *at;
        else {
            int32_t narrow;
            std::memcpy(&narrow, at, 4);
            value = narrow;
        }
        at += dtype_bytes(entry.dtype);
    }
    return values;
}

SafetensorsWriter::SafetensorsWriter(const std::string& path, const std::vector<Spec>& specs)
    : path_(path), file_(path) {
    Json header;
    header["__metadata__"]["format"] = "pt"; // transformers refuses metadata without a known format
    size_t offset = 0;
    for (const Spec& spec : specs) {
        size_t bytes = dtype_bytes(spec.dtype);
        for (int64_t n : spec.shape) bytes *= size_t(n);
        header[spec.name] = {{"dtype", dtype_name(spec.dtype)},
                             {"shape", spec.shape},
                             {"data_offsets", {offset, offset + bytes}}};
        sizes_.push_back(bytes);
        offset += bytes;
    }
    std::string text = header.dump();
    text.resize((text.size() + 7) / 8 * 8, ' ');
    uint64_t header_bytes = text.size();
    file_.write(&header_bytes, 8);
    file_.write(text.data(), text.size());
}

void SafetensorsWriter::append(const void* data, size_t bytes) {
    require(next_ < sizes_.size() && sizes_[next_] == bytes,
            "SafetensorsWriter: tensor %zu of %s has %zu bytes", next_, path_.c_str(), bytes);
    next_++;
    file_.write(data, bytes);
}

uint64_t SafetensorsWriter::finish() {
    require(next_ == sizes_.size(), "SafetensorsWriter: %s is missing tensors", path_.c_str());
    return file_.finish();
}
