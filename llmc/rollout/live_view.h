// What ./rollout generate shows while it samples. On a terminal: one line for each of the newest
// samples in progress, its last characters, rewritten in place, with the rate of the whole;
// finished ones scroll up. Elsewhere: the finished ones only.
#pragma once
#include "llmc/data/tokenizer.h"
#include "llmc/rollout/engine.h"

#include <chrono>
#include <map>

class LiveView {
  public:
    // heading(completion): the line above a finished sample; prompt(request): what it continues.
    using Text = std::function<std::string(const Completion&)>;
    LiveView(const Tokenizer& tokenizer, Text heading, Text prompt, bool terminal);
    ~LiveView(); // clears the lines

    void token(const Completion& completion);
    void finished(const Completion& completion);
    // The lines of samples in progress, each at most `columns` wide, control characters as blanks.
    std::vector<std::string> lines(int rows, int columns) const;

  private:
    void draw();
    void clear();

    const Tokenizer& tokenizer_;
    const Text heading_, prompt_;
    const bool terminal_;
    struct Sample {
        std::vector<int32_t> tail; // its last tokens
        size_t tokens;
    };
    std::map<std::pair<size_t, int>, Sample> samples_; // in progress
    int shown_ = 0;                                    // lines on the screen
    int64_t tokens_ = 0;
    std::chrono::steady_clock::time_point start_, drawn_;
};
