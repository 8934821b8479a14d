// Contract: unicode.h.
#include "llmc/core/unicode.h"

#include "llmc/core/error.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include <utf8proc.h>

namespace {

constexpr int32_t kFirstUnstable =
    0x300; // below, every character is its own NFC, alone and in rows

// ------------------------------------------------------------------------------------------------
// tables

// Characters that PCRE2 10.42 and utf8proc 2.8, the oldest of our platforms, do not know or see
// otherwise than Unicode 16: first, last, category.
enum Category { Lu, Ll, Lm, Lo, Mn, Mc, Nd, No, Pd, Po, Sm, So, Cf };
struct NewerRange {
    int32_t first, last;
    Category category;
};
constexpr NewerRange kNewer[] = {
    {0x897, 0x897, Mn},     {0xCF3, 0xCF3, Mc},     {0xECE, 0xECE, Mn},     {0x180E, 0x180E, Cf},
    {0x1B4E, 0x1B4F, Po},   {0x1B7F, 0x1B7F, Po},   {0x1C89, 0x1C89, Lu},   {0x1C8A, 0x1C8A, Ll},
    {0x2427, 0x2429, So},   {0x2FFC, 0x2FFF, So},   {0x31E4, 0x31E5, So},   {0x31EF, 0x31EF, So},
    {0xA7CB, 0xA7CC, Lu},   {0xA7CD, 0xA7CD, Ll},   {0xA7DA, 0xA7DA, Lu},   {0xA7DB, 0xA7DB, Ll},
    {0xA7DC, 0xA7DC, Lu},   {0x105C0, 0x105F3, Lo}, {0x10D40, 0x10D49, Nd}, {0x10D4A, 0x10D4D, Lo},
    {0x10D4E, 0x10D4E, Lm}, {0x10D4F, 0x10D4F, Lo}, {0x10D50, 0x10D65, Lu}, {0x10D69, 0x10D6D, Mn},
    {0x10D6E, 0x10D6E, Pd}, {0x10D6F, 0x10D6F, Lm}, {0x10D70, 0x10D85, Ll}, {0x10D8E, 0x10D8F, Sm},
    {0x10EC2, 0x10EC4, Lo}, {0x10EFC, 0x10EFF, Mn}, {0x1123F, 0x11240, Lo}, {0x11241, 0x11241, Mn},
    {0x11380, 0x11389, Lo}, {0x1138B, 0x1138B, Lo}, {0x1138E, 0x1138E, Lo}, {0x11390, 0x113B5, Lo},
    {0x113B7, 0x113B7, Lo}, {0x113B8, 0x113BA, Mc}, {0x113BB, 0x113C0, Mn}, {0x113C2, 0x113C2, Mc},
    {0x113C5, 0x113C5, Mc}, {0x113C7, 0x113CA, Mc}, {0x113CC, 0x113CD, Mc}, {0x113CE, 0x113CE, Mn},
    {0x113CF, 0x113CF, Mc}, {0x113D0, 0x113D0, Mn}, {0x113D1, 0x113D1, Lo}, {0x113D2, 0x113D2, Mn},
    {0x113D3, 0x113D3, Lo}, {0x113D4, 0x113D5, Po}, {0x113D7, 0x113D8, Po}, {0x113E1, 0x113E2, Mn},
    {0x116D0, 0x116E3, Nd}, {0x1171E, 0x1171E, Mc}, {0x11B00, 0x11B09, Po}, {0x11BC0, 0x11BE0, Lo},
    {0x11BE1, 0x11BE1, Po}, {0x11BF0, 0x11BF9, Nd}, {0x11F00, 0x11F01, Mn}, {0x11F02, 0x11F02, Lo},
    {0x11F03, 0x11F03, Mc}, {0x11F04, 0x11F10, Lo}, {0x11F12, 0x11F33, Lo}, {0x11F34, 0x11F35, Mc},
    {0x11F36, 0x11F3A, Mn}, {0x11F3E, 0x11F3F, Mc}, {0x11F40, 0x11F40, Mn}, {0x11F41, 0x11F41, Mc},
    {0x11F42, 0x11F42, Mn}, {0x11F43, 0x11F4F, Po}, {0x11F50, 0x11F59, Nd}, {0x11F5A, 0x11F5A, Mn},
    {0x1342F, 0x1342F, Lo}, {0x13439, 0x1343F, Cf}, {0x13440, 0x13440, Mn}, {0x13441, 0x13446, Lo},
    {0x13447, 0x13455, Mn}, {0x13460, 0x143FA, Lo}, {0x16100, 0x1611D, Lo}, {0x1611E, 0x16129, Mn},
    {0x1612A, 0x1612C, Mc}, {0x1612D, 0x1612F, Mn}, {0x16130, 0x16139, Nd}, {0x16D40, 0x16D42, Lm},
    {0x16D43, 0x16D6A, Lo}, {0x16D6B, 0x16D6C, Lm}, {0x16D6D, 0x16D6F, Po}, {0x16D70, 0x16D79, Nd},
    {0x18CFF, 0x18CFF, Lo}, {0x1B132, 0x1B132, Lo}, {0x1B155, 0x1B155, Lo}, {0x1CC00, 0x1CCEF, So},
    {0x1CCF0, 0x1CCF9, Nd}, {0x1CD00, 0x1CEB3, So}, {0x1D2C0, 0x1D2D3, No}, {0x1DF25, 0x1DF2A, Ll},
    {0x1E030, 0x1E06D, Lm}, {0x1E08F, 0x1E08F, Mn}, {0x1E4D0, 0x1E4EA, Lo}, {0x1E4EB, 0x1E4EB, Lm},
    {0x1E4EC, 0x1E4EF, Mn}, {0x1E4F0, 0x1E4F9, Nd}, {0x1E5D0, 0x1E5ED, Lo}, {0x1E5EE, 0x1E5EF, Mn},
    {0x1E5F0, 0x1E5F0, Lo}, {0x1E5F1, 0x1E5FA, Nd}, {0x1E5FF, 0x1E5FF, Po}, {0x1F6DC, 0x1F6DC, So},
    {0x1F774, 0x1F776, So}, {0x1F77B, 0x1F77F, So}, {0x1F7D9, 0x1F7D9, So}, {0x1F8B2, 0x1F8BB, So},
    {0x1F8C0, 0x1F8C1, So}, {0x1FA75, 0x1FA77, So}, {0x1FA87, 0x1FA89, So}, {0x1FA8F, 0x1FA8F, So},
    {0x1FAAD, 0x1FAAF, So}, {0x1FABB, 0x1FABF, So}, {0x1FAC6, 0x1FAC6, So}, {0x1FACE, 0x1FACF, So},
    {0x1FADA, 0x1FADC, So}, {0x1FADF, 0x1FADF, So}, {0x1FAE8, 0x1FAE9, So}, {0x1FAF7, 0x1FAF8, So},
    {0x1FBCB, 0x1FBEF, So}, {0x2B739, 0x2B739, Lo}, {0x2EBF0, 0x2EE5D, Lo}, {0x31350, 0x323AF, Lo},
};

// A character of each category that is known everywhere, of three and of four bytes; none is in the
// ranges that split patterns spell out.
constexpr int32_t kKnown[][2] = {
    {0x1E00, 0x10400}, {0x1E01, 0x10428}, {0xA015, 0x16B40}, {0xA000, 0x10450}, {0x20D0, 0x1D167},
    {0x0903, 0x11000}, {0x0966, 0x104A0}, {0x2460, 0x10107}, {0x2010, 0x10EAD}, {0x2016, 0x10100},
    {0x2200, 0x1D6C1}, {0x2300, 0x10137}, {0x200B, 0x110BD}};

// Characters that normalization knows since after Unicode 9: they neither move nor compose.
struct Range {
    int32_t first, last;
};
constexpr Range kInert[] = {
    {0x5C8, 0x5C9},     {0x7FD, 0x7FD},     {0x897, 0x89F},     {0x8CA, 0x8D3},
    {0x9FE, 0x9FE},     {0xC3C, 0xC3C},     {0xD3B, 0xD3C},     {0xEBA, 0xEBA},
    {0x1715, 0x1715},   {0x1ABF, 0x1AF0},   {0x1DF6, 0x1DFA},   {0xA82C, 0xA82C},
    {0x105C9, 0x105C9}, {0x105D2, 0x105D2}, {0x105DA, 0x105DA}, {0x105E4, 0x105E4},
    {0x10D24, 0x10D27}, {0x10D69, 0x10D6D}, {0x10EAB, 0x10EAC}, {0x10ECB, 0x10ECF},
    {0x10EF0, 0x10EFB}, {0x10EFD, 0x10EFF}, {0x10F46, 0x10F50}, {0x10F82, 0x10F85},
    {0x11070, 0x11070}, {0x1133B, 0x1133B}, {0x11382, 0x11385}, {0x1138B, 0x1138B},
    {0x1138E, 0x1138E}, {0x11390, 0x11391}, {0x113B8, 0x113B8}, {0x113BB, 0x113BB},
    {0x113C2, 0x113C2}, {0x113C5, 0x113C5}, {0x113C7, 0x113C9}, {0x113CE, 0x113D0},
    {0x1145E, 0x1145E}, {0x11839, 0x1183A}, {0x11930, 0x11930}, {0x11935, 0x11935},
    {0x11938, 0x11938}, {0x1193D, 0x1193E}, {0x11943, 0x11943}, {0x119E0, 0x119E0},
    {0x11A34, 0x11A34}, {0x11A47, 0x11A47}, {0x11A99, 0x11A99}, {0x11D42, 0x11D42},
    {0x11D44, 0x11D45}, {0x11D97, 0x11D97}, {0x11F41, 0x11F42}, {0x1611E, 0x16129},
    {0x1612F, 0x1612F}, {0x16D63, 0x16D63}, {0x16D67, 0x16D6A}, {0x16FF0, 0x16FF1},
    {0x1D127, 0x1D128}, {0x1D250, 0x1D252}, {0x1D25F, 0x1D25F}, {0x1D280, 0x1D281},
    {0x1E08F, 0x1E08F}, {0x1E130, 0x1E136}, {0x1E2AE, 0x1E2AE}, {0x1E2EC, 0x1E2EF},
    {0x1E4EC, 0x1E4EF}, {0x1E5EE, 0x1E5EF}, {0x1E6E3, 0x1E6E3}, {0x1E6E6, 0x1E6E6},
    {0x1E6EE, 0x1E6EF}, {0x1E6F5, 0x1E6F5},
};

template <class R, size_t n> const R* find_range(const R (&ranges)[n], int32_t code) {
    const R* at = std::upper_bound(ranges, ranges + n, code,
                                   [](int32_t c, const R& range) { return c < range.first; });
    return at != ranges && code <= at[-1].last ? at - 1 : nullptr;
}

int32_t known_character(int32_t code) {
    const NewerRange* newer = code < kNewer[0].first ? nullptr : find_range(kNewer, code);
    return newer ? kKnown[newer->category][code >= 0x10000] : code;
}

// ------------------------------------------------------------------------------------------------
// NFC

bool by_class(const std::pair<int, int32_t>& a, const std::pair<int, int32_t>& b) {
    return a.first < b.first;
}

// Decompose, order marks, compose. The ordering is ours: utf8proc's takes quadratic time in a row
// of marks.
void append_normalized(std::string* out, std::vector<int32_t>& codes) {
    if (codes.size() == 1 && codes[0] < kFirstUnstable) {
        append_utf8(out, codes[0]);
        codes.clear();
        return;
    }
    std::vector<int32_t> parts;
    std::vector<std::pair<int, int32_t>> marks; // (combining class, character)
    const auto flush_marks = [&] {
        std::stable_sort(marks.begin(), marks.end(), by_class);
        for (const auto& [order, code] : marks) parts.push_back(code);
        marks.clear();
    };
    for (int32_t code : codes) {
        int32_t pieces[16];
        const utf8proc_option_t options = utf8proc_option_t(UTF8PROC_DECOMPOSE | UTF8PROC_STABLE);
        const auto count = utf8proc_decompose_char(code, pieces, 16, options, nullptr);
        require(count >= 1 && count <= 16, "to_nfc: U+%04X has %ld parts", code, long(count));
        for (int i = 0; i < int(count); i++) {
            const int order = utf8proc_get_property(pieces[i])->combining_class;
            if (order == 0) {
                flush_marks();
                parts.push_back(pieces[i]);
            } else marks.push_back({order, pieces[i]});
        }
    }
    flush_marks();
    const auto length =
        utf8proc_normalize_utf32(parts.data(), utf8proc_ssize_t(parts.size()),
                                 utf8proc_option_t(UTF8PROC_COMPOSE | UTF8PROC_STABLE));
    require(length >= 0, "to_nfc: utf8proc error %ld", long(length));
    for (int64_t i = 0; i < int64_t(length); i++) append_utf8(out, parts[size_t(i)]);
    codes.clear();
}

} // namespace

// ------------------------------------------------------------------------------------------------
// UTF-8

Utf8Char first_char(std::string_view text) {
    const auto* s = reinterpret_cast<const unsigned char*>(text.data());
    const unsigned lead = s[0];
    if (lead < 0x80) return {int32_t(lead), 1};
    const int length = lead < 0xC2 ? 0 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : lead < 0xF5 ? 4 : 0;
    if (length == 0) return {kNotUtf8, 1};
    // The second byte's range excludes overlong forms, surrogates and what is above U+10FFFF.
    const unsigned lo = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
    const unsigned hi = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
    int32_t code = int32_t(lead & (0x7Fu >> length));
    for (int i = 1; i < length; i++) {
        if (size_t(i) == text.size()) return {kCutUtf8, i};
        if (s[i] < (i == 1 ? lo : 0x80) || s[i] > (i == 1 ? hi : 0xBF)) return {kNotUtf8, i};
        code = code << 6 | (s[i] & 63);
    }
    return {code, length};
}

size_t valid_utf8_prefix(std::string_view text) {
    size_t at = 0;
    while (at < text.size()) {
        uint64_t eight;
        if (at + 8 <= text.size()) { // ASCII, eight bytes at a time
            std::memcpy(&eight, text.data() + at, 8);
            if ((eight & 0x8080808080808080) == 0) {
                at += 8;
                continue;
            }
        }
        const Utf8Char c = first_char(text.substr(at));
        if (c.code < 0) break;
        at += size_t(c.bytes);
    }
    return at;
}

void append_utf8(std::string* out, int32_t code) {
    if (code < 0x80) *out += char(code);
    else if (code < 0x800) *out += {char(0xC0 | code >> 6), char(0x80 | (code & 63))};
    else if (code < 0x10000)
        *out += {char(0xE0 | code >> 12), char(0x80 | (code >> 6 & 63)), char(0x80 | (code & 63))};
    else
        *out += {char(0xF0 | code >> 18), char(0x80 | (code >> 12 & 63)),
                 char(0x80 | (code >> 6 & 63)), char(0x80 | (code & 63))};
}

std::string Utf8Stream::push(std::string_view bytes) {
    held_ += bytes;
    std::string out;
    size_t at = 0;
    while (at < held_.size()) {
        const std::string_view rest = std::string_view(held_).substr(at);
        const size_t valid = valid_utf8_prefix(rest);
        out += rest.substr(0, valid);
        at += valid;
        if (valid == rest.size()) break;
        const Utf8Char c = first_char(rest.substr(valid));
        if (c.code == kCutUtf8) break;
        append_utf8(&out, 0xFFFD);
        at += size_t(c.bytes);
    }
    held_.erase(0, at);
    return out;
}

std::string Utf8Stream::finish() {
    std::string out;
    if (!held_.empty()) append_utf8(&out, 0xFFFD);
    held_.clear();
    return out;
}

size_t byte_order_mark(std::string_view text) { return text.starts_with("\xef\xbb\xbf") ? 3 : 0; }

std::string printable_text(std::string_view bytes) {
    Utf8Stream stream;
    std::string text = stream.push(bytes);
    text += stream.finish();
    std::string out;
    for (size_t at = 0; at < text.size();) {
        const Utf8Char c = first_char(std::string_view(text).substr(at));
        const bool kept = c.code == '\n' || c.code == '\t';
        if (c.code < 0x20 && !kept) append_utf8(&out, 0x2400 + c.code);
        else if (c.code == 0x7F) append_utf8(&out, 0x2421);
        else if (c.code >= 0x80 && c.code < 0xA0) append_utf8(&out, 0xFFFD);
        else out.append(text, at, size_t(c.bytes));
        at += size_t(c.bytes);
    }
    return out;
}

// ------------------------------------------------------------------------------------------------
// properties

std::string to_nfc(std::string_view text) {
    // The lead byte of U+0300 is 0xCC.
    const auto stable = [](char c) { return static_cast<unsigned char>(c) < 0xCC; };
    if (std::all_of(text.begin(), text.end(), stable)) return std::string(text);
    std::string out;
    std::vector<int32_t> codes; // a character below kFirstUnstable and all that may join it
    for (size_t at = 0; at < text.size();) {
        const Utf8Char c = first_char(text.substr(at));
        at += size_t(c.bytes);
        const bool inert = c.code >= kInert[0].first && find_range(kInert, c.code);
        if ((inert || c.code < kFirstUnstable) && !codes.empty()) append_normalized(&out, codes);
        if (inert) append_utf8(&out, c.code);
        else codes.push_back(c.code);
    }
    if (!codes.empty()) append_normalized(&out, codes);
    return out;
}

std::string with_known_properties(std::string_view text) {
    std::string out(text);
    for (size_t at = 0; at < text.size();) {
        if (static_cast<unsigned char>(text[at]) < 0xE0) { // kNewer begins above two bytes
            at++;
            continue;
        }
        const Utf8Char c = first_char(text.substr(at));
        const int32_t known = known_character(c.code);
        if (known != c.code) {
            std::string bytes;
            append_utf8(&bytes, known);
            out.replace(at, bytes.size(), bytes);
        }
        at += size_t(c.bytes);
    }
    return out;
}

bool is_space(int32_t code) {
    return (code >= 9 && code <= 13) || code == 0x20 || code == 0x85 || code == 0xA0 ||
           code == 0x1680 || (code >= 0x2000 && code <= 0x200A) || code == 0x2028 ||
           code == 0x2029 || code == 0x202F || code == 0x205F || code == 0x3000;
}

bool is_word(int32_t code) {
    switch (utf8proc_category(known_character(code))) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC: return true;
    default: break;
    }
    // Joiners, and the letters in circles and squares, which are symbols by category.
    return code == 0x200C || code == 0x200D || (code >= 0x24B6 && code <= 0x24E9) ||
           (code >= 0x1F130 && code <= 0x1F149) || (code >= 0x1F150 && code <= 0x1F169) ||
           (code >= 0x1F170 && code <= 0x1F189);
}
