#include "llmc/core/safetensors.h"

#include "llmc/core/json.h"

#include <algorithm>
#include <cstring>
#include <type_traits>

namespace {
struct Half {
    uint16_t bits;
};

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
    const SortedJson header =
        json_parse_unique(std::string(text, header_bytes), "safetensors: " + path + ": header");
    const size_t data_begin = 8 + header_bytes, data_bytes = file_.size() - data_begin;
    base_ = file_.data() + data_begin;

    for (const auto& [name, fields] : header.items()) {
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
        for (const auto& n : fields["shape"]) {
            if (!n.is_number_unsigned()) bad(path, "tensor " + name + ": negative or odd shape");
            uint64_t dim = n.get<uint64_t>();
            if (dim != 0 && count > (uint64_t(1) << 48) / dim)
                bad(path, "tensor " + name + ": shape too large");
            count *= dim;
            entry.shape.push_back(int64_t(dim));
        }
        for (const auto& offset : fields["data_offsets"])
            if (!offset.is_number_unsigned()) bad(path, "tensor " + name + ": bad data_offsets");
        entry.begin = fields["data_offsets"][0].get<uint64_t>();
        entry.end = fields["data_offsets"][1].get<uint64_t>();
        if (entry.begin > entry.end || entry.end > data_bytes ||
            entry.end - entry.begin != count * dtype_bytes(entry.dtype))
            bad(path, format("tensor %s: data_offsets [%zu, %zu] do not fit its shape, or the %zu "
                             "bytes from byte %zu to the end of the file",
                             name.c_str(), entry.begin, entry.end, data_bytes, data_begin));
        entries_.push_back(std::move(entry));
    }

    std::sort(entries_.begin(), entries_.end(), [](const TensorEntry& a, const TensorEntry& b) {
        return a.begin != b.begin ? a.begin < b.begin : a.end < b.end;
    });
    size_t expected = 0;
    for (size_t i = 0; i < entries_.size(); i++) {
        if (entries_[i].begin != expected)
            bad(path, format("tensor %s starts at byte %zu, expected %zu (hole or overlap)",
                             entries_[i].name.c_str(), data_begin + entries_[i].begin,
                             data_begin + expected));
        expected = entries_[i].end;
        if (!index_.emplace(entries_[i].name, i).second)
            bad(path, "tensor " + entries_[i].name + " appears twice");
    }
    if (expected != data_bytes)
        bad(path, format("tensors end at byte %zu, the file at %zu", data_begin + expected,
                         file_.size()));
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

namespace {

template <class T> T as_number(T value) { return value; }
float as_number(Half value) { return f16_to_float(value.bits); }
float as_number(bf16 value) { return bf16_to_float(value.bits); }

template <class Out, class In> void convert_loop(void* out, const void* in, int64_t count) {
    for (int64_t i = 0; i < count; i++) {
        In value; // memcpy: mapped data may be unaligned
        std::memcpy(&value, static_cast<const char*>(in) + i * int64_t(sizeof value), sizeof value);
        if constexpr (std::is_same_v<Out, bf16>)
            static_cast<bf16*>(out)[i] = {float_to_bf16(float(as_number(value)))};
        else static_cast<Out*>(out)[i] = Out(as_number(value));
    }
}

template <class Out> void convert_from(void* out, const void* in, Dtype in_dtype, int64_t count) {
    switch (in_dtype) {
    case Dtype::f64: return convert_loop<Out, double>(out, in, count);
    case Dtype::f32: return convert_loop<Out, float>(out, in, count);
    case Dtype::bf16: return convert_loop<Out, bf16>(out, in, count);
    case Dtype::f16: return convert_loop<Out, Half>(out, in, count);
    case Dtype::i32: return convert_loop<Out, int32_t>(out, in, count);
    case Dtype::i64: return convert_loop<Out, int64_t>(out, in, count);
    case Dtype::u8: return convert_loop<Out, uint8_t>(out, in, count);
    }
}

} // namespace

void convert_values(const void* in, Dtype in_dtype, void* out, Dtype out_dtype, int64_t count) {
    require(out_dtype == Dtype::f32 || out_dtype == Dtype::f64 || out_dtype == Dtype::bf16,
            "convert_values: cannot write %s", dtype_name(out_dtype));
    if (in_dtype == out_dtype) {
        if (count > 0) std::memcpy(out, in, size_t(count) * dtype_bytes(in_dtype));
    } else if (out_dtype == Dtype::f32) convert_from<float>(out, in, in_dtype, count);
    else if (out_dtype == Dtype::bf16) convert_from<bf16>(out, in, in_dtype, count);
    else convert_from<double>(out, in, in_dtype, count);
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
    // Written by hand: a checkpoint may have tens of thousands of tensors, and their order counts.
    std::string text = R"({"__metadata__":{"format":"pt"})"; // transformers wants a known format
    size_t offset = 0;
    for (const Spec& spec : specs) {
        size_t bytes = dtype_bytes(spec.dtype);
        std::string shape;
        for (int64_t n : spec.shape) {
            bytes *= size_t(n);
            shape += (shape.empty() ? "" : ",") + std::to_string(n);
        }
        text += "," + Json(spec.name).dump() +
                format(":{\"dtype\":\"%s\",\"shape\":[%s],\"data_offsets\":[%zu,%zu]}",
                       dtype_name(spec.dtype), shape.c_str(), offset, offset + bytes);
        sizes_.push_back(bytes);
        offset += bytes;
    }
    text += "}";
    text.resize(round_up(text.size(), size_t(8)), ' ');
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
