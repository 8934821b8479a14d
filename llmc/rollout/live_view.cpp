// Contract: live_view.h.
#include "llmc/rollout/live_view.h"

#include "llmc/core/error.h"
#include "llmc/core/unicode.h"

#include <algorithm>
#include <cstdio>
#include <sys/ioctl.h>
#include <unistd.h>

namespace {

constexpr size_t kTail = 256; // tokens kept of a sample in progress
constexpr int kRows = 16;     // samples shown at most
constexpr auto kBetween = std::chrono::milliseconds(100);

} // namespace

LiveView::LiveView(const Tokenizer& tokenizer, Text heading, Text prompt, bool terminal)
    : tokenizer_(tokenizer), heading_(std::move(heading)), prompt_(std::move(prompt)),
      terminal_(terminal), start_(std::chrono::steady_clock::now()), drawn_(start_ - kBetween) {}

LiveView::~LiveView() { clear(); }

void LiveView::token(const Completion& c) {
    Sample& sample = samples_[{c.request, c.sample}];
    sample.tail.push_back(c.tokens.back());
    if (sample.tail.size() > 2 * kTail)
        sample.tail.erase(sample.tail.begin(), sample.tail.end() - kTail);
    sample.tokens = c.tokens.size();
    tokens_++;
    const auto now = std::chrono::steady_clock::now();
    if (!terminal_ || now - drawn_ < kBetween) return;
    drawn_ = now;
    draw();
}

void LiveView::finished(const Completion& c) {
    clear();
    samples_.erase({c.request, c.sample});
    const std::string text = prompt_(c) + tokenizer_.decode(c.tokens, Specials::keep);
    std::printf("%s\n%s\n", heading_(c).c_str(), printable_text(text).c_str());
    std::fflush(stdout);
}

std::vector<std::string> LiveView::lines(int rows, int columns) const {
    std::vector<std::string> lines;
    for (auto it = samples_.rbegin(); it != samples_.rend() && int(lines.size()) < rows; ++it) {
        const auto& [place, sample] = *it;
        std::string line = format("%3zu.%-3d %5zu  ", place.first, place.second, sample.tokens);
        std::string text = printable_text(tokenizer_.decode(sample.tail, Specials::keep));
        std::replace_if(
            text.begin(), text.end(), [](char c) { return c == '\n' || c == '\t'; }, ' ');
        const size_t room = size_t(std::max(0, columns - int(line.size())));
        size_t from = text.size() > room ? text.size() - room : 0;
        while (from < text.size() && (text[from] & 0xC0) == 0x80) from++; // not inside a character
        lines.push_back((line + text.substr(from)).substr(0, size_t(columns)));
    }
    std::reverse(lines.begin(), lines.end());
    return lines;
}

void LiveView::draw() {
    winsize size{};
    if (::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0) size = {24, 80, 0, 0};
    const double elapsed_s =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
    clear();
    for (const std::string& line :
         lines(std::clamp(size.ws_row - 2, 1, kRows), std::max(20, size.ws_col - 1))) {
        std::printf("%s\n", line.c_str());
        shown_++;
    }
    std::printf("%ld tokens, %.0f tok/s\n", long(tokens_), double(tokens_) / elapsed_s);
    shown_++;
    std::fflush(stdout);
}

void LiveView::clear() {
    if (shown_ > 0) std::printf("\033[%dA\r\033[J", shown_);
    shown_ = 0;
}
