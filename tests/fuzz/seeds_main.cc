// Plays each file of a folder to a fuzz target: as it is, cut off at every place, and damaged in
// 500 ways that are the same in every run. A target that does not stand it aborts.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "base/rng.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace {

constexpr int kDamages = 500;
constexpr std::size_t kCutsMax = 2000;

void play(const std::string& text) {
  // A copy of exactly this size, so that a sanitizer sees who reads beyond it.
  const std::vector<std::uint8_t> bytes(text.begin(), text.end());
  LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
}

std::string damaged(std::string text, virga::Rng& random) {
  for (std::uint64_t times = 1 + random.below(4); times > 0 && !text.empty(); --times) {
    const std::size_t at = random.below(text.size());
    const std::size_t some = 1 + random.below(std::min<std::size_t>(text.size() - at, 16));
    const auto byte = static_cast<char>(random.below(256));
    const std::uint64_t choice = random.below(4);
    if (choice == 0) text[at] = byte;
    if (choice == 1) text.erase(at, some);
    if (choice == 2) text.insert(at, text.substr(at, some));
    if (choice == 3) text.insert(at, some, byte);
  }
  return text;
}

void play_file(const std::filesystem::path& file) {
  std::ifstream stream(file, std::ios::binary);
  const std::string text((std::istreambuf_iterator<char>(stream)), {});
  play(text);
  const std::size_t cuts = std::min(text.size(), kCutsMax);
  for (std::size_t end = 0; end < cuts; ++end) play(text.substr(0, end));
  virga::Rng random(1);
  for (int number = 0; number < kDamages; ++number) play(damaged(text, random));
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return std::fprintf(stderr, "which folder?\n"), 2;
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(argv[1])) {
    files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  if (files.empty()) return std::fprintf(stderr, "%s holds no seed\n", argv[1]), 1;
  for (const auto& file : files) play_file(file);
  std::printf("%zu seeds\n", files.size());
}
