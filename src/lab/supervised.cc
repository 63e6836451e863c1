#include "lab/supervised.h"

#include "base/log.h"

namespace virga {

namespace {

constexpr Duration kRestartAfter = seconds(1);

}  // namespace

Supervised::Supervised(AsioLoop& loop, std::string name, Task changed)
    : loop_(loop), name_(std::move(name)), changed_(std::move(changed)), restart_(loop) {}

Result<void> Supervised::start(ProcessOptions options) {
  options_ = std::move(options);
  wanted_ = true;
  restart_.cancel();
  return held_ ? Result<void>() : spawn();
}

void Supervised::give_up() {
  wanted_ = false;
  restart_.cancel();
}

void Supervised::signal(int number) {
  if (running()) process_->signal(number);
}

void Supervised::hold(bool held) {
  const bool was = std::exchange(held_, held);
  if (was && !held && wanted_ && !running()) start_later();
}

Result<void> Supervised::spawn() {
  auto made = Process::spawn(loop_, options_);
  if (!made) return wrap_error("start " + name_, made.error());
  process_ = std::move(*made);
  process_->on_exit([this](ProcessExit exit) { ended(exit); });
  changed_();
  return {};
}

void Supervised::ended(ProcessExit exit) {
  const std::string how = exit.signal != 0 ? "by signal " + std::to_string(exit.signal)
                                           : "with code " + std::to_string(exit.code);
  log_line(wanted_ ? LogLevel::warning : LogLevel::info, "lab", name_ + " ended " + how);
  changed_();
  if (wanted_ && !held_) start_later();
}

void Supervised::start_later() {
  restart_.set_after(kRestartAfter, [this] {
    if (!wanted_ || held_ || running()) return;
    if (auto done = spawn(); !done) {
      log_line(LogLevel::error, "lab", done.error().text());
      start_later();
    }
  });
}

}  // namespace virga
