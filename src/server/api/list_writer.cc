#include "server/api/list_writer.h"

namespace virga::api {

const std::string& TextCache::text(const std::string& key, std::uint64_t revision,
                                   const std::function<std::string()>& make) {
  Entry& entry = entries_[key];
  if (entry.revision != revision || entry.text.empty()) entry = {revision, make()};
  return entry.text;
}

void TextCache::trim(std::size_t wanted) {
  constexpr std::size_t kSpare = 50'000;
  if (entries_.size() > wanted + kSpare) entries_.clear();
}

bool ListWriter::write(Make make, Done done) {
  constexpr std::size_t kJobsMax = 64;
  const std::lock_guard lock(mutex_);
  if (stopping_ || jobs_.size() >= kJobsMax) return false;
  jobs_.push_back({std::move(make), std::move(done)});
  if (!thread_.joinable()) thread_ = std::thread([this] { run(); });
  changed_.notify_one();
  return true;
}

void ListWriter::stop() {
  std::deque<Job> dropped;
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    dropped.swap(jobs_);
    changed_.notify_one();
  }
  if (thread_.joinable()) thread_.join();
}

void ListWriter::run() {
  while (true) {
    Job job;
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [this] { return stopping_ || !jobs_.empty(); });
      if (stopping_) return;
      job = std::move(jobs_.front());
      jobs_.pop_front();
    }
    // What the job holds must end on the loop, where its owner lives.
    auto response = std::make_shared<HttpResponse>(job.make(cache_));
    job.make = nullptr;
    loop_.post([done = std::move(job.done), response] { done(std::move(*response)); });
  }
}

}  // namespace virga::api
