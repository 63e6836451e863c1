#include "model/host.h"

#include <algorithm>
#include <utility>

namespace virga {

void remember(LostCopies& lost, LostCopy copy) {
  std::erase_if(lost, [&](const LostCopy& older) { return older.host == copy.host; });
  lost.push_back(std::move(copy));
}

}  // namespace virga
