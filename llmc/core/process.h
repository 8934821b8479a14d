// Other programs as filters.
#pragma once
#include <string>
#include <vector>

// Runs argv[0], found in PATH, with nothing on its input, and returns what it prints. fatal() if it
// cannot be started or ends with another code than 0; what it says on stderr is the user's to see.
std::string read_command(const std::vector<std::string>& argv);
