#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace virga {

enum class LogLevel { debug, info, warning, error };

/// One line of the program's own log on standard error: time, level, component, text.
/// `correlation` is the id that one request carries from the API to the last QMP line; empty when there is none.
/// Thread-safe. Secrets do not belong here: callers pass what may be read by operators.
void log_line(LogLevel level, std::string_view component, std::string_view text,
              std::string_view correlation = {});

/// "debug", "info", "warning" or "error"; nothing for other words.
std::optional<LogLevel> log_level_of(std::string_view name);

/// Lines below `level` are dropped. Default: info.
void set_log_level(LogLevel level);

/// Sends all lines to `sink` instead (tests, simulator); nullptr restores standard error.
using LogSink = void (*)(LogLevel level, std::string_view component, std::string_view text);
void set_log_sink(LogSink sink);

}  // namespace virga
