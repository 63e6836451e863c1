#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "store/memory_store.h"
#include "store/sqlite_store.h"
#include "temp_folder.h"
#include "test_loop.h"

/// The stores that the contract suites run on. open() again goes on with the same state, as after a restart.
namespace virga::test {

inline constexpr HistoryBounds kSmallHistory{40, 1 << 20};

struct MemoryEngine {
  std::shared_ptr<MemoryDisk> disk = std::make_shared<MemoryDisk>(kSmallHistory);

  std::unique_ptr<Store> open(TestLoop& loop) {
    return std::make_unique<MemoryStore>(loop, Rng(7), MemoryStoreOptions(), disk);
  }
};

struct FileEngine {
  TempFolder folder;

  std::unique_ptr<Store> open(TestLoop& loop) {
    SqliteStoreOptions options;
    options.path = folder.file("store.db");
    options.history = kSmallHistory;
    auto store = SqliteStore::open(loop, options);
    EXPECT_TRUE(store.ok()) << store.error().text();
    return *std::move(store);
  }
};

inline Write set(std::string key, std::string value, StoreLeaseId lease = 0) {
  return {std::move(key), std::move(value), lease};
}
inline Write removal(std::string key) { return {std::move(key), std::nullopt, 0}; }

}  // namespace virga::test
