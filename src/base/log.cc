#include "base/log.h"

#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <atomic>

namespace virga {
namespace {

std::atomic<LogSink> g_sink{nullptr};

spdlog::logger& logger() {
  static spdlog::logger instance = [] {
    spdlog::logger made("virga", std::make_shared<spdlog::sinks::stderr_sink_mt>());
    made.set_pattern("%Y-%m-%dT%H:%M:%S.%eZ %l %v", spdlog::pattern_time_type::utc);
    made.flush_on(spdlog::level::info);
    return made;
  }();
  return instance;
}

spdlog::level::level_enum to_spdlog(LogLevel level) {
  switch (level) {
    case LogLevel::debug: return spdlog::level::debug;
    case LogLevel::info: return spdlog::level::info;
    case LogLevel::warning: return spdlog::level::warn;
    case LogLevel::error: return spdlog::level::err;
  }
  return spdlog::level::err;
}

}  // namespace

void log_line(LogLevel level, std::string_view component, std::string_view text,
              std::string_view correlation) {
  if (const LogSink sink = g_sink.load()) {
    sink(level, component, text);
    return;
  }
  if (correlation.empty()) {
    logger().log(to_spdlog(level), "{}: {}", component, text);
  } else {
    logger().log(to_spdlog(level), "{}: {} correlation={}", component, text, correlation);
  }
}

std::optional<LogLevel> log_level_of(std::string_view name) {
  if (name == "debug") return LogLevel::debug;
  if (name == "info") return LogLevel::info;
  if (name == "warning") return LogLevel::warning;
  if (name == "error") return LogLevel::error;
  return std::nullopt;
}

void set_log_level(LogLevel level) { logger().set_level(to_spdlog(level)); }

void set_log_sink(LogSink sink) { g_sink.store(sink); }

}  // namespace virga
