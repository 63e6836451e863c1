#pragma once

#include <map>
#include <memory>
#include <string>

namespace virga {

/// Figures of this process for Prometheus. Thread-safe. Names end in their unit; labels have few values.
class Metrics {
 public:
  using Labels = std::map<std::string, std::string>;

  Metrics();
  ~Metrics();

  /// Adds to a counter; made at first use.
  void count(const std::string& name, const std::string& help, const Labels& labels = {},
             double amount = 1);

  /// Sets a gauge.
  void set(const std::string& name, const std::string& help, const Labels& labels, double value);

  /// Adds one observation to a histogram of durations: buckets from 1 ms to 10 s.
  void observe_seconds(const std::string& name, const std::string& help, const Labels& labels,
                       double duration_seconds);

  /// All of it in Prometheus' text format.
  std::string text() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace virga
