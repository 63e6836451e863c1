#include "driver/volumes/volume_fills.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <utility>

#include "base/log.h"
#include "edge/file.h"

namespace virga {
namespace {

constexpr Duration kPause = seconds(2);
constexpr int kReaders = 1;
constexpr std::size_t kJobsMax = 256;
constexpr const char* kConvert = "/usr/bin/qemu-img";

std::string log_of(const RecordedVolume& volume) { return volume.folder().path + "/fill.log"; }

Result<void> check_disk(ImageChecks& checks, const ImageDisk& image) {
  const Descriptor file(::open(image.path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file.valid()) return errno_error("open " + image.path, errno);
  return checks.check({file.get()}, image.digest);
}

std::string last_line(const std::string& path) {
  const auto read = read_file(path);
  std::string text = read ? *read : read.error().text();
  while (!text.empty() && text.back() == '\n') text.pop_back();
  return text.substr(text.rfind('\n') + 1);
}

}  // namespace

VolumeFills::VolumeFills(AsioLoop& loop, Find find)
    : loop_(loop), find_(std::move(find)), reader_(loop, kReaders, kJobsMax) {}

VolumeFills::~VolumeFills() {
  checks_.cancel();
  for (const auto& [volume, fill] : fills_) {
    if (fill->process != nullptr) fill->process->signal(SIGKILL);
  }
}

void VolumeFills::begin(const VolumeId& volume) {
  const RecordedVolume* filled = find_(volume);
  if (filled == nullptr || !filled->record().image || fills_.contains(volume)) return;
  fills_[volume] = std::make_shared<Fill>(loop_);
  check(volume);
}

/// What goes on after a call that succeeded, if this very filling is still wanted then.
Callback<void> VolumeFills::then(const VolumeId& volume, Task task) {
  return [this, volume, task = std::move(task),
          fill = std::weak_ptr(fills_.at(volume))](const Result<void>& ended) {
    const auto now = fill.lock();
    if (now == nullptr || !now->ended.empty()) return;
    ended ? task() : failed(volume, ended.error());
  };
}

void VolumeFills::check(const VolumeId& volume) {
  const RecordedVolume* filled = find_(volume);
  if (filled == nullptr) return;
  const auto empty_it = [this, volume] {
    RecordedVolume* file = find_(volume);
    if (file == nullptr) return;
    file->refit(file->record().size_mib, then(volume, [this, volume] { convert(volume); }));
  };
  reader_.run<void>(
      [this, image = *filled->record().image] { return check_disk(checks_, image); },
      then(volume, empty_it));
}

void VolumeFills::convert(const VolumeId& volume) {
  const RecordedVolume* filled = find_(volume);
  if (filled == nullptr) return;
  const ImageDisk& image = *filled->record().image;
  ProcessOptions options;
  const std::string rate = std::to_string(per_second_.value) + "M";
  options.arguments = {kConvert, "convert",    "-n", "--target-is-zero",
                       "-r",     rate,         "-f", image.format,
                       "-O",     "raw",        image.path, filled->folder().image()};
  options.environment = {{"LC_ALL", "C"}, {"PATH", "/usr/bin:/bin"}};
  options.output_path = log_of(*filled);
  options.lowered = true;
  options.die_with_parent = true;
  static_cast<void>(replace_file(options.output_path, "", 0600));
  auto process = Process::spawn(loop_, options);
  if (!process) return failed(volume, process.error());
  Fill& fill = *fills_.at(volume);
  fill.process = std::move(*process);
  fill.process->on_exit([this, volume](ProcessExit exit) {
    // Later: what it means may end this process' object.
    loop_.post([this, volume, exit, fill = std::weak_ptr(fills_.at(volume))] {
      if (!fill.expired()) converted(volume, exit);
    });
  });
}

void VolumeFills::converted(const VolumeId& volume, ProcessExit exit) {
  Fill& fill = *fills_.at(volume);
  fill.process.reset();
  if (!fill.ended.empty()) {
    const auto waiting = std::move(fill.ended);
    fills_.erase(volume);
    for (const Callback<void>& done : waiting) done({});
    return;
  }
  RecordedVolume* filled = find_(volume);
  if (filled == nullptr) return;
  if (exit.code != 0) {
    return failed(volume, make_error(Errc::internal, "fill it from " +
                                                         filled->record().image->path + ": " +
                                                         last_line(log_of(*filled))));
  }
  filled->failing({});
  filled->filled(then(volume, [this, volume] { whole(volume); }));
}

void VolumeFills::failed(const VolumeId& volume, const Error& why) {
  RecordedVolume* filled = find_(volume);
  if (filled != nullptr && filled->failing() != why.text()) {
    log_line(LogLevel::warning, "volume", volume.value + ": " + why.text());
    filled->failing(why.text());
  }
  fills_.at(volume)->again.set_after(kPause, [this, volume] { check(volume); });
}

void VolumeFills::whole(const VolumeId& volume) {
  log_line(LogLevel::info, "volume", volume.value + " is whole");
  if (const RecordedVolume* filled = find_(volume)) ::unlink(log_of(*filled).c_str());
  fills_.erase(volume);
}

void VolumeFills::end(const VolumeId& volume, Callback<void> done) {
  const auto fill = fills_.find(volume);
  if (fill == fills_.end()) return done({});
  if (fill->second->process == nullptr) {
    fills_.erase(fill);
    return done({});
  }
  fill->second->ended.push_back(std::move(done));
  fill->second->process->signal(SIGKILL);
}

}  // namespace virga
