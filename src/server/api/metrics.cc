#include "server/api/metrics.h"

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

#include <mutex>

namespace virga {

struct Metrics::Impl {
  std::mutex mutex;
  prometheus::Registry registry;
  std::map<std::string, prometheus::Family<prometheus::Counter>*> counters;
  std::map<std::string, prometheus::Family<prometheus::Gauge>*> gauges;
  std::map<std::string, prometheus::Family<prometheus::Histogram>*> histograms;
};

namespace {

template <typename T, typename Builder>
prometheus::Family<T>& family(std::map<std::string, prometheus::Family<T>*>& families,
                              prometheus::Registry& registry, Builder builder,
                              const std::string& name, const std::string& help) {
  auto& entry = families[name];
  if (entry == nullptr) entry = &builder.Name(name).Help(help).Register(registry);
  return *entry;
}

}  // namespace

Metrics::Metrics() : impl_(std::make_unique<Impl>()) {}
Metrics::~Metrics() = default;

void Metrics::count(const std::string& name, const std::string& help, const Labels& labels,
                    double amount) {
  const std::lock_guard lock(impl_->mutex);
  family(impl_->counters, impl_->registry, prometheus::BuildCounter(), name, help)
      .Add(labels)
      .Increment(amount);
}

void Metrics::set(const std::string& name, const std::string& help, const Labels& labels,
                  double value) {
  const std::lock_guard lock(impl_->mutex);
  family(impl_->gauges, impl_->registry, prometheus::BuildGauge(), name, help)
      .Add(labels)
      .Set(value);
}

void Metrics::observe_seconds(const std::string& name, const std::string& help,
                              const Labels& labels, double duration_seconds) {
  static const prometheus::Histogram::BucketBoundaries kBuckets = {0.001, 0.003, 0.01, 0.03, 0.1,
                                                                   0.3,   1,     3,    10};
  const std::lock_guard lock(impl_->mutex);
  family(impl_->histograms, impl_->registry, prometheus::BuildHistogram(), name, help)
      .Add(labels, kBuckets)
      .Observe(duration_seconds);
}

std::string Metrics::text() const {
  const std::lock_guard lock(impl_->mutex);
  return prometheus::TextSerializer().Serialize(impl_->registry.Collect());
}

}  // namespace virga
